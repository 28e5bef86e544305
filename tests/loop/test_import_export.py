"""Labels come in from files that exist, go out for other tools, and can be taken back: all by way of the inbox."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomllib
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from al_cli.ingest import ingest_files
from al_core.dataset import resolve_labels
from al_core.errors import GiveUp
from al_loop.exporting import export, labels_of
from al_loop.importing import deliver, plan_import, take_back
from al_loop.labeling import merge_exports
from al_loop.status import progress
from al_resources.labeling.exports import ExportedLabel, parse_export
from al_resources.labeling.writers import FILES, FORMATS
from al_resources.platform import Platform
from al_resources.settings import LabelingSettings


@pytest.fixture
def pictures(platform: Platform, tmp_path: Path) -> dict[str, Path]:
    """Six pictures of a folder, three a class, in the store: image id -> file."""
    found = {}
    for number in range(6):
        file = tmp_path / "set" / ("cat" if number < 3 else "dog") / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(noise).save(file)
        ingest_files(platform, [file], quiet=True)
        found[platform.images.put(file.read_bytes()).image_id] = file
    return found


def truth(pictures: dict[str, Path]) -> dict[str, str]:
    return {image_id: file.parent.name for image_id, file in pictures.items()}


def bring(platform: Platform, source: str | Path, **options: bool) -> dict[str, Any]:
    planned = plan_import(platform, str(source), **options)
    deliver(platform, planned)
    merge_exports(platform, "", print)
    return planned.facts


def counting(platform: Platform) -> dict[str, str]:
    return dict(resolve_labels(platform.ledgers.read("labels")).select("image_id", "label").iter_rows())


def test_a_project_may_begin_with_a_folder_of_labeled_pictures(platform: Platform, pictures: dict[str, Path]) -> None:
    facts = bring(platform, next(iter(pictures.values())).parent.parent)
    assert (facts["format"], facts["new"], facts["classes"]) == ("class folders in a folder", 6, {"cat": 3, "dog": 3})
    assert facts["of_chosen_images"] == 0, "said to be no random sample"
    assert counting(platform) == truth(pictures)


def test_a_dry_run_says_what_would_be_new_changed_and_unknown_and_writes_nothing(
    platform: Platform, pictures: dict[str, Path], tmp_path: Path
) -> None:
    file = tmp_path / "labels.csv"
    file.write_text("image,label\n0.png,cat\n1.png,cat\n")
    bring(platform, file)
    file.write_text("image,label\n0.png,dog\n1.png,cat\n2.png,cat\n9.png,cat\n3.png,\n")
    facts = plan_import(platform, str(file)).facts
    assert (facts["matched"], facts["new"], facts["changed"], facts["unchanged"]) == (3, 1, 1, 1)
    assert (facts["set_aside"], facts["unlabeled"]) == (1, 1)
    assert "'9' is unknown here" in next(iter(facts["reasons"]))
    assert len(list(platform.blobs.list("labeling/exports"))) == 1


def test_the_same_file_again_is_the_same_and_an_older_state_counts_when_asked_for(
    platform: Platform, pictures: dict[str, Path], tmp_path: Path
) -> None:
    first, second = tmp_path / "1.csv", tmp_path / "2.csv"
    first.write_text("image,label\n0.png,cat\n")
    second.write_text("image,label\n0.png,dog\n")
    bring(platform, first)
    bring(platform, second)
    assert set(counting(platform).values()) == {"dog"}
    facts = bring(platform, first)
    assert (facts["new"], facts["changed"]) == (0, 0)
    assert facts["differing"][0].endswith("cat then, dog now")
    assert bring(platform, first, again=True)["changed"] == 1
    assert set(counting(platform).values()) == {"cat"}


def test_a_full_export_takes_back_what_its_annotators_no_longer_say(
    platform: Platform, pictures: dict[str, Path], tmp_path: Path
) -> None:
    rows = [{"image": f"{n}.png", "label": "cat", "annotator": "ann" if n < 3 else "bob"} for n in range(4)]
    (tmp_path / "1.json").write_text(json.dumps(rows))
    bring(platform, tmp_path / "1.json")
    (tmp_path / "2.json").write_text(json.dumps(rows[:1]))
    assert bring(platform, tmp_path / "2.json")["taken_back"] == 0
    assert bring(platform, tmp_path / "2.json", complete=True)["taken_back"] == 2
    assert len(counting(platform)) == 2, "ann's first, and bob's, who is not in the export"


def test_answers_are_taken_back_by_name_and_leave_the_next_dataset(
    platform: Platform, pictures: dict[str, Path], tmp_path: Path
) -> None:
    from al_loop.labeling import publish_dataset

    folder = next(iter(pictures.values())).parent.parent
    bring(platform, folder)
    assert publish_dataset(platform, 0).rows.height == 6
    take_back(platform, ["set/cat/0.png", next(reversed(pictures))])
    merge_exports(platform, "", print)
    assert len(counting(platform)) == 4
    assert publish_dataset(platform, 0).rows.height == 4


@pytest.mark.parametrize("source", ["missing.json", "memory://nowhere/x.json"])
def test_a_source_that_is_not_there_is_said_in_a_sentence(platform: Platform, source: str) -> None:
    with pytest.raises(GiveUp, match=r"missing\.json|cannot be fetched"):
        plan_import(platform, source)


def test_an_address_is_fetched(platform: Platform, pictures: dict[str, Path]) -> None:
    import fsspec

    with fsspec.open("memory://bucket/labels.csv", "wb") as file:
        file.write(b"image,label\n0.png,cat\n")
    assert plan_import(platform, "memory://bucket/labels.csv").facts["new"] == 1


# ---------------------------------------------------------------------- round trips
@pytest.mark.parametrize("format_", FORMATS)
def test_what_goes_out_comes_in_again(platform: Platform, pictures: dict[str, Path], format_: str) -> None:
    bring(platform, next(iter(pictures.values())).parent.parent)
    data, count = export(platform, format_)
    assert count == 6
    parsed = parse_export(data, "x", LabelingSettings(), lambda ids: pictures.keys() & set(ids))
    assert {label.image_id: label.label for label in parsed.labels} == truth(pictures)
    assert parsed.set_aside == ()


def test_ultralytics_gets_its_train_and_val_and_test(platform: Platform, pictures: dict[str, Path]) -> None:
    from al_loop.labeling import publish_dataset

    bring(platform, next(iter(pictures.values())).parent.parent)
    publish_dataset(platform, 0)
    with zipfile.ZipFile(io.BytesIO(export(platform, "ultralytics")[0])) as archive:
        assert {name.split("/")[0] for name in archive.namelist()} <= {"train", "val", "test"}


def test_nothing_labeled_is_nothing_to_export(platform: Platform) -> None:
    with pytest.raises(GiveUp, match="nothing is labeled yet"):
        export(platform, "csv")


TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp", "Zs", "Co", "Cn")), min_size=1, max_size=6)
ANSWERS = st.lists(
    st.builds(
        ExportedLabel,
        image_id=st.integers(0, 5).map("{:032x}".format),
        label=TEXT,
        annotator=st.none() | TEXT,
        labeled_at=st.none()
        | st.datetimes(datetime(2001, 1, 1)).map(lambda at: at.replace(tzinfo=timezone.utc, fold=0)),
        confidence=st.none() | st.floats(0, 1),
        annotation_seconds=st.none() | st.floats(0, 1e6),
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda label: (label.image_id, label.annotator),
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(answers=ANSWERS, format_=st.sampled_from(["jsonl", "coco", "csv"]))
def test_formats_with_a_place_for_it_lose_nothing(answers: list[ExportedLabel], format_: str) -> None:
    from al_resources.labeling.exports import plain_class

    data = FILES[format_][1](answers)
    parsed = parse_export(data, "x", LabelingSettings(), set)
    meant = [replace(answer, label=plain_class(str(answer.label))) for answer in answers]
    assert sorted(map(str, parsed.labels)) == sorted(map(str, meant))


def test_skips_and_bad_images_go_out_and_come_in(platform: Platform, pictures: dict[str, Path], tmp_path: Path) -> None:
    rows = [{"image_url": f"{n}.png", "label": None, "outcome": outcome} for n, outcome in enumerate(["skip", "bad"])]
    (tmp_path / "1.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    bring(platform, tmp_path / "1.jsonl")
    assert progress(platform)["labels"] == 0, "answered, and no label"
    before = labels_of(platform, one_an_image=False)
    parsed = parse_export(export(platform, "jsonl")[0], "x", LabelingSettings(), set)
    assert {(one.image_id, one.outcome) for one in parsed.labels} == {(one.image_id, one.outcome) for one in before}


# ---------------------------------------------------------------------- the commands
def test_the_commands_from_init_to_a_file_for_another_tool(
    tmp_path: Path, pictures: dict[str, Path], al: Callable[..., Any]
) -> None:
    home = tmp_path / "home"
    folder = next(iter(pictures.values())).parent.parent
    assert al("init", str(home), "--class", "cat", "--class", "dog", "--class", "🍎").returncode == 0
    config = home / "al.toml"
    assert tomllib.loads(config.read_text())["labeling"]["classes"] == ["cat", "dog", "🍎"]
    assert (home / "data" / "blobs" / "labeling" / "exports").is_dir()
    again = al("init", str(home), "--class", "bird").stdout
    assert "--class was not used" in again

    dry = al("import", str(folder), "--dry-run", config=config)
    assert dry.returncode == 1
    assert "unknown here" in dry.stderr, "the pictures are not in the store yet"
    would = json.loads(al("import", str(folder), "--ingest", "--dry-run", "--json", config=config).stdout)
    assert (would[0]["new"], would[0]["delivered"]) == (6, None)
    assert not (home / "data" / "blobs" / "images").exists()
    done = json.loads(al("import", str(folder), "--ingest", "--json", config=config).stdout)
    assert (done[0]["new"], done[0]["delivered"].startswith("labeling/exports/imports/")) == (6, True)
    assert "nothing is labeled yet" in al("export", str(tmp_path / "x.jsonl"), config=config).stderr
