"""The prediction log beside the table of embeddings: what a frozen encoder made of an image is kept there, once.

A row of a version whose manifest names its encoder holds no embedding: it refers to the table by that encoder's hash
and the image's id. Here, and nowhere else, the embedding is taken out of rows that are appended and put into rows that
are read, whatever the stores are. What the table does not have stays in the log: embeddings of versions that were
trained whole, which no other version shares, and of versions from before manifests named the encoder.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from al_core.judging.truth import Part
from al_core.records import PREDICTIONS, lists_of
from al_core.strategies.base import Order
from al_resources.prediction_store import PredictionStore, Watermark
from al_resources.prediction_store.rows import check_columns, checked_rows, wanted_columns

if TYPE_CHECKING:
    from al_resources.embedding_store import EmbeddingStore

EMBEDDING = PREDICTIONS.field("embedding")
REFERENCE = ("image_id", "model_name", "model_version")  # what a row refers to the table by
HELD_BYTES = 128 << 20  # of narrow columns, while the table is read once for all of them


class ReferringPredictionStore:
    """`PredictionStore` whose rows of frozen encoders refer to the table of embeddings."""

    def __init__(
        self,
        log: PredictionStore,
        embeddings: Callable[[], EmbeddingStore],
        encoder_of: Callable[[str, int], str | None],
    ) -> None:
        """`log` holds the rows; `encoder_of` says by model and version whose embeddings the table has; None: none."""
        self.log = log
        self._embeddings = embeddings
        self._encoder_of = encoder_of

    # ------------------------------------------------------------------ writing
    def append(self, predictions: pa.Table) -> None:
        """Keep the embeddings, then add the rows, which refer to them; raises what either store raises.

        In this order, so that no row is on the disk before what it refers to; whoever is interrupted in between appends
        the rows again and finds the embeddings known.
        """
        rows = checked_rows(predictions)
        if rows["embedding"].null_count < len(rows):
            rows = self._referring(rows)
        self.log.append(rows)

    def _referring(self, rows: pa.Table) -> pa.Table:
        """The rows without the embeddings that the table has by now."""
        kept = np.zeros(len(rows), bool)
        for encoder, of_encoder in self._by_encoder(rows):
            places, matrix = _usable(rows["embedding"], of_encoder)
            if not len(places):
                continue
            part = rows.select(["image_id", "image_hash"]).take(pa.array(places))
            ids = part["image_id"].to_pylist()
            new = self._embeddings().add(encoder, ids, matrix, part["image_hash"].to_pylist())
            # a database that was set up before there was a table keeps nothing, and says so by this alone
            known = new == len(set(ids)) or self._embeddings().known(encoder, ids)
            kept[places] = known
        if not kept.any():
            return rows
        without = pc.if_else(pa.array(kept), pa.nulls(len(rows), EMBEDDING.type), rows["embedding"])
        return rows.set_column(rows.schema.get_field_index("embedding"), EMBEDDING, without)

    def _by_encoder(self, rows: pa.Table) -> Iterator[tuple[str, np.ndarray]]:
        """Each encoder that some rows refer to, and which, (N,) bool."""
        versions = pl.DataFrame(rows.select(["model_name", "model_version"]))
        found: dict[str, np.ndarray] = {}
        for name, version in versions.unique(maintain_order=True).iter_rows():
            if (encoder := self._encoder_of(name, version)) is not None:
                same = versions.select((pl.col("model_name") == name) & (pl.col("model_version") == version))
                found[encoder] = found.get(encoder, False) | same.to_series().to_numpy()
        yield from found.items()

    def erase(self, image_ids: Collection[str]) -> int:
        """Erase every prediction of some images; their embeddings are erased from the table, see `al forget`."""
        return self.log.erase(image_ids)

    def compact(self) -> dict[str, int]:
        """Tidy up the log; the table of embeddings has its own way."""
        return self.log.compact()

    def failures(self) -> list[str]:
        """Rows the log took over and could not keep."""
        return self.log.failures()

    # ------------------------------------------------------------------ reading
    def watermark(self, model_name: str | None = None, model_version: int | None = None) -> Watermark:
        """How far the log has come, see `PredictionStore.watermark`."""
        return self.log.watermark(model_name, model_version)

    def eligible(
        self,
        model_name: str,
        model_version: int | None,
        order: Order,
        limit: int,
        columns: Sequence[str],
        exclude: Collection[str] = (),
        part: Part | None = None,
    ) -> pa.Table:
        """The first `limit` eligible images in `order`, see `PredictionStore.eligible`."""
        found = self.log.eligible(model_name, model_version, order, limit, _asked(columns), exclude, part)
        return self._embedded(found, wanted_columns(columns, order))

    def count_eligible(self, model_name: str, model_version: int | None, part: Part | None = None) -> int:
        """How many distinct images `eligible` could return."""
        return self.log.count_eligible(model_name, model_version, part)

    def first_logged(self, model_name: str, model_version: int) -> datetime | None:
        """When the traffic of a version began."""
        return self.log.first_logged(model_name, model_version)

    def sample(
        self,
        model_name: str,
        model_version: int,
        since: datetime,
        until: datetime,
        limit: int,
        columns: Sequence[str],
        *,
        seed: int,
        part: Part | None = None,
    ) -> pa.Table:
        """A uniform sample of the images answered in some days, see `PredictionStore.sample`."""
        window = (model_name, model_version, since, until)
        found = self.log.sample(*window, limit, _asked(columns), seed=seed, part=part)
        return self._embedded(found, ["image_id", *columns])

    def rows_of(self, image_ids: Collection[str], columns: Sequence[str] | None = None) -> pa.Table:
        """Every prediction of these images, newest first."""
        wanted = PREDICTIONS.names if columns is None else columns
        return self._embedded(self.log.rows_of(image_ids, _asked(wanted)), wanted)

    def scan(
        self,
        columns: Sequence[str],
        *,
        since: datetime | None = None,
        model_name: str | None = None,
        model_version: int | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """The log in batches of bounded size, see `PredictionStore.scan`; with embeddings in no order.

        The table is read once for as many rows as `HELD_BYTES` hold without their embeddings, and a batch is what came
        of the table at once: to look up the images of each batch of the log would read all of the table for each.
        """
        asked = _asked(columns)
        batches = self.log.scan(asked, since=since, model_name=model_name, model_version=model_version)
        if "embedding" not in columns:
            yield from batches
            return
        names, held, size = list(dict.fromkeys(columns)), list[pa.RecordBatch](), 0
        for batch in batches:
            lacking = pc.is_null(batch["embedding"])
            if lacking.false_count:
                yield batch.filter(pc.invert(lacking)).select(names)
            held.append(batch.filter(lacking).drop_columns(["embedding"]))
            size += held[-1].nbytes
            if size >= HELD_BYTES:
                yield from self._streamed(pa.Table.from_batches(held), names)
                held, size = [], 0
        if held:
            yield from self._streamed(pa.Table.from_batches(held), names)

    # ------------------------------------------------------------------ parts
    def _embedded(self, rows: pa.Table, columns: Sequence[str]) -> pa.Table:
        """`columns` of the rows, those that refer to an embedding with it."""
        names = list(dict.fromkeys(columns))
        if "embedding" not in names or not rows["embedding"].null_count:
            return rows.select(names)
        lists = rows["embedding"]
        lacking = pc.is_null(lists).to_numpy()
        for encoder, of_encoder in self._by_encoder(rows):
            places = np.flatnonzero(of_encoder & lacking)
            found = self._embeddings().read(encoder, rows["image_id"].take(pa.array(places)).to_pylist())
            lists = _filled(lists, places[found.known], found.embeddings)
        return rows.set_column(rows.schema.get_field_index("embedding"), EMBEDDING, lists).select(names)

    def _streamed(self, rows: pa.Table, names: list[str]) -> Iterator[pa.RecordBatch]:
        """The rows in the order in which the table gives their embeddings, then those of which it has none."""
        left = pl.DataFrame(rows).with_row_index("place")
        given = np.zeros(left.height, bool)
        for encoder, of_encoder in self._by_encoder(rows):
            own = left.filter(pl.Series(of_encoder))
            for ids, matrix in self._embeddings().stream(encoder, own["image_id"].unique()):
                part = ids.rename("image_id").to_frame().with_row_index("at")
                found = part.join(own, on="image_id", how="inner", maintain_order="left")
                found = found.filter(pl.Series(~given[found["place"].to_numpy()])).unique("place", maintain_order=True)
                given[found["place"].to_numpy()] = True
                at = found["at"].to_numpy()
                together = len(at) == len(matrix) and (at == np.arange(len(at))).all()
                yield _batch(found, lists_of(matrix if together else matrix[at]), names)
        rest = left.filter(pl.Series(~given))
        if rest.height:
            yield _batch(rest, pa.nulls(rest.height, EMBEDDING.type), names)


def engine_of(store: PredictionStore) -> PredictionStore:
    """The store that holds the rows, for questions put to it in its own language."""
    return store.log if isinstance(store, ReferringPredictionStore) else store


def _asked(columns: Sequence[str]) -> list[str]:
    """What is asked of the log: with an embedding what it may refer to it by."""
    check_columns(columns)
    return list(dict.fromkeys([*columns, *(REFERENCE if "embedding" in columns else ())]))


def _usable(lists: pa.ChunkedArray, among: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the embeddings among some that a table can hold, finite and as wide as the first, and these."""
    widths = pc.list_value_length(lists).fill_null(0).to_numpy()
    places = np.flatnonzero(among & (widths > 0))
    places = places[widths[places] == widths[places[:1]]]
    if not len(places):
        return places, np.empty((0, 0), np.float32)
    chosen = lists.combine_chunks()
    chosen = chosen if len(places) == len(lists) else chosen.take(pa.array(places))
    matrix = chosen.flatten().to_numpy(zero_copy_only=False).reshape(len(places), -1)
    finite = np.isfinite(matrix).all(axis=1)
    return (places, matrix) if finite.all() else (places[finite], matrix[finite])


def _filled(lists: pa.ChunkedArray, places: np.ndarray, matrix: np.ndarray) -> pa.ChunkedArray:
    """The lists, with the rows of a (K, d) matrix at some ascending places, where there is none."""
    if not len(places):
        return lists
    count = len(lists)
    if lists.null_count == count:  # without a copy of the values, which are most of what a pool takes
        there = np.zeros(count, bool)
        there[places] = True
        starts = np.concatenate([[0], np.cumsum(there * matrix.shape[1])]).astype(np.int32)
        values = pa.array(np.ascontiguousarray(matrix, np.float32).ravel())
        return pa.chunked_array([pa.ListArray.from_arrays(pa.array(starts), values, mask=pa.array(~there))])
    index = np.arange(count)
    index[places] = count + np.arange(len(places))
    return pa.chunked_array([pa.concat_arrays([*lists.chunks, lists_of(matrix)]).take(pa.array(index))])


def _batch(rows: pl.DataFrame, embeddings: pa.Array, names: list[str]) -> pa.RecordBatch:
    table = rows.select([name for name in names if name != "embedding"]).to_arrow()
    table = table.append_column(EMBEDDING, embeddings).select(names)
    return table.cast(pa.schema([PREDICTIONS.field(name) for name in names])).combine_chunks().to_batches()[0]
