"""The ledgers: small append-only tables of what people and machines decided (see `al_core.records.LEDGERS`)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

import polars as pl
import pyarrow as pa

from al_core.records import LEDGERS
from al_resources.delta_tables import commit, erase_images, merging_files, open_or_create, open_table, vacuum
from al_resources.ledgers import (
    check_erasable,
    check_expiring,
    check_ledger_columns,
    checked_ledger_rows,
    empty_ledger,
    schema_of,
)
from al_resources.ledgers.kept_rows import rows_of, scan
from al_resources.ledgers.known_keys import forget_deleted, that_may_hold

if TYPE_CHECKING:
    from deltalake import DeltaTable

MERGE_FILES_ABOVE = 64  # each insert is one small file, and every file costs each reader an open
MERGED_BYTES = 8 << 20  # a merged file is left alone from here on, or each merge would rewrite the whole history
LARGE_ROWS = 4_096  # of a file with fewer, the keys are read anew; of others, their hashes are kept
_PLACE = ("_commit", "_row")  # columns of this adapter: where a row stands in the order of insertion


class DeltaLedgers:
    """`Ledgers` as one Delta table each, in one local folder; a missing table is an empty ledger."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def insert_new(self, name: str, rows: pa.Table, on: Sequence[str]) -> int:
        """Append what is new, see `Ledgers.insert_new`; nulls in `on` columns are equal.

        Raises:
            ValueError: unknown ledger, rows of another schema, or no `on` column.
            TimeoutError: other writers were faster for minutes; nothing was written.
        """
        wanted = checked_ledger_rows(name, rows, on)
        if wanted.is_empty():
            return 0
        inserted = commit(self.path / name, lambda: self._insert(name, wanted, list(on)))
        self._merge_files(name)
        return inserted

    def read(self, name: str, **equals: object) -> pl.DataFrame:
        """The ledger in the order of insertion, filtered by equality (None finds nulls)."""
        schema = schema_of(name)
        check_ledger_columns(name, equals)
        table = open_table(self.path / name)
        if table is None:
            return empty_ledger(schema)
        columns = empty_ledger(_physical(name)).schema
        rows = rows_of(self.path / name, _paths(self.path / name, _files(table)), columns, _PLACE)
        for column, value in equals.items():
            rows = rows.filter(pl.col(column).is_null() if value is None else pl.col(column) == pl.lit(value))
        return rows.select(schema.names)

    def erase(self, name: str, image_ids: Collection[str]) -> int:
        """Erase the rows of some images, see `Ledgers.erase` and `erase_images`."""
        check_erasable(name, image_ids)
        erased = erase_images(self.path / name, image_ids)
        forget_deleted(self.path / name)
        return erased

    def expire(self, name: str, before: datetime) -> int:
        """Delete old rows, see `Ledgers.expire`. Raises `TimeoutError`: other writers were faster for minutes."""
        from deltalake import CommitProperties

        column = check_expiring(name)
        if open_table(self.path / name) is None:
            return 0

        def attempt() -> int:
            table = open_table(self.path / name)
            assert table is not None
            once = CommitProperties(max_commit_retries=0)
            deleted = table.delete(f"{column} < '{before.isoformat()}'", commit_properties=once)
            return int(deleted["num_deleted_rows"])

        expired = commit(self.path / name, attempt)
        forget_deleted(self.path / name)
        return expired

    def _insert(self, name: str, rows: pl.DataFrame, on: list[str]) -> int:
        """One attempt. The commit must follow the version that was looked at, or it fails and is tried again."""
        from deltalake import CommitProperties, write_deltalake

        table = open_or_create(self.path / name, _physical(name))
        known = _known(table, self.path / name, rows.select(on))
        new = rows.join(known, on=on, how="anti", nulls_equal=True, maintain_order="left")
        if new.is_empty():
            return 0
        placed = new.with_columns(
            pl.lit(table.version() + 1, pl.Int64).alias("_commit"), pl.int_range(len(new)).alias("_row")
        )
        write_deltalake(
            table, placed.to_arrow(), mode="append", commit_properties=CommitProperties(max_commit_retries=0)
        )
        return len(new)

    def _merge_files(self, name: str) -> None:
        """Keep the ledger quick to read. What does not come about now will at one of the next inserts."""
        from deltalake.exceptions import CommitFailedError

        table = open_table(self.path / name)
        if table is None or _files(table).filter(pl.col("size_bytes") < MERGED_BYTES).height <= MERGE_FILES_ABOVE:
            return
        with merging_files(self.path / name) as our_turn, suppress(CommitFailedError):
            if our_turn:
                table.update_incremental()
                table.optimize.compact(target_size=MERGED_BYTES)
                vacuum(self.path / name, table)
                forget_deleted(self.path / name)


def _known(table: DeltaTable, path: Path, keys: pl.DataFrame) -> pl.DataFrame:
    """The rows of the key columns that could be the same: a ledger grows, what an insert reads must not."""
    files = _files(table)
    large = pl.col("num_records") >= LARGE_ROWS
    looked_at = _paths(path, files.filter(~large))
    looked_at += that_may_hold(_paths(path, files.filter(large)), path, keys)
    if not looked_at:
        return keys.clear()
    telling = max(keys.columns, key=lambda column: keys[column].n_unique())
    same = pl.col(telling).is_in(keys[telling].drop_nulls().unique().implode()) | pl.col(telling).is_null()
    return scan(looked_at, keys.schema).filter(same).unique().collect()


def _files(table: DeltaTable) -> pl.DataFrame:
    """The live files of the table: path, size_bytes, num_records."""
    return pl.DataFrame(table.get_add_actions(flatten=True)).select("path", "size_bytes", "num_records")


def _paths(table: Path, files: pl.DataFrame) -> list[Path]:
    return [table / unquote(file) for file in files["path"]]


def ledger_tables(path: Path) -> list[tuple[Path, pa.Schema]]:
    """Where each ledger lies below the folder of the ledgers, and the columns it has."""
    return [(path / name, _physical(name)) for name in LEDGERS]


def _physical(name: str) -> pa.Schema:
    return pa.schema([*schema_of(name), *(pa.field(column, pa.int64()) for column in _PLACE)])
