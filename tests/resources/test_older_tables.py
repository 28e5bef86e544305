"""What an earlier version left behind: tables with fewer columns, rows in the spool with fewer columns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from al_core import records
from al_core.records import LABELS, PREDICTIONS, REJECTED_IMAGES, prediction_table, table_of, utc_now
from al_core.strategies.base import Order
from al_resources.ledgers.delta import DeltaLedgers
from al_resources.prediction_store.delta import DeltaPredictionStore
from al_serving.spool import Spool, read_segment

NEW = pa.field("added_since", pa.string())


def grown(schema: pa.Schema) -> pa.Schema:
    return schema.append(NEW)


@pytest.fixture
def label() -> pa.Table:
    return table_of(LABELS, [{"image_id": "a" * 32, "label": "cat", "annotator": "x", "labeled_at": utc_now()}])


def test_an_older_ledger_is_read_and_gains_the_column_with_the_next_row(
    tmp_path: Path, label: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    DeltaLedgers(tmp_path).insert_new("labels", label, on=["image_id"])
    monkeypatch.setitem(records.LEDGERS, "labels", grown(LABELS))
    ledgers = DeltaLedgers(tmp_path)
    assert ledgers.read("labels")["added_since"].to_list() == [None], "reading needs no upgrade"
    row = {"image_id": "b" * 32, "label": "dog", "annotator": "x", "labeled_at": utc_now(), "added_since": "now"}
    assert ledgers.insert_new("labels", table_of(grown(LABELS), [row]), on=["image_id"]) == 1
    assert ledgers.read("labels")["added_since"].to_list() == [None, "now"]
    assert ledgers.read("labels", added_since="now")["label"].to_list() == ["dog"]


def scored(count: int, schema: pa.Schema = PREDICTIONS) -> pa.Table:
    rng = np.random.default_rng(count)
    rows = prediction_table(
        image_ids=[rng.bytes(16).hex() for _ in range(count)], image_uris=["x"] * count, image_hashes=[None] * count,
        model_name="classifier", model_version=1, classes=("cat", "dog"),
        probs=np.full((count, 2), 0.5, np.float32), source="online",
    )  # fmt: skip
    return records.fitted(rows, schema)


def test_an_older_log_is_selected_from_and_appended_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledgers = DeltaLedgers(tmp_path / "ledgers")
    DeltaPredictionStore(tmp_path / "log", ledgers).append(scored(3))
    from al_resources.prediction_store import delta, rows

    monkeypatch.setattr(delta, "_PHYSICAL", grown(delta._PHYSICAL))
    for module in (delta, rows):
        monkeypatch.setattr(module, "PREDICTIONS", grown(PREDICTIONS))
    monkeypatch.setattr(rows, "OPTIONAL", {*rows.OPTIONAL, "added_since"})
    store = DeltaPredictionStore(tmp_path / "log", ledgers)
    assert store.eligible("classifier", 1, Order("margin"), 5, ["added_since"]).num_rows == 3
    store.append(scored(4, grown(PREDICTIONS)))
    assert store.watermark().rows == 7
    assert store.eligible("classifier", 1, Order("margin"), 9, ["added_since"]).num_rows == 7


@pytest.mark.parametrize(("kind", "schema"), [("predictions", PREDICTIONS), ("rejections", REJECTED_IMAGES)])
def test_a_segment_of_an_older_spool_is_delivered(tmp_path: Path, kind: str, schema: pa.Schema) -> None:
    spool = Spool(tmp_path)
    whole = scored(2) if kind == "predictions" else table_of(schema, [{"name": "a", "rejected_at": utc_now()}])
    left_out = "embedding" if kind == "predictions" else "source"
    rows = read_segment(spool.add(kind, whole.drop_columns([left_out])))  # type: ignore[arg-type]
    assert set(schema.names) <= set(rows.schema.names)
    assert pl.DataFrame(rows)[left_out].null_count() == len(rows)
