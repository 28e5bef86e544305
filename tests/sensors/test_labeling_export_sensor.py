"""The sensor requests training for each export once; what it cannot use is put aside with the reason."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import dagster as dg
import polars as pl
import pytest
from dagster_runs import record_run, start_runs

from al_assets.checks import exports_were_taken
from al_core.records import SELECTIONS, table_of, utc_now
from al_loop.labeling import publish_dataset
from al_loop.status import progress
from al_resources.labeling.answers import Answer, AnswerLog
from al_resources.labeling.class_list import class_list
from al_resources.labeling.merge import merge_export
from al_resources.labeling.releases import release_round
from al_resources.labeling.staging import stage_round
from al_resources.platform import Platform
from sensors.labeling_exports import look_for_exports

IMAGES = [f"{number:032x}" for number in range(10)]


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as instance:
        yield instance


@pytest.fixture
def platform(platform: Platform) -> Platform:
    """Ten images were selected in rounds 0 (the first five) and 1."""
    rows = [
        {
            "round": number // 5, "image_id": image_id, "image_uri": f"images/{image_id}.png", "rank": number % 5,
            "reason": "strategy", "strategy": "margin", "seed": 0, "selected_at": utc_now(),
        }
        for number, image_id in enumerate(IMAGES)
    ]  # fmt: skip
    platform.ledgers.insert_new("selections", table_of(SELECTIONS, rows), on=["round", "image_id"])
    return platform


def coco(labels: dict[str, str]) -> bytes:
    """An export as a labeling tool writes it."""
    names = sorted(set(labels.values()))
    return json.dumps(
        {
            "images": [{"id": n, "file_name": f"0000/{image}.png"} for n, image in enumerate(labels, 1)],
            "annotations": [
                {"id": n, "image_id": n, "category_id": names.index(name)} for n, name in enumerate(labels.values(), 1)
            ],
            "categories": [{"id": n, "name": name} for n, name in enumerate(names)],
        }
    ).encode()


def export(platform: Platform, name: str, content: bytes) -> str:
    path = f"labeling/exports/{name}"
    platform.blobs.write(path, content)
    return path


def change(platform: Platform, section: str, **values: object) -> None:
    """Other settings for one test."""
    changed = getattr(platform.settings, section).model_copy(update=values)
    platform.settings = platform.settings.model_copy(update={section: changed})


def tick(
    platform: Platform, instance: dg.DagsterInstance, cursor: str | None = None, *, starts: bool = True
) -> dg.SensorResult:
    """One look, whose runs the daemon starts, unless they are lost or a test records its own."""
    result = look_for_exports(dg.build_sensor_context(instance=instance, cursor=cursor), platform)
    assert isinstance(result, dg.SensorResult)
    if starts:
        start_runs(instance, result)
    return result


def reason(result: dg.SensorResult) -> str:
    assert isinstance(result.skip_reason, dg.SkipReason)
    return result.skip_reason.skip_message or ""


def test_an_empty_inbox_is_no_reason_for_a_run(platform: Platform, instance: dg.DagsterInstance) -> None:
    assert reason(tick(platform, instance)) == "no new exports"


def test_a_new_export_requests_one_run_for_the_newest_round_it_brings_labels_for(
    platform: Platform, instance: dg.DagsterInstance
) -> None:
    path = export(platform, "a.json", coco({IMAGES[0]: "cat", IMAGES[7]: "dog"}))
    (request,) = tick(platform, instance).run_requests or []
    assert request.partition_key == "0001"
    assert request.run_key == f"{path}@{platform.blobs.info(path).etag}"
    assert request.run_config["ops"]["labeled_dataset"]["config"] == {"export": path}


def test_a_round_that_dagster_does_not_know_yet_is_opened_in_the_same_tick(
    platform: Platform, instance: dg.DagsterInstance
) -> None:
    export(platform, "a.json", coco({IMAGES[0]: "cat"}))
    (added,) = tick(platform, instance).dynamic_partitions_requests or []
    assert added.partition_keys == ["0000"]
    instance.add_dynamic_partitions("round", ["0000"])
    assert not tick(platform, instance).dynamic_partitions_requests


def test_the_next_tick_does_not_look_at_it_again(platform: Platform, instance: dg.DagsterInstance) -> None:
    export(platform, "a.json", coco({IMAGES[0]: "cat"}))
    first = tick(platform, instance)
    assert reason(tick(platform, instance, first.cursor)) == "no new exports"


@pytest.mark.parametrize("cursor", [None, "", "garbage", "{}", '{"watermark": 7}'])
def test_a_lost_or_broken_cursor_requests_the_same_run_key_and_after_the_merge_nothing(
    platform: Platform, instance: dg.DagsterInstance, cursor: str | None
) -> None:
    path = export(platform, "a.json", coco({IMAGES[0]: "cat"}))
    (first,) = tick(platform, instance).run_requests or []
    (again,) = tick(platform, instance, cursor).run_requests or []
    assert again.run_key == first.run_key
    merge_export(platform.inbox, path)
    assert not tick(platform, instance, cursor).run_requests


def test_the_same_labels_under_another_name_bring_nothing_new(platform: Platform, instance: dg.DagsterInstance) -> None:
    content = coco({IMAGES[0]: "cat"})
    path = export(platform, "a.json", content)
    merge_export(platform.inbox, path)
    export(platform, "b.json", content)
    assert "b.json brings no new labels" in reason(tick(platform, instance))
    assert platform.ledgers.read("labels").height == 1


def test_an_export_whose_labels_no_longer_stand_is_told_and_not_dropped(
    platform: Platform, instance: dg.DagsterInstance
) -> None:
    for name, label in (("a.json", "cat"), ("b.json", "dog")):
        path = export(platform, name, coco({IMAGES[0]: label}))
        merge_export(platform.inbox, path)
    export(platform, "c.json", coco({IMAGES[0]: "cat"}))
    said = reason(tick(platform, instance))
    assert "c.json brings no new labels" in said
    assert f"1 of its labels differ from what counts now ({IMAGES[0]}: cat then, dog now)" in said
    assert "al import --again" in said


def test_rows_set_aside_and_files_refused_stay_in_status_until_they_are_mended(platform: Platform) -> None:
    def merge(name: str, content: bytes) -> None:
        path = export(platform, name, content)
        merge_export(platform.inbox, path)

    change(platform, "labeling", classes=("cat",))
    merge("a.json", coco({IMAGES[0]: "cat", IMAGES[1]: "cta"}))
    merge("b.txt", b"hello")
    told = progress(platform)
    (aside,), (refused,) = told["set_aside"], told["quarantined"]
    assert (aside["path"], aside["set_aside"]) == ("labeling/exports/a.json", 1)
    assert "1 rows set aside: 1 x class 'cta' is not in labeling.classes; did they mean 'cat'?" in aside["reason"]
    assert refused["path"] == "labeling/exports/b.txt"
    merge("a.json", coco({IMAGES[0]: "cat", IMAGES[1]: "cat"}))
    platform.blobs.delete("labeling/exports/b.txt")
    told = progress(platform)
    assert (told["set_aside"], told["quarantined"]) == ([], [])


def test_a_file_whose_name_no_ledger_can_hold_is_told_and_stops_no_look(
    platform: Platform, instance: dg.DagsterInstance
) -> None:
    """Names on Linux are bytes; one in Latin-1 once ended every look at the inbox."""
    good = platform.settings.home / "blobs" / export(platform, "a.json", coco({IMAGES[0]: "cat"}))
    Path(os.fsdecode(os.fsencode(good.parent) + b"/caf\xe9.csv")).write_bytes(b"image,label\n1,cat\n")
    result = tick(platform, instance)
    assert len(result.run_requests or []) == 1
    merge_export(platform.inbox, "labeling/exports/a.json")
    name = r"labeling/exports/caf\xe9.csv"
    assert f"{name} cannot be read: its name is no UTF-8; rename it" in reason(tick(platform, instance, result.cursor))
    assert progress(platform)["unfit_exports"] == {name: "its name is no UTF-8; rename it"}


def test_a_file_that_may_not_be_read_is_told_and_stops_no_look(
    platform: Platform, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = export(platform, "a.json", coco({IMAGES[0]: "cat"}))
    good = export(platform, "b.json", coco({IMAGES[1]: "cat"}))
    read = platform.blobs.read

    def refuse(path: str) -> bytes:
        if path == closed:
            raise PermissionError(13, "Permission denied")
        return read(path)

    monkeypatch.setattr(platform.blobs, "read", refuse)
    result = tick(platform, instance)
    assert [request.tags["al/export"] for request in result.run_requests or []] == [good]
    merge_export(platform.inbox, good)
    assert f"{closed} cannot be read: Permission denied" in reason(tick(platform, instance, result.cursor))
    monkeypatch.undo()
    assert [request.tags["al/export"] for request in tick(platform, instance, result.cursor).run_requests or []] == [
        closed
    ]


def test_a_cumulative_export_is_a_run_for_what_it_adds(platform: Platform, instance: dg.DagsterInstance) -> None:
    path = export(platform, "a.json", coco({IMAGES[0]: "cat"}))
    merge_export(platform.inbox, path)
    export(platform, "b.json", coco({IMAGES[0]: "cat", IMAGES[1]: "dog"}))
    (request,) = tick(platform, instance).run_requests or []
    assert request.partition_key == "0000"


def test_an_answer_that_comes_after_the_training_is_trained_on_in_the_same_round(
    platform: Platform, instance: dg.DagsterInstance, png: bytes
) -> None:
    change(platform, "labeling", project="page", classes=("cat", "dog"))
    ids = [platform.images.put(png + bytes([number])).image_id for number in range(2)]
    rows = [
        {"round": 2, "image_id": one, "image_uri": platform.images.path_of(one), "rank": rank, "reason": "strategy"}
        for rank, one in enumerate(ids)
    ]
    platform.ledgers.insert_new("selections", table_of(SELECTIONS, rows), on=["round", "image_id"])
    stage_round(platform.blobs, platform.images, 2, pl.DataFrame(table_of(SELECTIONS, rows)))
    log, cursor, versions = AnswerLog(platform.blobs, 2), None, []
    for image_id, label in zip(ids, ("cat", "dog"), strict=True):
        said = {"image_id": image_id, "annotator": "ada", "kind": "label", "label": label}
        log.append(Answer(event_id=str(uuid4()), round=2, at=utc_now(), milliseconds=800, **said))  # type: ignore[arg-type]
        release = release_round(platform.blobs, 2, log, class_list(platform.blobs, platform.settings.labeling))
        result = tick(platform, instance, cursor)
        cursor = result.cursor
        (request,) = result.run_requests or []
        assert (request.partition_key, request.run_config["ops"]["labeled_dataset"]["config"]["export"]) == (
            "0002",
            release.path,
        )
        merge_export(platform.inbox, release.path)  # what the run does first: the first release is trained on now
        versions.append(publish_dataset(platform, 2))
    assert versions[0].manifest.version != versions[1].manifest.version
    assert dict(versions[1].rows.select("image_id", "label").iter_rows()) == dict(zip(ids, ("cat", "dog"), strict=True))


def test_a_half_written_export_is_waited_for_and_then_taken(platform: Platform, instance: dg.DagsterInstance) -> None:
    content = coco({IMAGES[0]: "cat"})
    export(platform, "a.json", content[:40])
    first = tick(platform, instance)
    assert "a.json is not complete yet" in reason(first)
    export(platform, "a.json", content)
    assert len(tick(platform, instance, first.cursor).run_requests or []) == 1


@pytest.mark.parametrize("content", [b"", b'{"images": ['])
def test_what_never_becomes_complete_goes_to_quarantine_with_the_reason(
    platform: Platform, instance: dg.DagsterInstance, content: bytes
) -> None:
    change(platform, "labeling", settle_seconds=0)
    export(platform, "a.json", content)
    first = tick(platform, instance)
    assert "not complete yet" in reason(first), "a first look cannot tell whether the file still changes"
    second = tick(platform, instance, first.cursor)
    assert "a.json was refused" in reason(second)
    (folder,) = (platform.settings.home / "blobs" / "labeling" / "quarantine").iterdir()
    assert (folder / "a.json").read_bytes() == content
    assert json.loads((folder / "reason.json").read_text())["reason"]
    assert reason(tick(platform, instance, second.cursor)) == "no new exports"
    assert platform.blobs.exists("labeling/exports/a.json"), "the original stays where it was"


def test_a_broken_export_does_not_hold_up_a_good_one(platform: Platform, instance: dg.DagsterInstance) -> None:
    export(platform, "bad.json", b'{"no": "coco"}')
    export(platform, "good.json", coco({IMAGES[0]: "cat"}))
    assert len(tick(platform, instance).run_requests or []) == 1
    assert platform.ledgers.read("exports")["status"].to_list() == ["quarantined"]


def test_a_refused_export_is_seen_on_the_page_of_the_dataset_and_a_mended_one_no_longer(
    platform: Platform, instance: dg.DagsterInstance
) -> None:
    path = export(platform, "bad.json", b'{"no": "coco"}')
    (told,) = tick(platform, instance).asset_events
    assert isinstance(told, dg.AssetCheckEvaluation)
    assert (told.asset_key, told.check_name) == (dg.AssetKey("labeled_dataset"), "exports_were_taken")
    assert not told.passed
    assert path in (told.description or "")
    merge_export(platform.inbox, export(platform, "bad.json", coco({IMAGES[0]: "cat"})))
    assert exports_were_taken(platform).passed


def test_a_tick_takes_a_bounded_number_and_the_next_ones_the_rest(
    platform: Platform, instance: dg.DagsterInstance
) -> None:
    change(platform, "sensors", exports_per_tick=2)
    for number in range(5):
        export(platform, f"{number}.json", coco({IMAGES[number]: "cat"}))
    keys: list[str] = []
    cursor = None
    for _ in range(3):
        result = tick(platform, instance, cursor)
        keys += [str(request.run_key) for request in result.run_requests or []]
        cursor = result.cursor
    assert len(keys) == len(set(keys)) == 5


def test_a_run_that_ended_before_the_merge_is_asked_for_again_and_at_last_left_to_a_person(
    platform: Platform, instance: dg.DagsterInstance
) -> None:
    path = export(platform, "a.json", coco({IMAGES[0]: "cat"}))
    key = f"{path}@{platform.blobs.info(path).etag}"
    result = tick(platform, instance, starts=False)
    for expected in (key, f"{key}#1", f"{key}#2"):
        (request,) = result.run_requests or []
        assert request.run_key == expected
        record_run(instance, request, dg.DagsterRunStatus.FAILURE)
        result = tick(platform, instance, result.cursor, starts=False)
    assert not result.run_requests
    assert f"{path} is not merged: 3 runs ended before" in reason(result)
    merge_export(platform.inbox, path)
    assert reason(tick(platform, instance, tick(platform, instance, result.cursor).cursor)) == "no new exports"


@pytest.mark.parametrize(
    ("status", "tags"),
    [
        (dg.DagsterRunStatus.STARTED, {}),
        (dg.DagsterRunStatus.STARTING, {}),
        (dg.DagsterRunStatus.FAILURE, {"dagster/will_retry": "true"}),
    ],
)
def test_a_run_that_is_at_work_or_about_to_be_retried_is_waited_for(
    platform: Platform, instance: dg.DagsterInstance, status: dg.DagsterRunStatus, tags: dict[str, str]
) -> None:
    export(platform, "a.json", coco({IMAGES[0]: "cat"}))
    first = tick(platform, instance, starts=False)
    record_run(instance, (first.run_requests or [])[0], status, **tags)
    assert not tick(platform, instance, first.cursor).run_requests
    (same,) = tick(platform, instance, None).run_requests or []
    assert same.run_key == (first.run_requests or [])[0].run_key, "Dagster knows it, and starts no second one"


def test_a_request_of_which_dagster_knows_no_run_is_made_again_under_its_key(
    platform: Platform, instance: dg.DagsterInstance
) -> None:
    """The record of the run was deleted, or the instance is a new one, before the labels were merged."""
    path = export(platform, "a.json", coco({IMAGES[0]: "cat"}))
    first = tick(platform, instance)
    assert not tick(platform, instance, first.cursor).run_requests
    for run in instance.get_runs():
        instance.delete_run(run.run_id)
    second = tick(platform, instance, first.cursor)
    assert [one.run_key for one in second.run_requests or []] == [one.run_key for one in first.run_requests or []]
    assert not tick(platform, instance, second.cursor).run_requests
    merge_export(platform.inbox, path)
    assert reason(tick(platform, instance, second.cursor)) == "no new exports"


def test_a_failed_run_whose_export_was_merged_is_not_asked_for_again(
    platform: Platform, instance: dg.DagsterInstance
) -> None:
    path = export(platform, "a.json", coco({IMAGES[0]: "cat"}))
    first = tick(platform, instance, starts=False)
    record_run(instance, (first.run_requests or [])[0], dg.DagsterRunStatus.FAILURE)
    merge_export(platform.inbox, path)
    assert not tick(platform, instance, first.cursor).run_requests
