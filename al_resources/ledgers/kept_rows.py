"""The rows of a ledger, read once per process: a tick that reads whole ledgers pays for what is new in them.

A data file never changes, so its rows are kept as long as the table has it, and a read opens only the files that came
since. What was erased or merged is in other files, and goes with the ones it was in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

KEPT_BYTES = 128 << 20  # of a table; a larger one is read anew each time
_kept: dict[Path, _Rows] = {}


@dataclass(frozen=True)
class _Rows:
    files: frozenset[Path]
    rows: pl.DataFrame


def rows_of(table: Path, files: Sequence[Path], schema: pl.Schema, order: Sequence[str]) -> pl.DataFrame:
    """The rows of a table's data files in their order; columns that an older file lacks are null."""
    before = _kept.get(table)
    if before is None or before.rows.schema != schema or not before.files.issubset(files):
        before = _Rows(frozenset(), pl.DataFrame(schema=schema))
    new = [file for file in files if file not in before.files]
    rows = before.rows
    if new:
        rows = pl.concat([rows, scan(new, schema).collect()]).sort(order)
    if rows.estimated_size() <= KEPT_BYTES:
        _kept[table] = _Rows(frozenset(files), rows)
    else:
        _kept.pop(table, None)
    return rows


def scan(files: Sequence[Path], schema: pl.Schema) -> pl.LazyFrame:
    """The columns of some data files; those that an older file lacks are null."""
    return pl.scan_parquet(list(files), schema=schema, missing_columns="insert", extra_columns="ignore")
