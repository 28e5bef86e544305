"""Labels come in from files that exist, go out for other tools, and can be taken back: all by way of the inbox."""

from __future__ import annotations

import io
import json
import shutil
import threading
import tomllib
import zipfile
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest
from export_files import FOUR_TOOLS
from hypothesis import HealthCheck, given
from hypothesis import settings as law
from hypothesis import strategies as st
from PIL import Image

from al_assets.definitions import build_definitions
from al_cli.digits import digit_pngs
from al_cli.ingest import ingest_files
from al_core.class_folders import plain_class
from al_core.dataset import resolve_labels
from al_core.errors import GiveUp, InvalidInput
from al_core.learning.settings import TrainingSettings
from al_loop.exporting import export, labels_of
from al_loop.importing import deliver, plan_import, take_back
from al_loop.labeling import merge_exports, publish_dataset
from al_loop.status import progress
from al_resources.labeling.exports import ExportedLabel, parse_export
from al_resources.labeling.inbox import INBOX
from al_resources.labeling.writers import FILES, FOLDERS, FORMATS, to_folders
from al_resources.platform import Platform
from al_resources.settings import HoldoutSettings, LabelingSettings, SelectionSettings, Settings
from sensors.labeling_exports import look_for_exports
from sensors.selection_schedule import next_round, why_another_random_round


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


def test_a_reason_is_short_however_long_what_it_is_about(
    platform: Platform, pictures: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "1.csv").write_text(f"image,label\n0.png,cat\n{'x' * 70_000}.png,cat\n")
    facts = plan_import(platform, str(tmp_path / "1.csv")).facts
    (reason,) = facts["reasons"]
    assert ("is unknown here" in reason, len(reason) < 300) == (True, True)


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


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """A web server with one file of labels; its address."""
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "all labels.csv").write_text("image,label\n0.png,cat\n")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *words: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "web"))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_what_a_web_server_has_is_fetched_and_no_token_is_repeated(
    platform: Platform, pictures: dict[str, Path], web: str
) -> None:
    planned = plan_import(platform, f"http://ann:word@{web}/all%20labels.csv?token=hidden")
    assert (planned.facts["new"], planned.facts["source"]) == (1, f"http://{web}/all%20labels.csv")
    assert deliver(platform, planned).endswith("-all_20labels.csv")
    with pytest.raises(GiveUp, match="cannot be fetched: the server answers 404") as missing:
        plan_import(platform, f"http://{web}/none.csv?token=hidden")
    with pytest.raises(GiveUp, match="cannot be fetched: ConnectError; is the address right") as closed:
        plan_import(platform, "http://127.0.0.1:9/x.csv?token=hidden")
    assert "hidden" not in f"{missing.value} {closed.value}"


def test_what_was_mended_is_no_longer_counted_as_quarantined(platform: Platform, pictures: dict[str, Path]) -> None:
    platform.blobs.write(f"{INBOX}/x.csv", b"hello there")
    merge_exports(platform, "", print)
    assert progress(platform)["exports"] == {"quarantined": 1}
    platform.blobs.write(f"{INBOX}/x.csv", b"image,label\n0.png,cat\n9.png,dog\n")
    merge_exports(platform, "", print)
    facts = progress(platform)
    assert (facts["exports"], facts["quarantined"]) == ({"merged": 1}, [])
    assert [(one["path"], one["set_aside"]) for one in facts["set_aside"]] == [(f"{INBOX}/x.csv", 1)]


def test_of_all_that_wait_one_that_cannot_be_read_is_left_out_and_told(
    platform: Platform, pictures: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, image in (("a.csv", "0.png"), ("b.csv", "1.png")):
        platform.blobs.write(f"{INBOX}/{name}", f"image,label\n{image},cat\n".encode())
    read, told = platform.blobs.read, list[str]()

    def refuse(path: str) -> bytes:
        if path == f"{INBOX}/a.csv":
            raise PermissionError(13, "Permission denied")
        return read(path)

    monkeypatch.setattr(platform.blobs, "read", refuse)
    assert [merge.path for merge in merge_exports(platform, "", told.append)] == [f"{INBOX}/b.csv"]
    assert told[0] == f"{INBOX}/a.csv is left out: Permission denied"
    with pytest.raises(PermissionError):
        merge_exports(platform, f"{INBOX}/a.csv", told.append)


# ---------------------------------------------------------------------- from labels that exist to the loop
class Beginning:
    """A project with digits in its store whose answers are known, and jobs that run in this process."""

    def __init__(self, home: Path, instance: dg.DagsterInstance, count: int) -> None:
        self.instance = instance
        self.platform = Platform(
            Settings(
                home=home,
                labeling=LabelingSettings(project="manual"),
                selection=SelectionSettings(initial_budget=60),
                holdout=HoldoutSettings(reserve=0.4, share=0.3),
                training=TrainingSettings(architecture="small_cnn", image_size=16, channels=1, epochs=1),
            )
        )
        self.truth = {self.platform.images.put(png).image_id: label for png, label in digit_pngs()[:count]}
        self.cursor: str | None = None

    def bring(self, images: Collection[str], file: Path, **options: bool) -> dict[str, Any]:
        file.write_text("".join(["image,label\n", *(f"{image}.png,{self.truth[image]}\n" for image in images)]))
        planned = plan_import(self.platform, str(file), **options)
        deliver(self.platform, planned)
        return planned.facts

    def run(self, job: str, round_: int, config: Any = None) -> dict[str, Any]:
        definitions = build_definitions(self.platform)
        self.instance.add_dynamic_partitions("round", [f"{round_:04d}"])
        result = definitions.resolve_job_def(job).execute_in_process(
            partition_key=f"{round_:04d}", instance=self.instance, run_config=config
        )
        assert result.success
        asset = dg.AssetKey("labeled_dataset" if job == "training_deployment" else "selected_candidates")
        return dict(result.asset_materializations_for_node(asset.path[-1])[0].metadata)

    def sensor(self) -> dict[str, Any]:
        """What the export sensor asks for, run; the facts of the dataset."""
        context = dg.build_sensor_context(instance=self.instance, cursor=self.cursor)
        result = look_for_exports(context, self.platform)
        assert isinstance(result, dg.SensorResult)
        self.cursor = result.cursor
        (request,) = result.run_requests or []
        return self.run("training_deployment", int(str(request.partition_key)), request.run_config)

    def schedule(self) -> dg.RunRequest | dg.SkipReason:
        at = datetime(2026, 1, 5, tzinfo=UTC)
        return next_round(self.instance, self.platform, at, print)

    def splits(self) -> dict[str, int]:
        dataset = self.platform.datasets.latest()
        assert dataset is not None
        return {split: count for split, count in dataset.manifest.counts.items() if count}

    @property
    def champion(self) -> int | None:
        return self.platform.endpoint.state().serving_version


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Callable[[int], Beginning]]:
    with dg.instance_for_test() as instance:
        yield lambda count: Beginning(tmp_path / "project", instance, count)


def test_labels_that_people_chose_teach_and_the_random_rounds_that_follow_bring_the_judges(
    begin: Callable[[int], Beginning], tmp_path: Path
) -> None:
    """No holdout is no dead end: what is missing is said, asked for, and then the loop has its first champion."""
    project = begin(200)
    facts = project.bring(list(project.truth)[:60], tmp_path / "have.csv")
    assert (facts["new"], facts["sample"], facts["judging"]) == (60, None, 0)
    assert "60 are no random sample and judge nothing" in str(project.sensor()["labels that no round asked for"].value)
    assert project.splits().keys() == {"train", "validation"}
    assert project.champion is None
    request = project.schedule()
    assert isinstance(request, dg.RunRequest)
    assert "the holdout has 0 images" in str(why_another_random_round(project.platform))
    number = int(str(request.partition_key))
    project.run("selection", number)
    chosen = project.platform.ledgers.read("selections", round=number)["image_id"].to_list()
    assert len(chosen) == 60
    assert not set(chosen) & set(list(project.truth)[:60]), "nobody is asked again"
    project.bring(chosen, tmp_path / "asked.csv")
    project.sensor()
    assert project.splits()["holdout"] >= 10
    assert project.champion == 2


def test_where_every_image_is_labeled_the_reserved_ones_judge_and_the_first_model_serves(
    begin: Callable[[int], Beginning], tmp_path: Path
) -> None:
    project = begin(80)
    facts = project.bring(project.truth, tmp_path / "all.csv")
    reserved = project.platform.settings.holdout.judges.among(list(project.truth))
    assert (facts["sample"], facts["judging"]) == ("all", len(reserved))
    told = project.sensor()
    assert f"{len(reserved)} judge" in str(told["labels that no round asked for"].value)
    assert project.splits()["holdout"] == len(reserved)
    assert project.champion == 1


def test_a_random_sample_is_declared_and_stays_on_record(begin: Callable[[int], Beginning], tmp_path: Path) -> None:
    project = begin(120)
    images = list(project.truth)[:60]
    assert project.bring(images, tmp_path / "drawn.csv", random_sample=True)["sample"] == "random"
    merge_exports(project.platform, "", print)
    publish_dataset(project.platform, 0)
    reserved = project.platform.settings.holdout.judges.among(images)
    assert project.splits()["holdout"] == len(reserved)
    assert project.platform.ledgers.read("exports")["path"][0].startswith("labeling/exports/random-sample/")
    later = project.bring(images, tmp_path / "drawn.csv", random_sample=True)
    assert (later["declared"], later["taught_before"]) == (0, 60), "a split once given stays"


def test_four_tools_in_one_inbox_are_each_merged_and_trained_on(begin: Callable[[int], Beginning]) -> None:
    """In one process and one training; `test_readme.py` has a live instance with a run for each."""
    project = begin(80)
    names = {f"{image}.png": label for image, label in project.truth.items()}
    for number, (name, write) in enumerate(FOUR_TOOLS.items()):
        part = dict(list(names.items())[number::4])
        project.platform.blobs.write(f"{INBOX}/{name}", write(part))
    result = look_for_exports(dg.build_sensor_context(instance=project.instance), project.platform)
    assert isinstance(result, dg.SensorResult)
    asked = {str(request.run_key).partition("@")[0] for request in result.run_requests or []}
    assert asked == {f"{INBOX}/{name}" for name in FOUR_TOOLS}
    project.run("training_deployment", 0)
    exports = project.platform.ledgers.read("exports")
    assert set(exports["status"]) == {"merged"}
    assert set(exports["new_labels"]) == {20}
    assert project.champion == 1
    manifest = project.platform.registry.manifest(1)
    trained_on = project.platform.datasets.of_version(manifest.dataset_version)
    assert dict(trained_on.rows.select("image_id", "label").iter_rows()) == project.truth


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
    bring(platform, next(iter(pictures.values())).parent.parent)
    publish_dataset(platform, 0)
    with zipfile.ZipFile(io.BytesIO(export(platform, "ultralytics")[0])) as archive:
        assert {name.split("/")[0] for name in archive.namelist()} <= {"train", "val", "test"}


def test_nothing_labeled_is_nothing_to_export(platform: Platform) -> None:
    with pytest.raises(GiveUp, match="nothing is labeled yet"):
        export(platform, "csv")


# names that a spreadsheet, a shell, XML, a file system or another format would make something else of
TRICKY = st.sampled_from(
    ["a,b", 'say "hi"', "=1+1", "-x", "+y", "@z", "NA", "null", "nan", "None", "0", "1", "1.0", "TRUE", "007", "a;b",
     "#x", "a/b", "a\\b", "..", '{"choices": ["x"]}', "[1]", "<b>&amp;", "cat.jpg", "é", "train", "test", "data",
     "unlabeled", "skip", "label", "sep=,"]
)  # fmt: skip
TEXT = (
    (st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=6) | TRICKY).map(plain_class).filter(bool)
)
TOLD = {
    "image_id": st.integers(0, 5).map("{:032x}".format),
    "annotator": st.none() | TEXT,
    "labeled_at": st.none() | st.datetimes(datetime(2001, 1, 1)).map(lambda at: at.replace(tzinfo=UTC, fold=0)),
    "confidence": st.none() | st.floats(0, 1),
    "annotation_seconds": st.none() | st.floats(0, 1e6),
}
LABELS = st.builds(ExportedLabel, label=TEXT, **TOLD)
NO_LABELS = st.builds(ExportedLabel, label=st.none(), outcome=st.sampled_from(["skip", "bad"]), **TOLD)
LOSES = {"label-studio": ["confidence"]}  # it has no place for it


def written(answers: list[ExportedLabel], format_: str) -> bytes:
    if format_ in FILES:
        return FILES[format_][1](answers)
    splits = ("train", "validation", "holdout")
    split_of = {answer.image_id: splits[number % 3] for number, answer in enumerate(answers)}
    return to_folders(answers, lambda image: (".png", image.encode()), split_of if format_ == "ultralytics" else None)


@pytest.mark.parametrize("format_", FORMATS)
@law(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(labels=st.lists(LABELS, min_size=1, max_size=6), others=st.lists(NO_LABELS, max_size=2))
def test_every_label_that_goes_out_comes_in_again_or_is_refused_by_name(
    labels: list[ExportedLabel], others: list[ExportedLabel], format_: str
) -> None:
    """And every "unsure" and "bad picture" where the format has a place for them."""
    answers = [*labels, *others] if format_ in ("jsonl", "csv") else labels
    of_images = format_ in FOLDERS or FILES[format_][2]
    answers = list({(one.image_id, None if of_images else one.annotator): one for one in answers}.values())
    classes, there = {str(answer.label) for answer in labels}, {answer.image_id for answer in answers}
    try:
        data = written(answers, format_)
    except InvalidInput:
        assert format_ in ("cvat", *FOLDERS)
        return
    parsed = parse_export(data, "x", LabelingSettings(classes=tuple(classes)), lambda ids: there & set(ids))
    if of_images and format_ != "mltable":
        meant = [ExportedLabel(one.image_id, one.label) for one in answers]
    else:
        meant = [replace(one, **dict.fromkeys(LOSES.get(format_, ()))) for one in answers]
    assert sorted(map(str, parsed.labels)) == sorted(map(str, meant))
    assert parsed.set_aside == ()


@pytest.mark.parametrize("format_", FOLDERS)
@pytest.mark.parametrize(
    "classes", [("train", "cat"), ("unlabeled", "cat"), ("data", "cat"), ("Cat", "cat"), ("a.", "cat"), ("a\0b", "cat")]
)
def test_folders_that_would_be_other_classes_elsewhere_are_not_written(classes: tuple[str, str], format_: str) -> None:
    answers = [ExportedLabel(f"{number:032x}", name) for number, name in enumerate(classes)]
    if "train" in classes or ("data" in classes and format_ == "ultralytics"):
        assert written(answers, format_), "here nothing else it could be stands in its place"
        return
    with pytest.raises(InvalidInput, match="export csv, jsonl or coco"):
        written(answers, format_)


@pytest.mark.parametrize("columns", ["", ",confidence", ",annotator,confidence"])
def test_classes_called_0_and_1_are_no_table_of_one_column_a_class(columns: str) -> None:
    rows = [f"{number:032x}.png,{number}" + ",1" * columns.count(",") for number in (0, 1)]
    parsed = parse_export("\n".join([f"image,label{columns}", *rows, ""]).encode(), "x", LabelingSettings(), set)
    assert sorted(str(label.label) for label in parsed.labels) == ["0", "1"]


def test_skips_and_bad_images_go_out_and_come_in(platform: Platform, pictures: dict[str, Path], tmp_path: Path) -> None:
    rows = [{"image_url": f"{n}.png", "label": None, "outcome": outcome} for n, outcome in enumerate(["skip", "bad"])]
    (tmp_path / "1.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    bring(platform, tmp_path / "1.jsonl")
    assert progress(platform)["labels"] == 0, "answered, and no label"
    before = labels_of(platform, one_an_image=False)
    parsed = parse_export(export(platform, "jsonl")[0], "x", LabelingSettings(), set)
    assert {(one.image_id, one.outcome) for one in parsed.labels} == {(one.image_id, one.outcome) for one in before}


# ---------------------------------------------------------------------- the commands
@pytest.mark.parametrize("pack", ["zip", "gztar"])
def test_an_archive_brings_its_pictures_along(
    tmp_path: Path, pictures: dict[str, Path], al: Callable[..., Any], pack: str
) -> None:
    """As Roboflow hands out a project: pictures, their labels beside them, and names that are its own."""
    home, folder = tmp_path / "home", next(iter(pictures.values())).parent.parent
    (folder / "train").mkdir()
    for file in pictures.values():
        (folder / "train" / f"{file.stem}_{file.parent.name}.png").write_bytes(file.read_bytes())
    for name in ("cat", "dog"):
        shutil.rmtree(folder / name)
    rows = [f"{file.stem}_{file.parent.name}.png, {int(file.parent.name == 'cat')}, {int(file.parent.name == 'dog')}"
            for file in pictures.values()]  # fmt: skip
    (folder / "train" / "_classes.csv").write_text("\n".join(["filename, cat, dog", *rows, ""]))
    archive = shutil.make_archive(str(tmp_path / "project"), pack, folder)
    assert al("init", str(home), "--class", "cat", "--class", "dog").returncode == 0
    config = home / "al.toml"
    (would,) = json.loads(al("import", archive, "--ingest", "--dry-run", "--json", config=config).stdout)
    assert (would["new"], would["stored"], would["classes"]) == (6, None, {"cat": 3, "dog": 3})
    (done,) = json.loads(al("import", archive, "--ingest", "--json", config=config).stdout)
    assert (done["new"], done["stored"]["added"]) == (6, 6)
    found = json.loads(al("trace", "0_cat.png", "--json", config=config).stdout)
    assert found["names"] == [f"{archive}/train/0_cat.png"]


def test_the_commands_from_init_to_a_file_for_another_tool(
    tmp_path: Path, pictures: dict[str, Path], al: Callable[..., Any]
) -> None:
    home = tmp_path / "home"
    folder = next(iter(pictures.values())).parent.parent
    assert al("init", str(home), "--class", "cat", "--class", "dog", "--class", "🍎").returncode == 0
    config = home / "al.toml"
    assert tomllib.loads(config.read_text())["labeling"]["classes"] == ["cat", "dog", "🍎"]
    assert (home / "data" / "blobs" / "labeling" / "exports").is_dir()
    assert "names no class" in al("init", str(home), "--class", " ").stderr
    again = al("init", str(home), "--class", "bird").stdout
    assert "--class was not used" in again

    dry = al("import", str(folder), "--dry-run", config=config)
    assert dry.returncode == 1
    assert "unknown here" in dry.stderr, "the pictures are not in the store yet"
    would = json.loads(al("import", str(folder), "--ingest", "--dry-run", "--json", config=config).stdout)
    assert (would[0]["new"], would[0]["delivered"]) == (6, None)
    assert not (home / "data" / "blobs" / "images").exists()
    (folder / "cat" / "half.png").write_bytes((folder / "cat" / "0.png").read_bytes()[:90])
    (done,) = json.loads(al("import", str(folder), "--ingest", "--json", config=config).stdout)
    assert (done["new"], done["set_aside"], done["delivered"].startswith("labeling/exports/imports/")) == (6, 1, True)
    assert [Path(name).name for name in done["stored"]["reasons"]] == ["half.png"]
    assert "nothing is labeled yet" in al("export", str(tmp_path / "x.jsonl"), config=config).stderr
