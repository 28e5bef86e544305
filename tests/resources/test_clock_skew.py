"""Machines whose clocks are hours apart: the log and the ledgers lose nothing, and count nothing twice."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from resource_adapters import LEDGER_STORES, MIDNIGHT, PREDICTION_STORES, after, image, prediction_rows

from al_core.records import LABELS, SELECTIONS, table_of, utc_now
from al_core.strategies.base import Order
from al_resources.ledgers import Ledgers
from al_resources.ledgers import kusto as kusto_ledgers
from al_resources.prediction_store import PredictionStore

HOUR = 3600
KEYS = [str(number) for number in range(5)]


def test_predictions_of_machines_hours_apart_are_each_there_once(store: PredictionStore) -> None:
    """The same images, seen by a machine that is behind, a right one, and one that is ahead; then sent again."""
    sent = [
        prediction_rows([{"image_id": image(n), "margin": n / 100, "logged_at": after(shift)} for n in range(20)])
        for shift in (HOUR, 0, -HOUR)
    ]
    for rows in sent:
        store.append(rows)
    everything = sorted(one for rows in sent for one in rows["prediction_id"].to_pylist())
    assert sorted(one for batch in store.scan(["prediction_id"]) for one in batch["prediction_id"].to_pylist()) == (
        everything
    )
    assert store.watermark().rows == len(everything)
    assert store.count_eligible("digits", 1) == 20
    best = store.eligible("digits", 1, Order("margin"), 20, ["logged_at"])
    assert best["image_id"].to_pylist() == [image(n) for n in range(20)]
    assert set(best["logged_at"].to_pylist()) == {after(HOUR)}, "the one that says it is the newest, for all alike"


@pytest.mark.parametrize("hours", [-25, 25])
@pytest.mark.parametrize("adapter", PREDICTION_STORES)
def test_what_was_chosen_is_taken_though_the_choosing_machine_s_clock_is_off(
    adapter: str, tmp_path: Path, hours: int
) -> None:
    ledgers = LEDGER_STORES[adapter](tmp_path)
    store = PREDICTION_STORES[adapter](tmp_path, ledgers)
    store.append(prediction_rows([{"image_id": image(n)} for n in range(4)]))
    chosen = {
        "round": 1, "image_id": image(1), "image_uri": "x", "rank": 0, "reason": "strategy", "strategy": "margin",
        "seed": 0, "selected_at": MIDNIGHT + timedelta(hours=hours),
    }  # fmt: skip
    ledgers.insert_new("selections", table_of(SELECTIONS, [chosen]), on=["round", "image_id"])
    store.append(prediction_rows([{"image_id": image(1), "logged_at": after(2 * 25 * HOUR)}]))
    left = store.eligible("digits", 1, Order("margin"), 4, [])["image_id"].to_pylist()
    assert sorted(left) == sorted([image(0), image(2), image(3)])


@pytest.mark.parametrize("adapter", LEDGER_STORES)
def test_writers_hours_apart_that_meet_leave_each_row_once_and_the_same_to_every_reader(
    adapter: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both look before either writes, where the store looks first at all; then a third comes late, from the past."""
    clock = threading.local()
    monkeypatch.setattr(kusto_ledgers, "utc_now", lambda: utc_now() + timedelta(hours=clock.hours))
    stores = [LEDGER_STORES[adapter](tmp_path) for _ in range(2)]
    meet_between_look_and_write(stores, monkeypatch)

    def write(ledgers: Ledgers, hours: int) -> None:
        clock.hours = hours
        ledgers.insert_new("labels", answers(f"clock {hours:+d}"), ["label"])

    writers = [threading.Thread(target=write, args=one) for one in zip(stores, (1, -1), strict=True)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    monkeypatch.undo()
    first = LEDGER_STORES[adapter](tmp_path).read("labels")
    assert sorted(first["label"]) == KEYS
    assert first["annotator"].n_unique() == 1
    monkeypatch.setattr(kusto_ledgers, "utc_now", lambda: utc_now() - timedelta(hours=25))
    assert stores[1].insert_new("labels", answers("late"), ["label"]) == 0
    assert stores[0].read("labels").equals(first)


def answers(annotator: str) -> pa.Table:
    rows = [{"image_id": image(1), "label": key, "annotator": annotator, "labeled_at": MIDNIGHT} for key in KEYS]
    return table_of(LABELS, rows)


def meet_between_look_and_write(stores: list[Ledgers], monkeypatch: pytest.MonkeyPatch) -> None:
    """Data Explorer's ledgers look first; Delta's look and write in one transaction, and need no help to meet."""
    both = threading.Barrier(len(stores), timeout=30)
    for database in {ledgers._database for ledgers in stores if isinstance(ledgers, kusto_ledgers.KustoLedgers)}:
        write = database.ingest

        def ingest(*arguments: Any, write: Callable[..., None] = write) -> None:
            both.wait()
            write(*arguments)

        monkeypatch.setattr(database, "ingest", ingest)
