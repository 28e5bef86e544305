"""The collector: nothing waits for a store, and nothing that was answered is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from serving_stores import Stores, prediction

from al_core.records import utc_now
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
    collector = stores.collector(flush_rows=1, queue_rows=3)
    for number in range(3):
        collector.offer([prediction(number)])
    assert within(10, lambda: collector.full)
    with pytest.raises(CollectorFull, match="3 rows"):
        collector.offer([prediction(9)])
    monkeypatch.undo()
    assert collector.wait_for_room(10)
    collector.close()
    assert stores.logged().num_rows == 3


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


@pytest.mark.live
def test_a_process_that_is_killed_loses_nothing_older_than_the_flush_time(stores: Stores) -> None:
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
