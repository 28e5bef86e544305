"""The ledgers in Azure Data Explorer, which knows neither keys nor transactions.

An insert looks first and adds what is missing. When two do so at the same moment both rows are there, and every
reader takes the same one of them: that of the earlier insert, by the clocks of those who wrote.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from typing import Any

import polars as pl
import pyarrow as pa

from al_core.records import LEDGERS, utc_now
from al_resources.azure.data_explorer import TABLES, KustoDatabase, Query, kql_type
from al_resources.ledgers import check_erasable, check_expiring, check_ledger_columns, checked_ledger_rows

PAGE = 2_000  # keys per query


class KustoLedgers:
    """`Ledgers` as one table each."""

    def __init__(self, database: KustoDatabase) -> None:
        self._database = database

    def insert_new(self, name: str, rows: pa.Table, on: Sequence[str]) -> int:
        """Add what is new, see `Ledgers.insert_new`.

        Raises:
            ValueError: unknown ledger, rows of another schema, or no `on` column.
            KustoError: the service refused them, or was busy or out of reach for a minute.
        """
        wanted = checked_ledger_rows(name, rows, on)
        if wanted.is_empty():
            return 0
        telling = _most_telling(wanted, on)
        pages = _paged(wanted[telling].unique())
        found = [self._database.query(known_query(name, on, telling, page)) for page in pages]
        new = wanted.join(pl.concat(found), on=list(on), how="anti", nulls_equal=True, maintain_order="left")
        if new.is_empty():
            return 0
        writer = uuid.uuid4().hex
        placed = new.with_columns(
            pl.Series("_key", [_key(on, row) for row in new.select(on).iter_rows()]),
            pl.lit(utc_now()).dt.cast_time_unit("us").alias("_at"),
            pl.lit(writer).alias("_writer"),
            pl.int_range(len(new)).alias("_row"),
        )
        # Streamed, because the next reader has to see it.
        self._database.ingest(name, placed.to_arrow().cast(TABLES[name]), "streaming")
        winners = [self._database.query(winners_query(name, page)) for page in _paged(placed["_key"])]
        return int((pl.concat(winners)["_writer"] == writer).sum())

    def read(self, name: str, **equals: object) -> pl.DataFrame:
        """The ledger in the order of insertion, filtered by equality (None finds nulls)."""
        check_ledger_columns(name, equals)
        return self._database.query(read_query(name, equals)).select(LEDGERS[name].names)

    def erase(self, name: str, image_ids: Collection[str]) -> int:
        """Erase the rows of some images, see `Ledgers.erase` and `KustoDatabase.erase_images`."""
        check_erasable(name, image_ids)
        return self._database.erase_images(name, image_ids)

    def expire(self, name: str, before: datetime) -> int:
        """Nothing: the retention policy of the table does it, after `azure.kusto_retention_days`."""
        del before
        check_expiring(name)
        return 0


# ---------------------------------------------------------------------- the queries
def read_query(name: str, equals: dict[str, object]) -> Query:
    """A ledger, each key once, oldest first."""
    text, parameters = name, dict[str, tuple[str, Any]]()
    for number, (column, value) in enumerate(equals.items()):
        kind = kql_type(LEDGERS[name].field(column).type)
        if value is None:
            text += f"\n| where {'isempty' if kind == 'string' else 'isnull'}(['{column}'])"
        elif kind == "string":
            text += f"\n| where ['{column}'] in (_p{number})"
            parameters[f"_p{number}"] = ("dynamic", [value])
        else:
            text += f"\n| where ['{column}'] == _p{number}"
            parameters[f"_p{number}"] = (kind, value)
    columns = [*LEDGERS[name].names, "_at", "_row"]
    text += f"{_EARLIEST}\n| order by _at asc, _row asc\n| project {_listed(columns)}"
    return Query(text, _rows(name, columns), parameters)


def known_query(name: str, on: Sequence[str], column: str, values: list[Any]) -> Query:
    """What the `on` columns hold in the rows where `column` is among some values, or empty."""
    kind = kql_type(LEDGERS[name].field(column).type)
    missing = f"{'isempty' if kind == 'string' else 'isnull'}(['{column}'])"
    text = f"{name}\n| where ['{column}'] in (_values) or {missing}\n| distinct {_listed(on)}"
    return Query(text, _rows(name, on), {"_values": ("dynamic", [one for one in values if one is not None])})


def winners_query(name: str, keys: list[str]) -> Query:
    """Whose row counts, of those with the same key."""
    text = f"{name}\n| where _key in (_keys){_EARLIEST}\n| project _key, _writer"
    return Query(text, _rows(name, ["_key", "_writer"]), {"_keys": ("dynamic", keys)})


_EARLIEST = """
| summarize arg_min(_writer, *) by _key, _at
| summarize arg_min(_at, *) by _key"""


def _rows(name: str, columns: Sequence[str]) -> pa.Schema:
    return pa.schema([TABLES[name].field(column) for column in columns])


def _listed(columns: Sequence[str]) -> str:
    return ", ".join(f"['{column}']" for column in columns)


def _key(on: Sequence[str], values: tuple[Any, ...]) -> str:
    text = json.dumps([list(on), values], default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _most_telling(rows: pl.DataFrame, on: Sequence[str]) -> str:
    """The column that leaves fewest other rows: the one with most different values, if it can be sent as it is."""
    usable = [column for column in on if rows.schema[column] in (pl.String, pl.Int64)] or list(on)
    return max(usable, key=lambda column: rows[column].n_unique())


def _paged(values: pl.Series) -> Iterator[list[Any]]:
    return (values[start : start + PAGE].to_list() for start in range(0, len(values), PAGE))
