"""Scoring many files: nothing scored twice, nothing stopped by one bad file, everything on record."""

from __future__ import annotations

import os
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image
from serving_stores import png
from small_models import register_model

from al_core.images import content_id
from al_resources.platform import Platform
from al_serving.batch import (
    CHUNK,
    BatchProgress,
    BatchSummary,
    NamedFile,
    NoImages,
    files_of_folder,
    files_of_store,
    score_files,
)
from al_serving.collector import Collector
from al_serving.scoring import Scorer


def scored(platform: Platform, files: list[NamedFile], seen: list[BatchProgress] | None = None) -> BatchSummary:
    version = register_model(platform)
    with Collector.of(platform) as collector:
        scorer = Scorer.of(platform, platform.registry.fetch(version), collector)
        return score_files(scorer, files, collector, (seen if seen is not None else []).append)


def test_every_image_of_a_folder_is_scored_and_logged(platform: Platform, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    count = 2 * CHUNK + 5
    for number in range(count):
        path = folder / str(number % 3) / f"{number:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number))
    seen: list[BatchProgress] = []
    summary = scored(platform, files_of_folder(folder), seen)
    assert (summary.files, summary.scored) == (count, count)
    assert [progress.done for progress in seen] == [CHUNK, 2 * CHUNK, count]
    answers = [answer for progress in seen for answer in progress.answers]
    assert [answer["filename"] for answer in answers] == [file.name for file in files_of_folder(folder)]
    assert answers[0]["image_id"] == content_id(png(0))
    assert platform.predictions.watermark().rows == count
    rows = platform.predictions.rows_of([content_id(png(7))], ["source", "image_uri", "model_version"]).to_pylist()
    assert [(row["source"], row["model_version"]) for row in rows] == [("batch", 1)]
    assert platform.images.read(rows[0]["image_uri"]) == png(7)


def test_what_else_lies_in_the_folder_is_told_and_a_name_in_no_utf_is_scored(
    platform: Platform, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    (folder / ".ipynb_checkpoints").mkdir(parents=True)
    for name in (b"caf\xe9.png", b".ipynb_checkpoints/1.png", b"notes.txt"):
        (folder / os.fsdecode(name)).write_bytes(png(1) if name.endswith(b"png") else b"x")
    (folder / "broken.png").write_bytes(b"x")
    told: list[str] = []
    files = files_of_folder(folder, told.append)
    summary = scored(platform, files)
    assert [file.name for file in files] == ["broken.png", r"caf\xe9.png"]
    assert (summary.scored, list(summary.refused)) == (1, ["broken.png"])
    assert told == ["1 files passed over: .txt", "1 files passed over: hidden"]


def test_the_same_picture_under_two_names_is_scored_once_and_both_are_answered(
    platform: Platform, tmp_path: Path
) -> None:
    names = {"a.png": 1, "b.png": 2, "again/a.png": 1}
    for name, number in names.items():
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(png(number))
    seen: list[BatchProgress] = []
    summary = scored(platform, files_of_folder(tmp_path / "in"), seen)
    assert summary.scored == 2
    assert summary.duplicates == {"again/a.png": "a.png"}
    assert {"filename": "again/a.png", "same_as": "a.png"} in seen[0].answers
    assert platform.predictions.watermark().rows == 2


def test_broken_files_are_named_put_on_record_and_skipped(platform: Platform, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    large = BytesIO()
    Image.new("L", (10_000, 10_000)).save(large, "PNG")
    broken = {"empty.png": b"", "cut.png": png(1)[:40], "text.jpg": b"hello", "large.png": large.getvalue()}
    for name, data in {"good.png": png(2), **broken}.items():
        (folder / name).write_bytes(data)
    summary = scored(platform, files_of_folder(folder))
    assert summary.scored == 1
    assert set(summary.refused) == set(broken)
    ledger = platform.ledgers.read("rejected_images")
    assert {name.split(" ")[0] for name in ledger["name"]} == set(broken)
    assert set(ledger["source"]) == {"batch"}


def test_a_file_that_vanishes_while_the_batch_runs_is_skipped(platform: Platform, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.png").write_bytes(png(number))
    files = files_of_folder(folder)
    (folder / "1.png").unlink()
    summary = scored(platform, files)
    assert summary.scored == 2
    assert "cannot be read" in summary.refused["1.png"]


def test_a_folder_without_images_says_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("none here")
    with pytest.raises(NoImages, match=r"holds no image: looked for .*\.png"):
        files_of_folder(tmp_path)
    with pytest.raises(NoImages, match="is no folder"):
        files_of_folder(tmp_path / "missing")


def test_a_folder_of_the_blob_store_is_scored_too(platform: Platform) -> None:
    for number in range(3):
        platform.blobs.write(f"incoming/{number}.png", png(number))
    platform.blobs.write("incoming/readme.txt", b"no image")
    assert scored(platform, files_of_store(platform.blobs, "incoming")).scored == 3
    with pytest.raises(NoImages):
        files_of_store(platform.blobs, "elsewhere")


def test_names_that_are_no_valid_text_are_scored(platform: Platform, tmp_path: Path) -> None:
    """A file name on Linux is any bytes."""
    files = [NamedFile("\udcff.png", lambda: png(1)), NamedFile("\udcfe.png", lambda: b"broken")]
    summary = scored(platform, files)
    assert (summary.scored, len(summary.refused)) == (1, 1)
