"""The table of embeddings in Azure Data Explorer, which keeps each value in 16 bits (`Vector16`).

An image that two processes added at the same moment has two rows; every reader takes the earlier one. A database that
was set up before there was this table goes on without it: nothing is known, nothing is kept, and the log says so once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import datetime
from typing import Any, TypeVar

import numpy as np
import polars as pl
import pyarrow as pa

from al_core.learning.known_embeddings import Embedded
from al_core.records import EMBEDDINGS
from al_resources.azure.data_explorer import KustoDatabase, Query
from al_resources.embedding_store import Extent, check_embeddings, first_unknown, in_order, nothing_known, rows_at

TABLE = "embeddings"
PAGE = 2_000  # embeddings per answer: an answer is cut at 64 MB
IDS = 20_000  # ids asked about at once where no embedding comes back
LOGGER = logging.getLogger(__name__)
Answer = TypeVar("Answer")


class KustoEmbeddingStore:
    """`EmbeddingStore` as one table, cleared away with the predictions (`azure.kusto_retention_days`)."""

    def __init__(self, database: KustoDatabase) -> None:
        self._database = database
        self._told = False

    def add(
        self,
        encoder: str,
        image_ids: Sequence[str],
        embeddings: np.ndarray,
        image_hashes: Sequence[str | None] | None = None,
    ) -> int:
        """Send what is new, see `EmbeddingStore.add`.

        Raises:
            InvalidInput: see there.
            KustoError: the service refused the rows, or was busy or out of reach for a minute.
        """
        check_embeddings(image_ids, embeddings)
        new = first_unknown(image_ids, self.known(encoder, image_ids))
        if not len(new):
            return 0
        rows = rows_at(new, encoder, image_ids, embeddings, image_hashes)
        return self._if_there(lambda: self._send(rows), 0)

    def _send(self, rows: pa.Table) -> int:
        self._database.ingest(TABLE, rows, "streaming")  # who asks next is to find them
        return len(rows)

    def read(self, encoder: str, image_ids: Sequence[str]) -> Embedded:
        """What this encoder made of these images, page by page."""
        pages = [self._asked(read_query(encoder, page)) for page in _paged(image_ids, PAGE)]
        found = pl.concat(pages) if pages else pl.DataFrame()
        if found.is_empty():
            return nothing_known(len(image_ids))
        return in_order(image_ids, found, _matrix(found["embedding"]))

    def stream(self, encoder: str, image_ids: Collection[str]) -> Iterator[tuple[pl.Series, np.ndarray]]:
        """What this encoder made of these images, page by page."""
        for page in _paged(sorted(image_ids), PAGE):  # as they lie in the extents
            found = self._asked(read_query(encoder, page))
            if found.height:
                yield found["image_id"], _matrix(found["embedding"])

    def known(self, encoder: str, image_ids: Sequence[str]) -> np.ndarray:
        """Which of these images have an embedding of this encoder."""
        pages = [self._asked(known_query(encoder, page))["image_id"] for page in _paged(image_ids, IDS)]
        there = set(pl.concat(pages)) if pages else set()
        return np.array([image_id in there for image_id in image_ids], bool)

    def counts(self) -> dict[str, int]:
        """How many embeddings there are, by encoder."""
        return dict(self._asked(counts_query()).iter_rows())

    def extent(self, encoder: str, until: datetime | None = None) -> Extent:
        """How many rows an encoder has, of those that were added until a moment."""
        found = self._asked(extent_query(encoder, until))
        return Extent(*found.row(0)) if found.height else Extent(0, None)

    def rows_of(self, image_ids: Collection[str]) -> int:
        """How many rows there are of some images, of whatever encoder."""
        return int(self._asked(rows_query(sorted(image_ids)))["Count"].sum())

    def erase(self, image_ids: Collection[str]) -> int:
        """Erase what every encoder made of some images, see `KustoDatabase.erase_images`."""
        return self._if_there(lambda: self._database.erase_images(TABLE, image_ids), 0)

    def compact(self, keep: Collection[str] = ()) -> dict[str, int]:
        """Data Explorer merges its extents by itself."""
        return {}

    def _asked(self, query: Query) -> pl.DataFrame:
        from al_core.records import empty_table

        return self._if_there(lambda: self._database.query(query), pl.DataFrame(empty_table(query.answer)))

    def _if_there(self, ask: Callable[[], Answer], otherwise: Answer) -> Answer:
        """What `ask` answers; `otherwise` where the database has no such table yet."""
        from azure.kusto.data.exceptions import KustoServiceError

        try:
            return ask()
        except KustoServiceError as error:
            if not says_that_it_is_missing(str(error)):
                raise
            if not self._told:
                LOGGER.warning("the database has no table %s, so no embedding is kept; `al upgrade` makes it", TABLE)
                self._told = True
            return otherwise


def _matrix(lists: pl.Series) -> np.ndarray:
    """(K, d) float32 of K equally long lists."""
    return lists.explode().to_numpy().reshape(len(lists), -1).astype(np.float32, copy=False)


def says_that_it_is_missing(error: str) -> bool:
    """Whether an error of the service says that there is no table of embeddings.

    A query names it as what cannot be resolved (SEM0100), an ingestion or command as an entity that was not found.
    """
    named = f"'{TABLE}'" in error or f"table {TABLE}" in error.lower() or f"Table '{TABLE}'" in error
    return named and any(sign in error for sign in ("SEM0100", "resolve", "does not refer", "not found"))


# ---------------------------------------------------------------------- the queries
_COUNT = pa.schema([("Count", pa.int64())])


def read_query(encoder: str, image_ids: Sequence[str]) -> Query:
    """The embeddings of some images, each once."""
    text = f"""{TABLE}{_OF_IMAGES}
| summarize arg_min(embedded_at, image_hash, embedding) by image_id
| project image_id, image_hash, embedding"""
    answer = pa.schema([EMBEDDINGS.field(name) for name in ("image_id", "image_hash", "embedding")])
    return Query(text, answer, _parameters(encoder, image_ids))


def known_query(encoder: str, image_ids: Sequence[str]) -> Query:
    """Those of some images that are there."""
    text = f"{TABLE}{_OF_IMAGES}\n| distinct image_id"
    return Query(text, pa.schema([EMBEDDINGS.field("image_id")]), _parameters(encoder, image_ids))


def counts_query() -> Query:
    """How many images each encoder has seen."""
    text = f"{TABLE}\n| distinct encoder, image_id\n| summarize images = count() by encoder\n| project encoder, images"
    return Query(text, pa.schema([EMBEDDINGS.field("encoder"), ("images", pa.int64())]))


def extent_query(encoder: str, until: datetime | None = None) -> Query:
    """How many rows an encoder has, and when the last of them was added."""
    parameters: dict[str, tuple[str, Any]] = {"_encoder": ("dynamic", [encoder])}
    added = ""
    if until is not None:
        added = "\n| where embedded_at <= _until"
        parameters["_until"] = ("datetime", until)
    text = f"""{TABLE}
| where encoder in (_encoder){added}
| summarize rows = count(), newest = max(embedded_at)
| project rows, newest"""
    answer = pa.schema([("rows", pa.int64()), ("newest", EMBEDDINGS.field("embedded_at").type)])
    return Query(text, answer, parameters)


def rows_query(image_ids: Sequence[str]) -> Query:
    """How many rows some images have."""
    text = f"{TABLE}\n| where image_id in (_ids)\n| count"
    return Query(text, _COUNT, {"_ids": ("dynamic", list(image_ids))})


_OF_IMAGES = """
| where encoder in (_encoder)
| where image_id in (_ids)"""


def _parameters(encoder: str, image_ids: Sequence[str]) -> dict[str, tuple[str, list[str]]]:
    return {"_encoder": ("dynamic", [encoder]), "_ids": ("dynamic", list(image_ids))}


def _paged(image_ids: Sequence[str], size: int) -> Iterator[list[str]]:
    return (list(image_ids[start : start + size]) for start in range(0, len(image_ids), size))
