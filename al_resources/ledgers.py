"""The ledgers: small append-only tables of what people and machines decided (see `al_core.records.LEDGERS`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import polars as pl
import pyarrow as pa


class Ledgers(Protocol):
    """What every ledger store can do. `name` is a key of `LEDGERS`."""

    def insert_new(self, name: str, rows: pa.Table, on: Sequence[str]) -> int:
        """Append the rows whose `on` values are not in the ledger yet, in one transaction; returns how many.

        Two processes that insert the same rows at the same time insert them once.
        """

    def read(self, name: str, **equals: object) -> pl.DataFrame:
        """The ledger's rows, oldest first, filtered by equality where asked (`round=3`)."""
