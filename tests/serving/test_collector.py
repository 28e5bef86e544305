"""The collector: nothing waits for a store, and nothing that was answered is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from serving_stores import Stores, prediction

from al_core.records import utc_now
from al_serving import collector as collector_module
from al_serving.collector import CollectorFull, Rejection
from al_serving.spool import Spool


def within(seconds: float, condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_predictions_reach_the_log_and_their_images_the_store(stores: Stores) -> None:
    collector = stores.collector()
    rows = [prediction(number) for number in range(3)]
    collector.offer(rows)
    collector.close()
    logged = stores.logged()
    assert set(logged["image_id"].to_pylist()) == {row.image_id for row in rows}
    for image_id, uri in zip(logged["image_id"].to_pylist(), logged["image_uri"].to_pylist(), strict=True):
        assert stores.images.read(uri) == next(row.image for row in rows if row.image_id == image_id)


def test_a_row_says_when_it_was_answered_not_when_it_was_written(stores: Stores) -> None:
    collector = stores.collector()
    row = prediction(1)
    collector.offer([row])
    collector.close()
    assert stores.logged()["logged_at"].to_pylist() == [row.answered_at]


def test_a_clients_name_leads_to_the_image_though_the_names_came_late(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger of names is away when the rows are in the log already."""
    row = replace(prediction(1), name="photo.png")
    failures = iter([ConnectionError("away")])
    insert = stores.ledgers.insert_new

    def unreliable(table: str, rows: pa.Table, on: Sequence[str]) -> int:
        if (error := next(failures, None)) is not None:
            raise error
        return insert(table, rows, on=on)

    monkeypatch.setattr(stores.ledgers, "insert_new", unreliable)
    collector = stores.collector(flush_seconds=0.05)
    collector.offer([row, prediction(2)])
    collector.flush()
    collector.close()
    assert stores.logged().num_rows == 2
    names = stores.ledgers.read("image_names")
    assert names.select("name", "image_id", "source").rows() == [("photo.png", row.image_id, "service")]


def test_a_segment_of_a_version_without_names_is_delivered(stores: Stores) -> None:
    spool = Spool(stores.folder / "spool")
    rows = collector_module._segment_table([prediction(1)])
    spool.add("predictions", rows.drop_columns("name"))
    spool.close()
    collector = stores.collector()
    collector.offer([replace(prediction(2), name="b.png")])
    collector.close()
    assert stores.logged().num_rows == 2
    assert stores.ledgers.read("image_names")["name"].to_list() == ["b.png"]


def test_rows_of_several_models_keep_their_model(stores: Stores) -> None:
    collector = stores.collector()
    collector.offer([prediction(number, version=number % 2 + 1) for number in range(6)])
    collector.close()
    assert sorted(stores.logged()["model_version"].to_pylist()) == [1, 1, 1, 2, 2, 2]


def test_rows_are_written_when_there_are_enough_before_they_are_old(stores: Stores) -> None:
    collector = stores.collector(flush_rows=4, flush_seconds=3600)
    collector.offer([prediction(number) for number in range(4)])
    assert within(10, lambda: collector.counts().written == 4)
    collector.close()


def test_a_single_row_is_written_when_it_is_old_enough(stores: Stores) -> None:
    collector = stores.collector(flush_rows=1000, flush_seconds=0.2)
    collector.offer([prediction(1)])
    assert within(10, lambda: collector.counts().written == 1)
    collector.close()


def test_an_image_that_was_scored_twice_is_stored_once_and_logged_twice(stores: Stores) -> None:
    collector = stores.collector()
    collector.offer([prediction(1), prediction(1)])
    collector.close()
    logged = stores.logged()
    assert logged.num_rows == 2
    assert len(set(logged["image_uri"].to_pylist())) == 1


def test_offering_does_not_wait_for_a_store_that_hangs(stores: Stores) -> None:
    stores.open.clear()
    collector = stores.collector(flush_rows=1, flush_seconds=0.01)
    offered = threading.Thread(target=lambda: [collector.offer([prediction(n)]) for n in range(50)])
    offered.start()
    offered.join(20)
    assert not offered.is_alive()
    assert within(10, lambda: collector.counts().spooled == 50)
    stores.open.set()
    collector.close()
    assert stores.logged().num_rows == 50


def test_while_the_store_is_away_rows_lie_in_the_spool_and_are_sent_later(stores: Stores) -> None:
    stores.broken = True
    collector = stores.collector(flush_seconds=0.05)
    collector.offer([prediction(1)])
    assert within(10, lambda: collector.counts().failures > 0)
    assert collector.counts().spooled == 1
    stores.broken = False
    assert collector.flush(20)
    assert stores.logged().num_rows == 1
    collector.close()


def test_what_a_store_did_not_take_is_sent_by_the_next_process(stores: Stores) -> None:
    stores.broken = True
    first = stores.collector()
    first.offer([prediction(1), prediction(2)])
    first.close(timeout=0.5)
    assert stores.logged().num_rows == 0
    stores.broken = False
    second = stores.collector()
    assert second.flush()
    second.close()
    assert stores.logged().num_rows == 2


def test_a_store_that_fails_after_it_has_written_gets_no_row_twice(stores: Stores) -> None:
    stores.fails_after_writing = 1
    collector = stores.collector()
    collector.offer([prediction(number) for number in range(5)])
    collector.close(timeout=20)
    assert collector.counts().failures == 1
    assert stores.logged().num_rows == 5


def test_a_segment_left_after_it_was_delivered_is_not_delivered_again(stores: Stores) -> None:
    """Killed between the store's commit and the end of the segment."""
    stores.broken = True
    first = stores.collector()
    first.offer([prediction(1)])
    first.close(timeout=0.5)
    stores.broken = False
    (segment,) = stores.folder.glob("spool/0/*.arrow")
    copy = segment.read_bytes()
    stores.collector().close()
    assert stores.logged().num_rows == 1
    segment.write_bytes(copy)
    stores.collector().close()
    assert stores.logged().num_rows == 1


def test_when_memory_is_full_offers_are_refused_not_lost(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: object) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Spool, "add", full_disk)
    collector = stores.collector(flush_seconds=0.05, queue_rows=3)
    collector.offer([prediction(number) for number in range(3)])
    assert within(10, lambda: collector.trouble is not None)
    with pytest.raises(CollectorFull, match=r"cannot be written: .*No space left on device"):
        collector.offer([prediction(9)])
    monkeypatch.undo()
    assert collector.wait_for_room(10)
    collector.close()
    assert stores.logged().num_rows == 3


class SlowDisk:
    """A spool whose segments are on the disk when `synced` is set; without room it refuses them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.synced = threading.Event()
        self.room = True
        self.segments: list[int] = []  # rows of each
        add = Spool.add

        def slowly(spool: Spool, kind: Any, rows: pa.Table) -> Path:
            self.segments.append(len(rows))
            assert self.synced.wait(30)
            if not self.room:
                raise OSError(28, "No space left on device")
            return add(spool, kind, rows)

        monkeypatch.setattr(Spool, "add", slowly)


def test_an_answer_waits_until_a_segment_holds_it(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = SlowDisk(monkeypatch)
    collector = stores.collector(durability="answer", flush_seconds=3600)
    collector.offer([prediction(1)])
    kept = collector.kept()
    assert within(10, lambda: disk.segments == [1]), "at once, whatever flush_seconds says"
    assert not kept.done()
    disk.synced.set()
    assert kept.result(10) is None
    assert len(list(stores.folder.glob("spool/0/*.arrow"))) == 1
    collector.close()


def test_what_comes_while_a_segment_is_synced_shares_the_next_one(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = SlowDisk(monkeypatch)
    collector = stores.collector(durability="answer", flush_seconds=3600)
    waiting = []
    for number in range(20):
        collector.offer([prediction(number)])
        waiting.append(collector.kept())
        assert within(10, lambda: bool(disk.segments))
    disk.synced.set()
    assert [kept.result(10) for kept in waiting] == [None] * 20
    assert disk.segments == [1, 19]
    collector.close()


def test_with_interval_nobody_waits(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = SlowDisk(monkeypatch)
    collector = stores.collector(durability="interval", flush_seconds=3600)
    collector.offer([prediction(1)])
    assert collector.kept().done()
    assert disk.segments == []
    disk.synced.set()
    collector.close()


def test_an_answer_that_cannot_be_kept_is_refused(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = SlowDisk(monkeypatch)
    disk.synced.set()
    disk.room = False
    collector = stores.collector(durability="answer")
    collector.offer([prediction(1)])
    with pytest.raises(CollectorFull, match="No space left on device"):
        collector.kept().result(10)
    assert collector.full
    disk.room = True
    assert within(10, lambda: collector.trouble is None)
    collector.close()
    assert stores.logged().num_rows == 1


def test_a_nearly_full_disk_refuses_before_it_promises(stores: Stores) -> None:
    collector = stores.collector(least_free_bytes=1 << 60)
    with pytest.raises(CollectorFull, match=r"only \d+ MB are free at .*; make room"):
        collector.offer([prediction(1)])
    collector.close()


def test_a_full_spool_refuses_what_no_log_would_know_until_the_store_is_back(stores: Stores) -> None:
    stores.broken = True
    collector = stores.collector(durability="answer", spool_bytes=4_000)
    offered = 0
    while not collector.full and offered < 100:
        collector.offer([prediction(offered)])
        collector.kept().result(10)
        offered += 1
    assert 0 < offered < 100
    with pytest.raises(CollectorFull, match=r"segments of 0\.0 MB wait in .*serving\.spool_bytes allows 0\.0 MB"):
        collector.offer([prediction(100)])
    collector.close(timeout=0.1)
    collector._deliverer.join(60)  # on a busy machine it takes longer, and holds the spool until then
    collector.close(timeout=0.1)

    restarted = stores.collector(spool_bytes=4_000)  # what an earlier process left counts as well
    assert restarted.full
    stores.broken = False
    assert restarted.flush()
    assert not restarted.full
    restarted.close()
    assert stores.logged().num_rows == offered


def test_images_are_written_many_at_a_time(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container answers each in tens of milliseconds: what counts is how many are on their way together."""
    together, most, lock, all_there = 0, 0, threading.Lock(), threading.Event()
    put = stores.images.put

    def slow(data: bytes) -> Any:
        nonlocal together, most
        with lock:
            together += 1
            most = max(most, together)
            if together == 32:
                all_there.set()
        all_there.wait(60)
        with lock:
            together -= 1
        return put(data)

    monkeypatch.setattr(stores.images, "put", slow)
    collector = stores.collector(flush_rows=200, flush_seconds=0.05)
    collector.offer([prediction(number) for number in range(200)])
    assert collector.flush()
    collector.close()
    assert most == 32


def test_segments_written_early_go_to_the_log_together(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    append = stores.append
    monkeypatch.setattr(stores, "append", lambda rows: (append(rows), sizes.append(len(rows))))
    collector = stores.collector(durability="answer", flush_rows=10, flush_seconds=3600)
    for number in range(25):
        collector.offer([prediction(number)])
        collector.kept().result(10)
    assert within(10, lambda: sum(sizes) >= 20)
    collector.close()
    assert sum(sizes) == 25
    assert min(sizes[:-1]) >= 10


def test_what_waited_for_a_store_goes_together_when_it_is_back(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    stores.open.clear()
    collector = stores.collector(flush_rows=5, flush_seconds=0.01)
    sizes: list[int] = []
    append = stores.append
    monkeypatch.setattr(stores, "append", lambda rows: (append(rows), sizes.append(len(rows))))
    for number in range(60):
        collector.offer([prediction(number)])
    assert within(10, lambda: collector.counts().spooled == 60)
    stores.open.set()
    collector.close()
    assert stores.logged().num_rows == sum(sizes) == 60
    assert max(sizes) > 5


def test_large_images_fill_the_memory_before_many_rows_do(stores: Stores) -> None:
    row = prediction(1)
    collector = stores.collector(flush_seconds=3600, queue_bytes=len(row.image) * 2)
    collector.offer([row])
    assert not collector.full
    collector.offer([row])
    assert collector.full
    collector.close()


def test_a_damaged_segment_is_set_aside_and_holds_nothing_up(stores: Stores) -> None:
    (stores.folder / "spool" / "0").mkdir(parents=True)
    damaged = stores.folder / "spool" / "0" / "00000000-predictions.arrow"
    damaged.write_bytes(b"no arrow")
    collector = stores.collector()
    collector.offer([prediction(1)])
    collector.close()
    assert collector.counts().set_aside == 1
    assert damaged.with_name(damaged.name + ".unreadable").read_bytes() == b"no arrow"
    assert stores.logged().num_rows == 1


def test_rejected_images_end_up_in_their_ledger_once(stores: Stores) -> None:
    collector = stores.collector()
    for _ in range(3):
        collector.reject(Rejection("a.png", "truncated", "online"))
        assert collector.flush()
    collector.reject(Rejection("b.png", "x" * 10_000, "batch"))
    collector.close()
    rows = stores.ledgers.read("rejected_images")
    assert rows["name"].to_list() == ["a.png", "b.png"]
    assert rows["reason"].str.len_chars().to_list() == [9, 500]
    assert rows["rejected_at"][0] <= utc_now()


def test_two_processes_work_in_folders_of_their_own(tmp_path: Path) -> None:
    one, two = Spool(tmp_path), Spool(tmp_path)
    assert one.folder != two.folder
    rows = pa.table({"x": [1]})
    kept = two.add("rejections", rows)
    assert Spool(tmp_path).segments() == []  # its owner is alive
    two.close()
    assert [segment.name for segment in Spool(tmp_path).segments()] == [kept.name]
    one.close()


def test_half_written_segments_are_cleared_away(tmp_path: Path) -> None:
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "x-predictions.part").write_bytes(b"half")
    assert Spool(tmp_path).segments() == []
    assert not (tmp_path / "0" / "x-predictions.part").exists()


KILLED = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from serving_stores import Stores, prediction
stores = Stores(Path(sys.argv[1]))
stores.open.clear()  # the store hangs for ever
collector = stores.collector(flush_rows=10, flush_seconds=0.2)
for number in range(95):
    collector.offer([prediction(number)])
while collector.counts().queued:
    time.sleep(0.01)
print("spooled", flush=True)
time.sleep(60)
"""


KILLED_WHILE_ANSWERING = """
import sys, threading
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from serving_stores import Stores, prediction
collector = Stores(Path(sys.argv[1])).collector(durability="answer")

def client(first):
    for number in range(first, first + 1000):
        row = prediction(number)
        collector.offer([row])
        collector.kept().result()
        sys.stdout.write(row.image_id + "\\n")  # the answer
        sys.stdout.flush()

for first in range(0, 8000, 1000):
    threading.Thread(target=client, args=[first]).start()
"""


@pytest.mark.live
@pytest.mark.parametrize("answers", [1, 40, 300])
def test_what_was_answered_is_in_the_log_though_the_process_was_killed(
    stores: Stores, answers: int, record_property: Callable[[str, object], None]
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED_WHILE_ANSWERING, str(stores.folder), str(Path(__file__).parent)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    answered = [process.stdout.readline().strip() for _ in range(answers)]
    os.kill(process.pid, signal.SIGKILL)
    answered += [line.strip() for line in process.stdout if line.endswith("\n")]
    process.wait()
    process.stdout.close()
    stores.collector().close(timeout=30)
    logged = stores.logged()["image_id"].to_pylist()
    record_property("tries", len(answered))
    assert set(answered) <= set(logged)
    assert len(logged) == len(set(logged)), "each once"


@pytest.mark.live
def test_a_process_that_is_killed_loses_nothing_older_than_the_flush_time(
    stores: Stores, record_property: Callable[[str, object], None]
) -> None:
    record_property("tries", 95)
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(stores.folder), str(Path(__file__).parent)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "spooled\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert stores.logged().num_rows == 0
    stores.collector().close(timeout=30)
    assert stores.logged().num_rows == 95
