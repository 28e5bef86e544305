"""From the inbox to the label ledger: each label once, however often and under whatever name it comes."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import export_files
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from resource_adapters import LEDGER_STORES, coco, image, jsonl

from al_core.answers import answered
from al_core.dataset import resolve_labels
from al_core.records import SELECTIONS, table_of, utc_now
from al_resources.blobs import BlobInfo
from al_resources.blobs.local import FsspecBlobStore
from al_resources.image_store import ImageStore
from al_resources.labeling import merge as merge_module
from al_resources.labeling.inbox import INBOX, Inbox
from al_resources.labeling.look import InboxCursor, Look, look
from al_resources.labeling.merge import Merge, carry_out, merge_export, plan_merge
from al_resources.ledgers import Ledgers
from al_resources.ledgers.delta import DeltaLedgers
from al_resources.settings import LabelingSettings


class Desk:
    """Blob store, ledgers and settings of one loop, with ten images selected in rounds 0 and 1."""

    def __init__(self, folder: Path, ledgers: Ledgers | None = None, **labeling: Any) -> None:
        self.blobs = FsspecBlobStore(folder / "blobs")
        self.ledgers = ledgers or DeltaLedgers(folder / "tables")
        self.images = ImageStore(self.blobs)
        self.settings = LabelingSettings(**labeling)
        rows = [{"round": number // 5, "image_id": image(number)} for number in range(10)]
        self.ledgers.insert_new("selections", table_of(SELECTIONS, rows), ["image_id"])

    def release(self, name: str, data: bytes) -> str:
        self.blobs.write(f"{INBOX}/{name}", data)
        return f"{INBOX}/{name}"

    @property
    def inbox(self) -> Inbox:
        return Inbox(self.blobs, self.ledgers, self.images, self.settings)

    def unmerged(self) -> list[str]:
        return [blob.path for blob in self.inbox.unmerged()]

    def merge(self, path: str) -> Merge:
        return merge_export(self.inbox, path)

    def look(self, cursor: str | None = None, limit: int = 20, seconds: float = 0) -> Look:
        now = datetime.now(UTC) + timedelta(seconds=seconds)
        return look(self.inbox, InboxCursor.parse(cursor), limit=limit, now=now)

    def labels(self) -> list[tuple[str, str]]:
        return self.ledgers.read("labels").select("image_id", "label").rows()

    def resolved(self) -> dict[str, str]:
        """The latest label of each image."""
        newest_last = self.ledgers.read("labels").sort("labeled_at", maintain_order=True)
        return dict(newest_last.select("image_id", "label").rows())

    def quarantined(self) -> list[str]:
        return [blob.path for blob in self.blobs.list("labeling/quarantine")]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


# ---------------------------------------------------------------------- merging
def test_an_export_becomes_labels_with_their_rounds(desk: Desk) -> None:
    path = desk.release("a.json", coco({image(1): "cat", image(7): "dog"}))
    merge = desk.merge(path)
    assert (merge.status, merge.round, merge.labels, merge.new_labels) == ("merged", 1, 2, 2)
    rows = desk.ledgers.read("labels").to_dicts()
    assert {row["image_id"]: row["round"] for row in rows} == {image(1): 0, image(7): 1}
    assert {row["annotator"] for row in rows} == {"unknown"}
    assert {row["labeled_at"] for row in rows} == {desk.blobs.info(path).modified_at}
    (recorded,) = desk.ledgers.read("exports").to_dicts()
    assert (recorded["path"], recorded["status"], recorded["new_labels"]) == (path, "merged", 2)


def test_the_same_labels_again_change_nothing_whatever_the_name_order_or_file(desk: Desk) -> None:
    answers = {image(1): "cat", image(2): "dog"}
    desk.merge(desk.release("a.json", coco(answers)))
    before = desk.labels()
    for name, data in (
        ("a.json", coco(answers)),
        ("renamed.json", coco(dict(reversed(answers.items())))),
        ("deeper/other.jsonl", jsonl(answers)),
    ):
        merge = desk.merge(desk.release(name, data))
        assert (merge.status, merge.new_labels, merge.round) == ("nothing_new", 0, None)
    assert desk.labels() == before


def test_a_cumulative_export_brings_only_what_changed(desk: Desk) -> None:
    desk.merge(desk.release("1.json", coco({image(1): "cat", image(2): "dog"})))
    merge = desk.merge(desk.release("2.json", coco({image(1): "cat", image(2): "cat", image(6): "dog"})))
    assert (merge.new_labels, merge.round) == (2, 1)
    assert desk.resolved() == {image(1): "cat", image(2): "cat", image(6): "dog"}


def test_an_answer_that_changes_its_mind_twice_ends_where_it_ends(desk: Desk) -> None:
    for number, label in enumerate(["cat", "dog", "cat"]):
        answers = {image(1): label} | {image(2 + n): "dog" for n in range(number)}
        desk.merge(desk.release(f"{number}.json", coco(answers)))
    assert desk.resolved()[image(1)] == "cat"
    assert [label for i, label in desk.labels() if i == image(1)] == ["cat", "dog", "cat"]


def test_an_old_export_that_comes_again_does_not_undo_a_correction(desk: Desk) -> None:
    first = coco({image(1): "cat"})
    desk.merge(desk.release("1.json", first))
    desk.merge(desk.release("2.json", coco({image(1): "dog"})))
    assert desk.merge(desk.release("1-again.json", first)).new_labels == 0
    assert desk.resolved() == {image(1): "dog"}


def test_a_clock_that_is_ahead_does_not_win_for_ever(desk: Desk) -> None:
    desk.merge(desk.release("1.jsonl", jsonl({image(1): "cat"}, labeled_at="2999-01-01T00:00:00Z")))
    desk.merge(desk.release("2.jsonl", jsonl({image(1): "dog"})))
    assert desk.resolved() == {image(1): "dog"}


def test_labels_of_different_annotators_stand_side_by_side(desk: Desk) -> None:
    desk.merge(desk.release("ann.jsonl", jsonl({image(1): "cat"}, annotator="ann")))
    desk.merge(desk.release("bob.jsonl", jsonl({image(1): "cat"}, annotator="bob")))
    assert len(desk.labels()) == 2


def test_an_image_that_was_never_selected_but_is_stored_may_be_labeled(desk: Desk, png: bytes) -> None:
    stored = desk.images.put(png)
    merge = desk.merge(desk.release("1.json", coco({stored.image_id: "cat"})))
    assert (merge.new_labels, merge.round) == (1, 1)
    assert desk.ledgers.read("labels")["round"].to_list() == [None]


def test_rows_set_aside_lie_in_quarantine_and_count_once_they_can_be_used(tmp_path: Path) -> None:
    strict = Desk(tmp_path, classes=("cat",))
    data = coco({image(1): "cat", image(2): "zebra"})
    merge = strict.merge(strict.release("1.json", data))
    assert (merge.new_labels, merge.set_aside) == (1, 1)
    (file,) = strict.quarantined()
    assert json.loads(strict.blobs.read(file))["rows"][0]["image"] == f"{image(2)}.png"
    assert strict.blobs.exists("labeling/exports/1.json")

    strict.merge(strict.release("2.json", coco({image(1): "cat", image(3): "cat"})))
    taught = Desk(tmp_path, classes=("cat", "zebra"))
    again = taught.merge(taught.release("1-again.json", data))
    assert (again.status, again.new_labels, again.set_aside) == ("merged", 1, 0)
    assert taught.resolved() == {image(1): "cat", image(2): "zebra", image(3): "cat"}


def test_a_broken_export_goes_to_quarantine_with_its_reason_and_stays_where_it_was(desk: Desk) -> None:
    path = desk.release("bad.json", b"[1]")
    merge = desk.merge(path)
    assert merge.status == "quarantined"
    copy, reason = desk.quarantined()
    assert desk.blobs.read(copy) == desk.blobs.read(path) == b"[1]"
    assert "COCO needs" in json.loads(desk.blobs.read(reason))["reason"]
    assert desk.ledgers.read("exports")["status"].to_list() == ["quarantined"]
    assert desk.unmerged() == []


def test_an_export_that_is_gone_is_an_error_of_the_caller(desk: Desk) -> None:
    with pytest.raises(FileNotFoundError):
        desk.merge(f"{INBOX}/gone.json")


@pytest.mark.parametrize("text", ["o'brien", 'x" | drop', "多行", "a/../b"])
def test_labels_and_annotators_are_values(desk: Desk, text: str) -> None:
    desk.merge(desk.release("1.jsonl", jsonl({image(1): text}, annotator=text)))
    assert desk.labels() == [(image(1), text)]
    assert desk.ledgers.read("labels", annotator=text).height == 1


def test_a_file_name_is_a_name_whatever_is_in_it(desk: Desk) -> None:
    merge = desk.merge(desk.release('o\'brien "x" | drop %2e%2e ü.json', b"[]"))
    assert merge.status == "quarantined"
    assert len(desk.quarantined()) == 2


def test_a_file_whose_name_cannot_be_a_path_stops_nobody(desk: Desk) -> None:
    path = desk.release("good.json", coco({image(1): "cat"}))
    folder = Path(desk.blobs.url(path).removeprefix("file://")).parent
    (folder / "back\\slash.json").write_bytes(b"{}")
    (folder / "new\nline.json").write_bytes(b"{}")
    assert [plan.export.path for plan in desk.look().ready] == [path]


@pytest.mark.parametrize("adapter", LEDGER_STORES)
def test_two_overlapping_exports_merged_at_the_same_time_double_no_label(tmp_path: Path, adapter: str) -> None:
    """Both look at the ledger before either writes."""
    desk = Desk(tmp_path, LEDGER_STORES[adapter](tmp_path))
    first = desk.release("1.json", coco({image(1): "cat", image(2): "cat"}))
    second = desk.release("2.json", coco({image(1): "cat", image(2): "dog", image(3): "cat"}))
    plans = [plan_merge(desk.inbox, desk.blobs.info(path)) for path in (first, second)]
    merges = [carry_out(desk.inbox, plan) for plan in plans]
    assert [merge.new_labels for merge in merges] == [2, 2]
    assert sorted(desk.labels()) == sorted([(image(1), "cat"), (image(2), "cat"), (image(2), "dog"), (image(3), "cat")])
    assert desk.merge(second).status == "nothing_new"


class Crash(Exception):
    pass


class CrashingLedgers(DeltaLedgers):
    """Dies before the n-th insert."""

    inserts_left = 0

    def insert_new(self, *arguments: Any, **named: Any) -> int:
        if self.inserts_left == 0:
            raise Crash
        self.inserts_left -= 1
        return super().insert_new(*arguments, **named)


@pytest.mark.parametrize("inserts", [0, 1])
def test_a_merge_that_dies_is_repeated_with_the_same_result(tmp_path: Path, inserts: int) -> None:
    desk = Desk(tmp_path)
    path = desk.release("1.json", coco({image(1): "cat", image(6): "dog"}))
    whole = desk.ledgers
    dying = CrashingLedgers(whole.path)
    dying.inserts_left = inserts
    desk.ledgers = dying
    with pytest.raises(Crash):
        desk.merge(path)
    desk.ledgers = whole
    assert desk.unmerged() == [path]
    merge = desk.merge(path)
    assert (merge.status, merge.round, merge.new_labels) == ("merged", 1, 2)
    assert len(desk.labels()) == 2


def test_files_of_four_tools_in_one_inbox_are_each_asked_for_and_merged(desk: Desk) -> None:
    answers = [{f"{image(n)}.png": "cat", f"{image(n + 1)}.png": "dog"} for n in (0, 2, 4, 6)]
    files = {
        "project-1.json": export_files.label_studio(answers[0]),
        "annotations.xml": export_files.cvat(answers[1]),
        "labels.csv": export_files.table(answers[2]).to_csv(index=False).encode(),
        "dataset.zip": export_files.FILES["a zip"](answers[3]),
    }
    for name, data in files.items():
        desk.release(name, data)
    ready = [plan.export.path for plan in desk.look().ready]
    assert {Path(path).name for path in ready} == files.keys()
    assert [desk.merge(path).new_labels for path in ready] == [2] * 4
    assert desk.resolved() == {image(n): "dog" if n % 2 else "cat" for n in range(8)}


# ---------------------------------------------------------------------- answers that are no labels
def test_an_answer_can_be_taken_back_by_who_gave_it_or_for_all(desk: Desk) -> None:
    desk.merge(desk.release("ann.jsonl", jsonl({image(1): "cat", image(2): "cat"}, annotator="ann")))
    desk.merge(desk.release("bob.jsonl", jsonl({image(1): "dog", image(2): "dog"}, annotator="bob")))
    merge = desk.merge(desk.release("3.jsonl", jsonl({image(1): None}, annotator="bob") + jsonl({image(2): None})))
    assert (merge.status, merge.new_labels) == ("merged", 3)
    assert resolve_labels(desk.ledgers.read("labels")).rows() == [(image(1), "cat", 0)]
    assert set(answered(desk.ledgers.read("labels"))) == {image(1)}


def test_what_is_taken_back_may_be_answered_anew_and_taking_back_nothing_is_nothing(desk: Desk) -> None:
    assert desk.merge(desk.release("0.jsonl", jsonl({image(1): None}))).status == "nothing_new"
    desk.merge(desk.release("1.jsonl", jsonl({image(1): "cat"})))
    desk.merge(desk.release("2.jsonl", jsonl({image(1): None})))
    assert desk.merge(desk.release("3.jsonl", jsonl({image(1): None}, beside=1))).status == "nothing_new"
    desk.merge(desk.release("4.json", coco({image(1): "dog", image(2): "dog"})))
    assert set(resolve_labels(desk.ledgers.read("labels")).select("image_id", "label").rows()) == {
        (image(1), "dog"),
        (image(2), "dog"),
    }


@pytest.mark.parametrize("outcome", ["skip", "bad"])
def test_an_image_that_nobody_can_judge_is_answered_and_has_no_label(desk: Desk, outcome: str) -> None:
    desk.merge(desk.release("1.jsonl", jsonl({image(1): "cat", image(2): "cat"})))
    merge = desk.merge(desk.release("2.jsonl", jsonl({image(1): None}, outcome=outcome)))
    assert (merge.status, merge.new_labels) == ("merged", 1)
    assert desk.merge(desk.release("again.jsonl", jsonl({image(1): None}, outcome=outcome))).status == "nothing_new"
    assert resolve_labels(desk.ledgers.read("labels"))["image_id"].to_list() == [image(2)]
    assert set(answered(desk.ledgers.read("labels"))) == {image(1), image(2)}


# ---------------------------------------------------------------------- the inbox
def test_a_new_export_is_seen_once(desk: Desk) -> None:
    path = desk.release("1.json", coco({image(1): "cat"}))
    found = desk.look()
    assert [plan.export.path for plan in found.ready] == [path]
    assert desk.look(found.cursor.model_dump_json()).ready == []


def test_a_cursor_that_is_garbage_is_a_cursor_at_the_beginning(desk: Desk) -> None:
    desk.release("1.json", coco({image(1): "cat"}))
    for cursor in ("garbage", "{}", "[]", "null", '{"watermark": "x"}', None):
        assert len(desk.look(cursor).ready) == 1


def test_resetting_the_cursor_after_a_merge_brings_nothing_back(desk: Desk) -> None:
    desk.merge(desk.release("1.json", coco({image(1): "cat"})))
    assert desk.look(None).ready == []


def test_a_half_written_export_waits_and_is_taken_when_it_is_whole(desk: Desk) -> None:
    data = coco({image(1): "cat"})
    path = desk.release("1.json", data[:20])
    first = desk.look()
    assert (first.waiting, first.refused) == ([path], [])
    desk.release("1.json", data)
    assert len(desk.look(first.cursor.model_dump_json()).ready) == 1


def test_an_export_that_stays_half_is_broken_once_it_has_settled(desk: Desk) -> None:
    path = desk.release("1.json", b'{"images"')
    first = desk.look()
    early = desk.look(first.cursor.model_dump_json(), seconds=30)
    assert early.waiting == [path]
    late = desk.look(early.cursor.model_dump_json(), seconds=61)
    assert [merge.status for merge in late.refused] == ["quarantined"]
    last = desk.look(late.cursor.model_dump_json(), seconds=120)
    assert (last.refused, last.waiting) == ([], [])


def test_one_that_still_grows_is_not_broken_however_long_it_takes(desk: Desk) -> None:
    data = coco({image(n): "cat" for n in range(5)})
    cursor = None
    for length in range(20, len(data), 60):
        desk.release("1.json", data[:length])
        found = desk.look(cursor, seconds=90)
        assert found.refused == []
        cursor = found.cursor.model_dump_json()
    desk.release("1.json", data)
    assert len(desk.look(cursor, seconds=90).ready) == 1


def test_a_tick_takes_a_few_oldest_first_and_the_next_goes_on(desk: Desk) -> None:
    paths = [desk.release(f"{9 - n}.json", coco({image(n): "cat"})) for n in range(5)]
    taken, cursor = [], None
    for left in (3, 1, 0):
        found = desk.look(cursor, limit=2)
        assert len(found.left) == left
        taken += [plan.export.path for plan in found.ready]
        cursor = found.cursor.model_dump_json()
    assert taken == paths


def test_one_file_from_the_future_hides_none_that_come_after_it(desk: Desk) -> None:
    path = desk.release("future.json", coco({image(1): "cat"}))
    os.utime(desk.blobs.url(path).removeprefix("file://"), (4e9, 4e9))
    found = desk.look()
    assert len(found.ready) == 1
    desk.release("now.json", coco({image(2): "cat"}))
    second = desk.look(found.cursor.model_dump_json())
    assert [plan.export.path for plan in second.ready] == [f"{INBOX}/now.json"]


def test_the_cursor_stays_small(desk: Desk) -> None:
    for number in range(20):
        desk.release(f"{number}.json", b"[]")
    path = desk.release("good.json", coco({image(1): "cat"}))
    found = desk.look()
    assert len(found.refused) == 20
    assert list(found.cursor.requested) == [path]
    desk.merge(path)
    assert desk.look(found.cursor.model_dump_json()).cursor == InboxCursor(turn=2)


def test_an_export_written_anew_among_many_on_record_is_found_in_its_turn_and_a_new_one_at_once(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tick asks for few of the files on record; which ones goes on until each was asked for."""
    monkeypatch.setattr("al_resources.labeling.inbox.AGAIN", 2)
    paths = [desk.release(f"{n}.json", coco({image(n): "cat"})) for n in range(7)]
    for path in paths:
        desk.merge(path)
    for n in range(7):
        desk.release(f"{n}.json", coco({image(n): "dog"}))
    cursor, taken = None, list[str]()
    for turn in range(8):
        new = [desk.release("new.json", coco({image(8): "cat"}))] if turn == 1 else []
        found = desk.look(cursor)
        ready = [plan.export.path for plan in found.ready]
        assert {*ready} >= {*new}
        assert len({*ready} - {*new}) <= 2
        for path in ready:
            desk.merge(path)
        taken += ready
        cursor = found.cursor.model_dump_json()
    assert set(taken) >= set(paths)


def test_a_file_on_record_that_is_being_written_anew_is_watched_until_it_is_whole(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("al_resources.labeling.inbox.AGAIN", 1)
    data = coco({image(n): "cat" for n in range(5)})
    for n in range(3):
        desk.merge(desk.release(f"{n}.json", coco({image(n): "dog"})))
    path = desk.release("2.json", data[:60])
    found = desk.look()
    assert found.waiting == [path]
    desk.release("2.json", data)
    assert [plan.export.path for plan in desk.look(found.cursor.model_dump_json()).ready] == [path]


@pytest.mark.slow
def test_three_thousand_broken_files_keep_no_good_export_waiting(desk: Desk) -> None:
    """The look finds it however many lie before it; the broken ones are refused over the looks that follow."""
    for number in range(3_000):
        desk.release(f"{number}.json", b'[{"broken": ' + str(number).encode() + b"}]")
    path = desk.release("z.json", coco({image(1): "cat"}))
    found = desk.look()
    assert [plan.export.path for plan in found.ready] == [path]
    desk.merge(path)
    looks = 1
    while found.left:
        found, looks = desk.look(found.cursor.model_dump_json()), looks + 1
    assert len(desk.ledgers.read("exports", status="quarantined")) == 3_000
    assert looks <= 10


@pytest.mark.parametrize("hours", [-24, 24])
def test_a_clock_that_jumps_hides_no_export_that_comes_after(desk: Desk, hours: float) -> None:
    """The export sensor's clock, and that of the file system, are set back or put forward by a day."""
    path = desk.release("before.json", coco({image(1): "cat"}))
    found = desk.look()
    desk.merge(path)
    later = desk.release("after.json", coco({image(2): "cat"}))
    with_clock(desk, later, hours)
    second = desk.look(found.cursor.model_dump_json(), seconds=3600 * hours)
    assert [plan.export.path for plan in second.ready] == [later]


def with_clock(desk: Desk, path: str, hours: float) -> None:
    """The blob store tells times of a clock that is wrong."""
    at = desk.blobs.info(path).modified_at + timedelta(hours=hours)
    real = desk.blobs.list

    def listed(prefix: str, **but: Any) -> Iterator[BlobInfo]:
        return (replace(blob, modified_at=at) if blob.path == path else blob for blob in real(prefix, **but))

    desk.blobs.list = listed  # type: ignore[method-assign]


def test_an_export_replaced_by_one_of_the_same_size_and_time_is_read(desk: Desk) -> None:
    path = desk.release("1.json", coco({image(1): "cat"}))
    desk.merge(path)
    file = Path(desk.blobs.url(path).removeprefix("file://"))
    before = file.stat()
    replacing = file.with_name("replacing")
    replacing.write_bytes(coco({image(1): "dog"}))
    os.utime(replacing, ns=(before.st_atime_ns, before.st_mtime_ns))
    replacing.replace(file)
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert [plan.export.path for plan in desk.look().ready] == [path]


def test_an_export_rewritten_in_place_with_the_same_size_and_time_is_read(desk: Desk) -> None:
    path = desk.release("1.json", coco({image(1): "cat"}))
    desk.merge(path)
    file = Path(desk.blobs.url(path).removeprefix("file://"))
    before = file.stat()
    time.sleep(0.01)  # the kernel's own stamps stand still for milliseconds
    file.write_bytes(coco({image(1): "dog"}))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert [plan.export.path for plan in desk.look().ready] == [path]


def test_a_correction_back_that_is_seen_together_with_what_it_corrects_counts(desk: Desk) -> None:
    desk.merge(desk.release("1.json", coco({image(1): "cat", image(2): "cat"})))
    changed = desk.release("2.json", coco({image(1): "dog"}))
    back = desk.release("3.json", coco({image(1): "cat"}))
    repeated = desk.release("4.json", coco({image(2): "cat"}))
    first = desk.look()
    assert [plan.export.path for plan in first.ready] == [changed]
    assert first.behind == [back] == first.left
    assert [merge.path for merge in first.nothing_new] == [repeated]
    second = desk.look(first.cursor.model_dump_json())  # asked for, and its run is at work
    assert (second.ready, second.nothing_new, second.behind) == ([], [], [back])
    desk.merge(changed)
    third = desk.look(second.cursor.model_dump_json())
    assert [plan.export.path for plan in third.ready] == [back]
    desk.merge(back)
    assert desk.resolved()[image(1)] == "cat"
    assert desk.unmerged() == []


def test_a_correction_counts_though_the_file_it_corrects_came_from_the_future(desk: Desk) -> None:
    first = desk.release("1.json", coco({image(1): "cat"}))
    os.utime(desk.blobs.url(first).removeprefix("file://"), (4e9, 4e9))
    desk.merge(first)
    desk.merge(desk.release("2.json", coco({image(1): "dog"})))
    assert desk.resolved() == {image(1): "dog"}


def test_a_correction_counts_though_our_own_clock_was_ahead_when_the_label_was_merged(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And though it lies in another annotator's name: one vote each, the youngest counts."""
    with monkeypatch.context() as ahead:
        ahead.setattr(merge_module, "utc_now", lambda: utc_now() + timedelta(days=400))
        first = desk.release("1.jsonl", jsonl({image(1): "cat"}, annotator="ann"))
        os.utime(desk.blobs.url(first).removeprefix("file://"), (4e9, 4e9))
        desk.merge(first)
    desk.merge(desk.release("2.jsonl", jsonl({image(1): "dog"}, annotator="bob")))
    desk.merge(desk.release("3.jsonl", jsonl({image(1): "owl"}, annotator="ann")))
    assert desk.resolved() == {image(1): "owl"}
    assert resolve_labels(desk.ledgers.read("labels"))["label"].to_list() == ["owl"]


def test_half_an_export_from_the_future_does_not_wait_for_ever(desk: Desk) -> None:
    path = desk.release("1.json", b'{"images"')
    with_clock(desk, path, hours=24 * 365)
    first = desk.look()
    assert first.waiting == [path]
    assert [merge.path for merge in desk.look(first.cursor.model_dump_json()).refused] == [path]


def test_many_broken_exports_do_not_keep_a_good_one_waiting(desk: Desk) -> None:
    for number in range(200):
        desk.release(f"{number:03}.json", b"[]")
    good = desk.release("good.json", coco({image(1): "cat"}))
    found = desk.look(limit=1)
    assert [plan.export.path for plan in found.ready] == [good]
    assert len(found.refused) == 200


def test_what_there_is_no_time_for_comes_at_the_next_look(desk: Desk) -> None:
    for number in range(5):
        desk.release(f"{number}.json", b"[]")
    refused, cursor = [], InboxCursor()
    for left in (4, 3, 2, 1, 0):
        found = look(desk.inbox, cursor, limit=9, now=utc_now(), seconds=0)
        assert len(found.left) == left
        refused += [merge.path for merge in found.refused]
        cursor = found.cursor
    assert refused == [f"{INBOX}/{number}.json" for number in range(5)]


def test_what_came_to_nothing_is_ready_again(desk: Desk) -> None:
    path = desk.release("1.json", coco({image(1): "cat"}))
    cursor = desk.look().cursor
    assert look(desk.inbox, cursor, limit=9, now=utc_now()).ready == []
    assert [plan.export.path for plan in look(desk.inbox, cursor, limit=9, now=utc_now(), again=[path]).ready] == [path]


def test_what_systems_and_programs_leave_behind_is_left_alone(desk: Desk) -> None:
    for name in (
        ".hidden.json",
        "._a.json",
        "__MACOSX/a.json",
        "@eaDir/a.json",
        "Thumbs.db",
        "~$a.xlsx",
        "a.json.part",
    ):
        desk.release(name, b"x")
    found = desk.look()
    assert (found.ready, found.refused, found.waiting) == ([], [], [])


def test_a_file_that_is_no_export_is_named_with_the_reason_and_not_passed_over(desk: Desk, png: bytes) -> None:
    names = {"readme.txt": b"read me", "_manifest.json": b'{"a": 1}', "image.png": png}
    for name, data in names.items():
        desk.release(name, data)
    refused = {Path(merge.path).name: merge.reason for merge in desk.look().refused}
    assert refused.keys() == names.keys()
    assert all("needs" in reason or "al ingest" in reason for reason in refused.values())
    assert all(len(reason) < 1000 for reason in refused.values())


# ---------------------------------------------------------------------- the law
ANSWERS = st.dictionaries(st.sampled_from([image(n) for n in range(4)]), st.sampled_from(["cat", "dog"]), min_size=1)


@settings(max_examples=15, deadline=None)
@given(exports=st.lists(ANSWERS, min_size=1, max_size=4), data=st.data())
def test_deliveries_again_renamed_or_interrupted_give_the_same_labels(
    exports: list[dict[str, str]], data: st.DataObject
) -> None:
    """Each export is delivered first in its turn; around that anything may happen."""
    with tempfile.TemporaryDirectory() as once, tempfile.TemporaryDirectory() as often:
        plain, tossed = Desk(Path(once)), Desk(Path(often))
        dying = CrashingLedgers(tossed.ledgers.path)
        for number, answers in enumerate(exports):
            plain.merge(plain.release(f"{number}.json", coco(answers)))
            path = tossed.release(f"{number}.json", coco(answers))
            dying.inserts_left = data.draw(st.integers(0, 2), label="inserts before a crash")
            try:
                merge_export(replace(tossed.inbox, ledgers=dying), path)
            except Crash:
                tossed.merge(path)
            for old in data.draw(st.lists(st.integers(0, number), max_size=2), label="delivered again"):
                form = data.draw(st.sampled_from([coco, jsonl]))
                shuffled = dict(data.draw(st.permutations(list(exports[old].items()))))
                number_again = data.draw(st.integers(0, 9))
                name = f"{old}-{number_again}.{'json' if form is coco else 'jsonl'}"
                tossed.merge(tossed.release(name, form(shuffled)))
        assert tossed.labels() == plain.labels()
        assert tossed.resolved() == plain.resolved()
