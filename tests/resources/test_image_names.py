"""Names live on: what an image was called when it came leads back to it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from resource_adapters import jsonl

from al_cli.ingest import ingest_files
from al_loop.trace import NotFound, trace
from al_resources.image_names import NameLog, own_names
from al_resources.labeling.merge import merge_export
from al_resources.platform import Platform


@pytest.fixture
def photo(platform: Platform, tmp_path: Path, png: bytes) -> str:
    """The id of an image that came as holiday/photo.png."""
    file = tmp_path / "holiday" / "photo.png"
    file.parent.mkdir()
    file.write_bytes(png)
    ingest_files(platform, [file], quiet=True)
    (image_id,) = platform.images.ids()
    return image_id


@pytest.mark.parametrize("name", ["photo.png", "holiday/photo.png", "PHOTO.PNG", "holiday\\photo.png", "photo"])
def test_an_image_is_traced_by_its_name(platform: Platform, photo: str, name: str) -> None:
    found = trace(platform, name)
    assert found["image"] == photo
    assert [Path(one).name for one in found["names"]] == ["photo.png"]


def test_a_name_that_nobody_knows_is_said_to_be_unknown(platform: Platform, photo: str) -> None:
    with pytest.raises(NotFound, match=r"'other\.png' is no model version .*; as a name: .*unknown here"):
        trace(platform, "other.png")


def test_an_export_may_name_an_image_as_its_owner_does(platform: Platform, photo: str) -> None:
    path = "labeling/exports/1.csv"
    platform.blobs.write(path, b"image,label\nholiday/photo.png,cat\n")
    merge = merge_export(platform.inbox, path)
    assert merge.new_labels == 1
    assert platform.ledgers.read("labels")["image_id"].to_list() == [photo]


def test_an_id_may_be_written_as_databases_write_128_bits(platform: Platform, photo: str) -> None:
    dashed = "-".join([photo[:8], photo[8:12], photo[12:16], photo[16:20], photo[20:]])
    for name in (dashed, dashed.upper(), f"{photo.upper()}.PNG", f"0a1b2c3d-{dashed}.png"):
        assert trace(platform, name)["image"] == photo
    with pytest.raises(NotFound, match="0a1b2c3d-0000-4000-8000-000000000000"):
        trace(platform, "0a1b2c3d-0000-4000-8000-000000000000")


def test_a_name_is_put_on_record_once(platform: Platform, photo: str) -> None:
    with NameLog(platform.ledgers, "score") as names:
        for _ in range(3):
            names.add("again.png", photo)
    assert [Path(name).name for name, _ in own_names(platform.ledgers)] == ["photo.png", "again.png"]


def test_two_images_of_one_name_are_ambiguous_and_told(platform: Platform, photo: str) -> None:
    with NameLog(platform.ledgers, "ingest") as names:
        names.add("/other/photo.png", "f" * 32)
    path = "labeling/exports/1.jsonl"
    platform.blobs.write(path, jsonl({photo: "cat"}) + b'{"image_url": "photo.png", "label": "dog"}\n')
    merge = merge_export(platform.inbox, path)
    assert (merge.new_labels, merge.set_aside) == (1, 1)
    assert "1 x image 'photo.png' is ambiguous: 2 images came under that name" in merge.reason


def test_a_name_in_no_utf_is_traced_as_it_is_typed(platform: Platform, tmp_path: Path, png: bytes) -> None:
    file = tmp_path / os.fsdecode(b"caf\xe9.png")
    file.write_bytes(png)
    ingest_files(platform, [file], quiet=True)
    found = trace(platform, os.fsdecode(b"caf\xe9.png"))
    assert [name.rpartition("/")[2] for name in found["names"]] == [r"caf\xe9.png"]
