"""Staging images for people, and the oracle that answers in their place."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
import pytest
from PIL import Image
from resource_adapters import image

from al_core.records import SELECTIONS, table_of
from al_loop.selecting import stage
from al_resources.blobs import BlobStore
from al_resources.image_names import NameLog, first_names, own_names
from al_resources.image_store import ImageStore, StoredImage
from al_resources.labeling.formats.contract import Row
from al_resources.labeling.inbox import Inbox
from al_resources.labeling.merge import merge_export
from al_resources.labeling.names import ImageNames
from al_resources.labeling.projects.manual import ManualLabeling
from al_resources.labeling.projects.oracle import OracleLabeling
from al_resources.labeling.staging import is_staged, stage_round, staged_images
from al_resources.ledgers.delta import DeltaLedgers
from al_resources.platform import Platform
from al_resources.settings import LabelingSettings


@pytest.fixture
def images(blobs: BlobStore) -> ImageStore:
    return ImageStore(blobs)


@pytest.fixture
def stored(images: ImageStore) -> list[StoredImage]:
    return pictures(images)


def pictures(images: ImageStore) -> list[StoredImage]:
    pictures = []
    for number in range(4):
        buffer = io.BytesIO()
        Image.fromarray(np.full((4, 4), number, np.uint8)).save(buffer, "PNG")
        pictures.append(images.put(buffer.getvalue()))
    return pictures


def chosen(stored: list[StoredImage]) -> pl.DataFrame:
    rows = [
        {"round": 3, "image_id": one.image_id, "image_uri": one.uri, "rank": rank, "reason": "strategy"}
        for rank, one in enumerate(stored)
    ]
    return pl.DataFrame(table_of(SELECTIONS, rows))


def test_a_round_is_staged_with_a_manifest_that_names_every_image(
    blobs: BlobStore, images: ImageStore, stored: list[StoredImage]
) -> None:
    assert not is_staged(blobs, 3)
    staged = stage_round(blobs, images, 3, chosen(stored))
    assert (staged.folder, staged.images, staged.missing) == ("labeling/input/0003", 4, ())
    assert is_staged(blobs, 3)
    named = staged_images(blobs, 3)
    assert [one.image_id for one in named] == [one.image_id for one in stored]
    assert [one.rank for one in named] == [0, 1, 2, 3]
    for one in named:
        assert blobs.read(f"{staged.folder}/{one.file_name}") == images.read(one.image_uri)


def test_staging_again_changes_nothing(blobs: BlobStore, images: ImageStore, stored: list[StoredImage]) -> None:
    first = stage_round(blobs, images, 3, chosen(stored))
    before = {blob.path: blobs.read(blob.path) for blob in blobs.list(first.folder)}
    assert stage_round(blobs, images, 3, chosen(stored)) == first
    assert {blob.path: blobs.read(blob.path) for blob in blobs.list(first.folder)} == before


def test_an_image_whose_file_is_gone_is_named_and_the_others_are_staged(
    blobs: BlobStore, images: ImageStore, stored: list[StoredImage]
) -> None:
    blobs.delete(images.path_of(stored[1].image_id))
    staged = stage_round(blobs, images, 3, chosen(stored))
    assert (staged.images, staged.missing) == (3, (stored[1].image_id,))
    manifest = json.loads(blobs.read(f"{staged.folder}/_manifest.json"))
    assert manifest["missing"] == [stored[1].image_id]


def test_the_oracle_answers_what_it_knows_in_an_export_that_merges(
    blobs: BlobStore, images: ImageStore, stored: list[StoredImage], tmp_path: Path
) -> None:
    stage_round(blobs, images, 3, chosen(stored))
    oracle = OracleLabeling(blobs, {one.image_id: "cat" for one in stored[:3]})
    assert (oracle.status(3).total, oracle.status(3).labeled) == (4, 0)
    path = oracle.answer(3)
    assert path == "labeling/exports/0003-oracle.json"
    assert (oracle.status(3).total, oracle.status(3).labeled) == (4, 3)
    ledgers = DeltaLedgers(tmp_path / "tables")
    ledgers.insert_new("selections", chosen(stored).to_arrow().cast(SELECTIONS), ["image_id"])
    merge = merge_export(Inbox(blobs, ledgers, images, LabelingSettings()), path)
    assert (merge.round, merge.new_labels, merge.set_aside) == (3, 3, 0)
    assert ledgers.read("labels")["annotator"].unique().to_list() == ["oracle"]
    manual = ManualLabeling(blobs, ledgers)
    assert (manual.status(3).total, manual.status(3).labeled) == (4, 3)


def test_the_oracle_answers_each_round_once_and_always_in_the_same_bytes(
    blobs: BlobStore, images: ImageStore, stored: list[StoredImage], tmp_path: Path
) -> None:
    for round_ in (0, 1):
        stage_round(blobs, images, round_, chosen(stored))
    file = tmp_path / "labels.json"
    file.write_text(json.dumps({one.image_id: "cat" for one in stored}))
    oracle = OracleLabeling.from_file(blobs, file)
    assert len(oracle.answer_all()) == 2
    assert oracle.answer_all() == []
    before = blobs.read("labeling/exports/0001-oracle.json")
    oracle.answer(1)
    assert blobs.read("labeling/exports/0001-oracle.json") == before


def test_an_oracle_that_knows_nothing_writes_nothing_that_could_be_refused(
    blobs: BlobStore, images: ImageStore, stored: list[StoredImage], tmp_path: Path
) -> None:
    stage_round(blobs, images, 0, chosen(stored))
    assert OracleLabeling(blobs, {image(1): "cat"}).answer_all() == []
    assert OracleLabeling.from_file(blobs, tmp_path / "missing.json").answer_all() == []
    assert list(blobs.list("labeling/exports")) == []


def test_staged_files_carry_a_persons_own_name_behind_the_id_and_lead_back(platform: Platform) -> None:
    one, other, odd, nameless = stored = pictures(platform.images)
    with NameLog(platform.ledgers, "ingest") as names:
        names.add("/photos/Käse, 3 (copy).PNG", one.image_id)
        names.add("C:\\pictures\\cow.png", other.image_id)
        names.add(f"{one.image_id}.png", odd.image_id)  # what would name two images
    staged = stage_round(
        platform.blobs, platform.images, 3, chosen(stored), first_names(platform.ledgers, {i.image_id for i in stored})
    )
    files = [image.file_name for image in staged_images(platform.blobs, 3)]
    assert files == [
        f"{one.image_id}_Käse_3_copy.png",
        f"{other.image_id}_cow.png",
        f"{odd.image_id}.png",
        f"{nameless.image_id}.png",
    ]
    assert all(platform.blobs.exists(f"{staged.folder}/{file}") for file in files)
    found = ImageNames(lambda ids: ids, lambda: own_names(platform.ledgers)).match([Row(f, None, None) for f in files])
    assert [match.image_id for match in found] == [image.image_id for image in stored]


def test_a_name_that_came_after_a_round_was_staged_moves_no_file(platform: Platform) -> None:
    stored = pictures(platform.images)
    stage_round(platform.blobs, platform.images, 3, chosen(stored))
    before = sorted(blob.path for blob in platform.blobs.list("labeling/input"))
    stage_round(platform.blobs, platform.images, 3, chosen(stored), {stored[0].image_id: "late.png"})
    assert sorted(blob.path for blob in platform.blobs.list("labeling/input")) == before


@pytest.mark.parametrize(("setting", "ending"), [("id", ""), ("own", "_photo")])
def test_the_setting_decides_what_staged_files_are_called(
    platform: Platform, setting: Literal["id", "own"], ending: str
) -> None:
    labeling = platform.settings.labeling.model_copy(update={"staged_names": setting})
    platform = Platform(platform.settings.model_copy(update={"labeling": labeling}))
    stored = pictures(platform.images)
    with NameLog(platform.ledgers, "ingest") as names:
        names.add("holiday/photo.png", stored[0].image_id)
    with NameLog(platform.ledgers, "ingest") as names:
        names.add("holiday/later.png", stored[0].image_id)
    stage(platform, 3, chosen(stored[:1]))
    assert [one.file_name for one in staged_images(platform.blobs, 3)] == [f"{stored[0].image_id}{ending}.png"]
