"""Rows of the prediction log: what every store checks before it takes them, and how it hands them out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl
import pyarrow as pa

from al_core.records import PREDICTIONS, empty_table
from al_core.strategies.base import Order

OPTIONAL = {"image_hash", "embedding", "latency_ms"}  # all other columns are never null
SCORES = ("confidence", "margin", "entropy")


def checked_rows(predictions: pa.Table) -> pa.Table:
    """`predictions` in the schema of the log, or an error that says what is wrong and where."""
    import pyarrow.compute as pc

    missing = [name for name in PREDICTIONS.names if name not in predictions.schema.names]
    unknown = [name for name in predictions.schema.names if name not in PREDICTIONS.names]
    if missing or unknown:
        raise ValueError(
            f"not rows of the prediction log: missing {missing}, unknown {unknown}; build them with prediction_table()"
        )
    try:
        rows = predictions.select(PREDICTIONS.names).cast(PREDICTIONS)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ValueError(f"not rows of the prediction log: {error}") from error
    for name in PREDICTIONS.names:
        if name not in OPTIONAL and rows[name].null_count:
            _refuse(rows, pc.is_null(rows[name]), f"{name} is null")
    for name in SCORES:
        _refuse(rows, pc.invert(pc.is_finite(rows[name])), f"{name} is not a finite number")
    _refuse(rows, pc.equal(rows["model_name"], ""), "model_name is empty")
    hexadecimal = pc.match_substring_regex(rows["image_id"], "^[0-9a-f]{15,}$")
    _refuse(rows, pc.invert(hexadecimal), "image_id is not a content id (lower-case hexadecimal)")
    keys = pa.array(id_bits(rows["image_id"], slice_from=0))
    _refuse(rows, pc.not_equal(rows["image_key"], keys), "image_key is not that of image_id")
    return rows


def _refuse(rows: pa.Table, wrong: pa.ChunkedArray, reason: str) -> None:
    import pyarrow.compute as pc

    if pc.any(wrong).as_py():
        row = pc.index(wrong, True).as_py()
        raise ValueError(f"row {row} (image {rows['image_id'][row].as_py()!r}): {reason}")


def id_bits(image_ids: Any, *, slice_from: int) -> pl.Series:
    """60 bits of each id, as `al_core.records.image_keys` but without a Python object per image."""
    return pl.Series(image_ids, dtype=pl.String).str.slice(slice_from, 15).str.to_integer(base=16, dtype=pl.Int64)


def wanted_columns(columns: Sequence[str], order: Order) -> list[str]:
    """What `eligible` answers with: `columns`, `image_id` and the order's own column, each once."""
    check_columns(columns)
    return list(dict.fromkeys([*columns, "image_id", *([] if order.column == "random" else [order.column])]))


def check_columns(columns: Sequence[str]) -> None:
    """Raises `ValueError`, naming the columns the log does not have."""
    unknown = [name for name in columns if name not in PREDICTIONS.names]
    if unknown:
        raise ValueError(f"unknown column(s) {unknown}; the prediction log has {PREDICTIONS.names}")


def as_records(rows: pl.DataFrame | pa.Table, columns: list[str]) -> pa.Table:
    """`rows` as Arrow with the log's own types."""
    schema = pa.schema([PREDICTIONS.field(name) for name in columns])
    if not len(rows):
        return empty_table(schema)
    table = rows if isinstance(rows, pa.Table) else rows.select(columns).to_arrow()
    return table.select(columns).cast(schema)
