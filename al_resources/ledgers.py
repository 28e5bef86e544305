"""The ledgers: small append-only tables of what people and machines decided (see `al_core.records.LEDGERS`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import polars as pl
import pyarrow as pa

from al_core.records import LEDGERS

if TYPE_CHECKING:
    from deltalake import DeltaTable


class Ledgers(Protocol):
    """What every ledger store can do. `name` is a key of `LEDGERS`."""

    def insert_new(self, name: str, rows: pa.Table, on: Sequence[str]) -> int:
        """Append the rows whose `on` values are not in the ledger yet, in one transaction; returns how many.

        Two processes that insert the same rows at the same time insert them once.
        """

    def read(self, name: str, **equals: object) -> pl.DataFrame:
        """The ledger's rows, oldest first, filtered by equality where asked (`round=3`)."""


MERGE_FILES_ABOVE = 64  # each insert is one small file, and every file costs each reader an open
VACUUM_HOURS = 24
_PLACE = ("_commit", "_row")  # columns of this adapter: where a row stands in the order of insertion


class DeltaLedgers:
    """`Ledgers` as one Delta table each, in one local folder; a missing table is an empty ledger."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def insert_new(self, name: str, rows: pa.Table, on: Sequence[str]) -> int:
        """Append what is new, see `Ledgers.insert_new`; nulls in `on` columns are equal.

        Raises:
            ValueError: unknown ledger, rows of another schema, or no `on` column.
        """
        from deltalake.exceptions import CommitFailedError
        from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_random_exponential

        wanted = _checked(name, rows, on)
        attempt = retry(
            retry=retry_if_exception_type(CommitFailedError),
            wait=wait_random_exponential(multiplier=0.02, max=1),
            stop=stop_after_delay(120),
            reraise=True,
        )
        return attempt(self._insert)(name, wanted, list(on)) if len(wanted) else 0

    def read(self, name: str, **equals: object) -> pl.DataFrame:
        """The ledger in the order of insertion, filtered by equality (None finds nulls)."""
        schema = _schema(name)
        _check_columns(name, equals)
        table = self._table(name)
        if table is None:
            return _empty(schema)
        rows = pl.scan_delta(table)
        for column, value in equals.items():
            rows = rows.filter(pl.col(column).is_null() if value is None else pl.col(column) == pl.lit(value))
        return rows.sort(_PLACE).select(schema.names).collect()

    def _insert(self, name: str, rows: pl.DataFrame, on: list[str]) -> int:
        """One attempt. The commit must follow the version that was looked at, or it fails and is tried again."""
        from deltalake import CommitProperties, write_deltalake

        table = self._created(name)
        known = pl.scan_delta(table).select(on).unique().collect()
        new = rows.join(known, on=on, how="anti", nulls_equal=True, maintain_order="left")
        if new.is_empty():
            return 0
        placed = new.with_columns(
            pl.lit(table.version() + 1, pl.Int64).alias("_commit"), pl.int_range(len(new)).alias("_row")
        )
        write_deltalake(
            table, placed.to_arrow(), mode="append", commit_properties=CommitProperties(max_commit_retries=0)
        )
        _merge_files(table, self.path / name / "_compaction.lock")
        return len(new)

    def _table(self, name: str) -> DeltaTable | None:
        from deltalake import DeltaTable

        path = self.path / name
        return DeltaTable(path) if DeltaTable.is_deltatable(str(path)) else None

    def _created(self, name: str) -> DeltaTable:
        """The ledger's table; when many processes begin at once, one of them creates it."""
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError

        if (table := self._table(name)) is not None:
            return table
        schema = pa.schema([*_schema(name), *(pa.field(column, pa.int64()) for column in _PLACE)])
        try:
            return DeltaTable.create(self.path / name, schema, mode="ignore")
        except DeltaError:
            if (table := self._table(name)) is None:
                raise
            return table


def _merge_files(table: DeltaTable, lock: Path) -> None:
    """Keep the ledger quick to read. One process at a time: deltalake would merge the same files twice."""
    from filelock import FileLock, Timeout

    if len(table.file_uris()) <= MERGE_FILES_ABOVE:
        return
    try:
        with FileLock(lock, blocking=False):
            table.update_incremental()
            table.optimize.compact()
            table.vacuum(retention_hours=VACUUM_HOURS, dry_run=False, enforce_retention_duration=False)
    except Timeout:
        return  # another process is at it


def _schema(name: str) -> pa.Schema:
    if name not in LEDGERS:
        raise ValueError(f"unknown ledger {name!r}; expected one of {sorted(LEDGERS)}")
    return LEDGERS[name]


def _empty(schema: pa.Schema) -> pl.DataFrame:
    return pl.DataFrame(schema.empty_table())


def _check_columns(name: str, columns: Sequence[str] | dict[str, object]) -> None:
    if unknown := [column for column in columns if column not in LEDGERS[name].names]:
        raise ValueError(f"ledger {name!r} has no column {unknown}; it has {LEDGERS[name].names}")


def _checked(name: str, rows: pa.Table, on: Sequence[str]) -> pl.DataFrame:
    """`rows` in the ledger's schema, each `on` value once (the first)."""
    schema = _schema(name)
    _check_columns(name, on)
    if not on:
        raise ValueError(f"insert_new into {name!r} needs at least one column to tell rows apart by")
    try:
        table = rows.select(schema.names).cast(schema)
    except (KeyError, pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ValueError(f"not rows of the ledger {name!r}: {error}; build them with table_of()") from error
    if unknown := [column for column in rows.schema.names if column not in schema.names]:
        raise ValueError(f"not rows of the ledger {name!r}: unknown column(s) {unknown}")
    return pl.DataFrame(table).unique(on, keep="first", maintain_order=True)
