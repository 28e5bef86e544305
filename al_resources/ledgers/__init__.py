"""The ledgers: small append-only tables of what people and machines decided (see `al_core.records.LEDGERS`)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import Protocol

import polars as pl
import pyarrow as pa

from al_core.records import LEDGERS, empty_table
from al_resources.forgotten import check_ids

EXPIRING = {"rejected_images": "rejected_at"}  # what records no decision, and the time by which it is old


class LedgerReader(Protocol):
    """The ledgers for those who only look. `name` is a key of `LEDGERS`."""

    def read(self, name: str, **equals: object) -> pl.DataFrame:
        """The ledger's rows, oldest first, filtered by equality where asked (`round=3`)."""


class Ledgers(LedgerReader, Protocol):
    """What every ledger store can do."""

    def insert_new(self, name: str, rows: pa.Table, on: Sequence[str]) -> int:
        """Append the rows whose `on` values are not in the ledger yet, in one transaction; returns how many.

        Two processes that insert the same rows at the same time insert them once.
        """

    def erase(self, name: str, image_ids: Collection[str]) -> int:
        """Erase the rows of some images, for `al forget` alone; how many there were.

        Raises `ValueError` for what is no image id, and a ledger without images.
        """

    def expire(self, name: str, before: datetime) -> int:
        """Delete what was written before then, of a ledger of `EXPIRING`; how many rows.

        A store whose service does that by itself, in its own time, deletes none. Raises `ValueError` for other
        ledgers: they are kept for ever.
        """


class ReadOnce:
    """The ledgers as they were at the first look: each is read once, however often it is asked."""

    def __init__(self, ledgers: LedgerReader) -> None:
        self._ledgers = ledgers
        self._known: dict[str, pl.DataFrame] = {}

    def read(self, name: str, **equals: object) -> pl.DataFrame:
        """As `LedgerReader.read`."""
        if name not in self._known:
            self._known[name] = self._ledgers.read(name)
        check_ledger_columns(name, equals)
        rows = self._known[name]
        for column, value in equals.items():
            rows = rows.filter(pl.col(column).is_null() if value is None else pl.col(column) == pl.lit(value))
        return rows


def schema_of(name: str) -> pa.Schema:
    """The columns of a ledger. Raises `ValueError`, naming the ledgers there are."""
    if name not in LEDGERS:
        raise ValueError(f"unknown ledger {name!r}; expected one of {sorted(LEDGERS)}")
    return LEDGERS[name]


def empty_ledger(schema: pa.Schema) -> pl.DataFrame:
    """A ledger that nobody wrote to yet."""
    return pl.DataFrame(empty_table(schema))


def check_ledger_columns(name: str, columns: Iterable[str]) -> None:
    """Raises `ValueError` for an unknown ledger, or naming the columns it does not have."""
    schema_of(name)
    if unknown := [column for column in columns if column not in LEDGERS[name].names]:
        raise ValueError(f"ledger {name!r} has no column {unknown}; it has {LEDGERS[name].names}")


def check_erasable(name: str, image_ids: Iterable[str]) -> None:
    """Raises `ValueError` for a ledger that names no images or has to keep them, and for what is no image id."""
    check_ledger_columns(name, ["image_id"])
    if name == "forgotten":
        raise ValueError("what is forgotten stays on record, so that it is not brought in again")
    check_ids(image_ids)


def check_expiring(name: str) -> str:
    """The column that tells the age of a ledger's rows. Raises `ValueError` for one that is kept for ever."""
    check_ledger_columns(name, [])
    if name not in EXPIRING:
        raise ValueError(f"the ledger {name!r} is kept for ever; only {sorted(EXPIRING)} expire")
    return EXPIRING[name]


def checked_ledger_rows(name: str, rows: pa.Table, on: Sequence[str]) -> pl.DataFrame:
    """`rows` in the ledger's schema, each `on` value once (the first).

    Raises:
        ValueError: unknown ledger, rows of another schema, or no `on` column.
    """
    schema = schema_of(name)
    check_ledger_columns(name, on)
    if not on:
        raise ValueError(f"insert_new into {name!r} needs at least one column to tell rows apart by")
    try:
        table = rows.select(schema.names).cast(schema)
    except (KeyError, pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ValueError(f"not rows of the ledger {name!r}: {error}; build them with table_of()") from error
    if unknown := [column for column in rows.schema.names if column not in schema.names]:
        raise ValueError(f"not rows of the ledger {name!r}: unknown column(s) {unknown}")
    return pl.DataFrame(table).unique(on, keep="first", maintain_order=True)
