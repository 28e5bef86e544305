"""`al forget`: a picture and all that was said of it are nowhere afterwards, and do not come back."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner
from PIL import Image

from al_cli.forget import forget as command
from al_cli.ingest import ingest_files
from al_core.records import SELECTIONS, prediction_table, table_of, utc_now
from al_loop.claims import check_claims
from al_loop.forgetting import forget
from al_loop.labeling import merge_exports, publish_dataset
from al_loop.selecting import stage
from al_loop.trace import NotFound
from al_resources.labeling.answers import Answer, AnswerLog
from al_resources.labeling.staging import round_folder, staged_images
from al_resources.platform import Platform
from al_serving.collector import Collector, Prediction

ANNOTATOR = "ann-who-labeled"


@pytest.fixture
def files(platform: Platform, tmp_path: Path) -> dict[str, Path]:
    """Six pictures that went through a round, and of which there is a dataset: image id -> file."""
    found: dict[str, Path] = {}
    for number in range(6):
        file = tmp_path / "set" / f"holiday-{number}.png"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)).save(file)
        ingest_files(platform, [file], quiet=True)
        found[platform.images.put(file.read_bytes()).image_id] = file
    platform.predictions.append(predicted(list(found)))
    rows = [
        {"round": 0, "image_id": one, "image_uri": uri, "reason": "seed", "rank": rank}
        for rank, (one, uri) in enumerate(sorted(platform.images.items()))
    ]
    platform.ledgers.insert_new("selections", table_of(SELECTIONS, rows), ["image_id"])
    stage(platform, 0, platform.ledgers.read("selections"))
    platform.blobs.write("reports/0000/contact_sheet.png", b"all six")
    deliver(platform, "first", found)
    publish_dataset(platform, 0)
    return found


@pytest.fixture
def gone(files: dict[str, Path]) -> str:
    return sorted(files)[2]


def predicted(image_ids: list[str]) -> Any:
    return prediction_table(
        image_ids=image_ids,
        image_uris=[f"images/{one[:2]}/{one}.png" for one in image_ids],
        image_hashes=[None] * len(image_ids),
        model_name="digits",
        model_version=1,
        classes=["cat", "dog"],
        probs=np.full((len(image_ids), 2), 0.5, np.float32),
        source="online",
    )


def deliver(platform: Platform, name: str, images: Any, label: str = "cat") -> None:
    lines = [{"image_url": f"{one}.png", "label": label, "annotator": ANNOTATOR} for one in sorted(images)]
    platform.blobs.write(f"labeling/exports/{name}.jsonl", "\n".join(map(json.dumps, lines)).encode())
    merge_exports(platform, "", lambda line: None)


def broken(platform: Platform) -> list[Any]:
    return [claim for claim in check_claims(platform) if not claim.holds]


def test_it_is_in_no_store_afterwards_and_every_claim_holds(
    platform: Platform, files: dict[str, Path], gone: str
) -> None:
    picture = files[gone].read_bytes()
    done = forget(platform, gone)
    assert done == {
        "images": 1,
        "staged copies": 1,
        "answers on the labeling page": 0,
        "labels": 1,
        "selections": 1,
        "image names": 1,
        "predictions": 1,
        "embeddings": 0,
        "places in monitoring": 0,
    }
    kept = "labeling/exports/first.jsonl"  # as the tool wrote it
    for file in (one for one in platform.settings.home.rglob("*") if one.is_file() and not one.match(kept)):
        content = file.read_bytes()
        assert picture not in content, file
        assert files[gone].name.encode() not in content, file
    assert [image.image_id for image in staged_images(platform.blobs, 0)] == [
        one for one in sorted(files) if one != gone
    ]
    assert not platform.blobs.exists("reports/0000/contact_sheet.png")
    assert platform.ledgers.read("forgotten").columns == ["image_id", "export_id", "labels", "forgotten_at"]
    assert broken(platform) == []


def test_the_next_dataset_is_without_it(platform: Platform, files: dict[str, Path], gone: str) -> None:
    forget(platform, gone)
    later = publish_dataset(platform, 0)
    assert set(later.rows["image_id"]) == set(files) - {gone}
    assert broken(platform) == []


def test_neither_exports_nor_folders_nor_requests_bring_it_back(
    platform: Platform, files: dict[str, Path], gone: str
) -> None:
    forget(platform, gone)
    deliver(platform, "second", files, "dog")
    merge = platform.ledgers.read("exports").tail(1)
    assert merge["new_labels"].item() == 5
    assert "1 labels of images that `al forget` erased are left out" in merge["reason"].item()
    assert platform.ledgers.read("labels", image_id=gone).is_empty()
    assert ingest_files(platform, list(files.values()), quiet=True)["forgotten"] == 1
    with Collector.of(platform) as collector:
        row = {"image_hash": None, "model_name": "digits", "model_version": 1, "classes": ("cat", "dog")}
        probs = np.full(2, 0.5, np.float32)
        collector.offer(
            [
                Prediction(image=file.read_bytes(), image_id=one, probs=probs, source="online", **row)  # type: ignore[arg-type]
                for one, file in files.items()
            ]
        )
        assert collector.flush()
    assert platform.predictions.watermark().rows == 5 + 5
    assert broken(platform) == []


def test_the_same_export_again_is_the_same_export(platform: Platform, files: dict[str, Path], gone: str) -> None:
    forget(platform, gone)
    deliver(platform, "first-under-another-name", files)
    assert platform.ledgers.read("exports")["status"].to_list() == ["merged", "nothing_new"]
    assert platform.ledgers.read("exports")["export_id"].n_unique() == 1
    assert broken(platform) == []


@pytest.mark.parametrize("killed_at", range(4))
def test_an_erasure_that_was_interrupted_is_told_and_done_by_the_same_command(
    platform: Platform, gone: str, killed_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    calls = iter(range(9))
    erase = type(platform.ledgers).erase

    def erase_until_killed(self: Any, name: str, ids: Any) -> int:
        if next(calls) == killed_at:
            raise Killed
        return erase(self, name, ids)

    def killed(ids: Any) -> int:
        raise Killed

    with monkeypatch.context() as cut:
        cut.setattr(type(platform.ledgers), "erase", erase_until_killed)
        cut.setattr(platform.predictions, "erase", killed)
        with pytest.raises(Killed):
            forget(platform, gone)
    (claim,) = broken(platform)
    assert claim.claim == "what is forgotten is nowhere"
    assert f"type `al forget {gone}` again" in claim.contradictions[0]
    forget(platform, gone)
    assert broken(platform) == []


def test_what_people_said_of_it_on_the_page_goes_too(platform: Platform, files: dict[str, Path], gone: str) -> None:
    log = AnswerLog(platform.blobs, 0)
    for number, image_id in enumerate(sorted(files)):
        event = f"{number:08d}-0000-0000-0000-000000000000"
        at = datetime(2026, 1, 1, tzinfo=UTC)
        log.append(
            Answer(event_id=event, round=0, image_id=image_id, annotator="ann", kind="label", label="cat", at=at)
        )
    assert forget(platform, gone)["answers on the labeling page"] == 1
    left = AnswerLog(platform.blobs, 0)
    left.refresh()
    assert {answer.image_id for answer in left} == set(files) - {gone}


def test_what_is_back_after_all_is_told(platform: Platform, files: dict[str, Path], gone: str) -> None:
    forget(platform, gone)
    platform.images.put(files[gone].read_bytes())
    platform.predictions.append(predicted([gone]))
    platform.blobs.write(f"{round_folder(0)}/{gone}.png", b"a copy")
    (claim,) = broken(platform)
    for place in ("the image store", "predictions", f"{round_folder(0)}/{gone}.png"):
        assert place in claim.contradictions[0]
    assert forget(platform, gone)["predictions"] == 1
    assert broken(platform) == []


def test_a_later_dataset_that_has_it_is_told(platform: Platform, files: dict[str, Path], gone: str) -> None:
    forget(platform, gone)
    held = platform.datasets.latest()
    assert held is not None
    later = held.manifest.model_copy(update={"version": "f" * 16, "sequence": 2, "created_at": utc_now()})
    platform.datasets.publish(replace(held, manifest=later))
    (claim,) = broken(platform)
    assert claim.contradictions == (f"dataset {'f' * 16} was made after image {gone} was forgotten, and has it",)


def test_an_image_that_nobody_knows_is_nothing_to_forget(platform: Platform) -> None:
    with pytest.raises(NotFound, match="there is nothing to forget"):
        forget(platform, "ab" * 16)
    assert platform.ledgers.read("forgotten").is_empty()


def test_the_command_asks_first_and_takes_a_name(
    platform: Platform, files: dict[str, Path], gone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AL_HOME", str(platform.settings.home))
    refused = CliRunner().invoke(command, [files[gone].name], input="n\n")
    assert refused.exit_code != 0
    assert platform.images.exists(gone)
    told = CliRunner().invoke(command, [files[gone].name, "--yes", "--json"])
    assert json.loads(told.stdout)["image"] == gone
    assert not platform.images.exists(gone)
    again = CliRunner().invoke(command, [gone, "--yes"])
    assert "nothing was left of it" in again.stdout
    assert pl.Series(platform.ledgers.read("forgotten")["image_id"]).unique().to_list() == [gone]
