"""The newest asks, the proven serves: the images to choose from, scored again by the newest model not proven worse.

While a verdict is open, the model that serves has doubts that the newer one has lost. Where both have the same encoder
and the log holds its embeddings, the whole log is scored again by one matrix product, as a stream; otherwise a random
part of the images is read again. Only what is chosen goes into the log, as `source = "rescore"`: it is no traffic.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from al_core.reading_ahead import ahead
from al_core.records import PREDICTIONS, empty_table, prediction_table
from al_core.scored_images import ScoredImages
from al_core.strategies.base import KEY_SPACE, Order

if TYPE_CHECKING:
    from al_core.learning.inference import Predictor
    from al_resources.platform import Platform

CHUNK = 2_048  # embeddings multiplied together: these, and their probabilities, stay in the cache
_NAMED = ("image_id", "image_key", "image_uri", "image_hash")
_EMBEDDED = (*_NAMED, "embedding")


@dataclass(frozen=True)
class Rescored:
    """The images a strategy may choose from, as the asking version answers them."""

    rows: pa.Table  # of PREDICTIONS, one an image, with embeddings
    images: int  # scored again
    left_out: int  # images that cannot be read any more; from the log, predictions without an embedding
    waiting: int  # images there were to score

    @property
    def source(self) -> ScoredImages:
        """For selection."""
        return ScoredImages(self.rows, count=self.images)

    def record(self, platform: Platform, chosen: pa.Table) -> None:
        """Log the predictions that images of a batch were chosen on; those that are there already are not doubled."""
        wanted = self.rows.filter(pc.is_in(self.rows["prediction_id"], pa.array(chosen["prediction_id"].unique())))
        logged = platform.predictions.rows_of(wanted["image_id"].to_pylist(), ["prediction_id"])["prediction_id"]
        new = wanted.filter(pc.invert(pc.is_in(wanted["prediction_id"], pa.array(logged.unique(), pa.string()))))
        if not platform.settings.serving.log_embeddings:
            place = PREDICTIONS.get_field_index("embedding")
            new = new.set_column(place, PREDICTIONS.field(place), pa.nulls(len(new), PREDICTIONS.field(place).type))
        if len(new):
            platform.predictions.append(new)


def asking_version(platform: Platform, serving: int) -> int:
    """The version that selection looks with: the newest that is not proven worse than who serves."""
    from al_loop.decisions import challengers
    from al_loop.judging import newest_not_worse

    return newest_not_worse(platform, serving, challengers(platform, serving))


def rescored(
    platform: Platform, asking: int, serving: int, order: Order, keep: int, seed: int, least: int = 1
) -> Rescored:
    """The teaching images that the serving version scored and nobody was asked about, scored by the asking version.

    From logged embeddings all of them, of which the first `keep` in `order` stay, where `least` images have one;
    otherwise at most `selection.rescore_limit` of them, drawn at random, are read and answered in this process.
    """
    from al_loop.answering import predictor_of

    name, teaching = platform.settings.model.name, platform.settings.holdout.teaching
    predictor = predictor_of(platform, asking)
    waiting = platform.predictions.count_eligible(name, serving, teaching)
    if predictor.encoder_hash == predictor_of(platform, serving).encoder_hash and _embedded(platform, serving, seed):
        found = _from_log(platform, predictor, serving, order, keep, waiting)
        if found.rows.num_rows >= min(least, waiting):
            return found
    return _from_images(platform, predictor, serving, seed, waiting)


def _embedded(platform: Platform, serving: int, seed: int) -> bool:
    """Whether the log holds embeddings, by a look at a few images."""
    order, name = Order("random", seed=seed), platform.settings.model.name
    found = platform.predictions.eligible(
        name, serving, order, 16, ["embedding"], part=platform.settings.holdout.teaching
    )
    return found["embedding"].null_count < len(found)


def _from_images(platform: Platform, predictor: Predictor, serving: int, seed: int, waiting: int) -> Rescored:
    from al_core.learning.contract import LabeledImage
    from al_loop.answering import answers_of

    found = platform.predictions.eligible(
        platform.settings.model.name,
        serving,
        Order("random", seed=seed),
        platform.settings.selection.rescore_limit,
        ["image_uri", "image_hash"],
        part=platform.settings.holdout.teaching,
    )
    images = pl.DataFrame(found)
    asked = [LabeledImage(image_id, uri, "") for image_id, uri in images.select("image_id", "image_uri").iter_rows()]
    ids, probs, embeddings = answers_of(platform, predictor, asked)
    read = images.filter(pl.col("image_id").is_in(ids))  # in the order in which they were asked
    rows = _predictions(predictor, read, probs, embeddings)
    return Rescored(rows, rows.num_rows, len(asked) - rows.num_rows, waiting)


def _from_log(
    platform: Platform, predictor: Predictor, serving: int, order: Order, keep: int, waiting: int
) -> Rescored:
    best, left_out = _First(order, keep, predictor.dimension), 0
    for batch, wanted in _eligible_rows(platform, serving):
        lists = batch["embedding"]
        fits = lists.value_lengths().fill_null(-1).to_numpy(zero_copy_only=False) == predictor.dimension
        left_out += int((wanted & ~fits).sum())
        values = (lists if fits.all() else lists.filter(pa.array(fits))).flatten()
        embeddings = values.to_numpy(zero_copy_only=False).reshape(-1, predictor.dimension)
        rows, at = pl.DataFrame(batch.select(list(_NAMED))).filter(wanted & fits), np.flatnonzero(wanted[fits])
        for start in range(0, len(at), CHUNK):
            part = embeddings.take(at[start : start + CHUNK], axis=0)  # the one copy, small enough for the cache
            place = _place(rows["image_key"][start : start + CHUNK], part, predictor, order)
            best.add(rows.slice(start, CHUNK), part, place)
    first, embeddings = best.rows()
    rows = _predictions(predictor, first, predictor.classify(embeddings), embeddings)
    return Rescored(rows, max(rows.num_rows, waiting - left_out), left_out, waiting)


def _eligible_rows(platform: Platform, serving: int) -> Iterator[tuple[pa.RecordBatch, np.ndarray]]:
    """The log of the serving version, batch by batch, the next one read while one is worked on.

    With each, which of its rows (N,) are neither reserved nor of images that somebody was asked about.
    """
    teaching = platform.settings.holdout.teaching.filter(pl.col("image_key"))
    taken = pl.concat([platform.ledgers.read(ledger)["image_id"] for ledger in ("selections", "labels")]).unique()
    wanted = (teaching & ~pl.col("image_id").is_in(taken.implode())).alias("wanted")
    name = platform.settings.model.name
    for batch in ahead(platform.predictions.scan(_EMBEDDED, model_name=name, model_version=serving)):
        yield batch, pl.DataFrame(batch.select(["image_id", "image_key"])).select(wanted)["wanted"].to_numpy()


def _place(keys: pl.Series, embeddings: np.ndarray, predictor: Predictor, order: Order) -> np.ndarray:
    """Where images (N,) stand in the order, the smallest first; a random order needs no answer of the model."""
    from al_core.uncertainty import entropy, least_confidence, margin

    if order.column == "random":
        return ((keys - order.pivot) % KEY_SPACE).to_numpy()
    probs = predictor.classify(embeddings)
    if order.column == "confidence":
        values = 1 - least_confidence(probs)
    else:
        values = margin(probs) if order.column == "margin" else entropy(probs)
    return -values if order.descending else values


class _First:
    """The first images in an order, of a stream of rows; holds at most twice as many as it keeps, and one part."""

    def __init__(self, order: Order, keep: int, dimension: int) -> None:
        self._type = pl.Int64() if order.column == "random" else pl.Float32()
        self._keep = keep
        self._none = np.empty((0, dimension), np.float32)
        self._parts: list[tuple[pl.DataFrame, np.ndarray]] = []
        self._held = 0
        self._last: float | int | None = None  # nothing behind it can be among the first any more

    def add(self, rows: pl.DataFrame, embeddings: np.ndarray, place: np.ndarray) -> None:
        """Rows (N), their embeddings (N, d), and where each stands; what may be among the first is copied."""
        near = np.arange(len(place)) if self._last is None else np.flatnonzero(place <= self._last)
        if not len(near):
            return
        placed = rows[near].with_columns(place=pl.Series(place[near], dtype=self._type))
        self._parts.append((placed, embeddings[near]))
        self._held += len(near)
        if self._held > 2 * self._keep:
            self._shrink()

    def rows(self) -> tuple[pl.DataFrame, np.ndarray]:
        """The first, in order, and their embeddings; an image that was scored several times comes once."""
        self._shrink()
        if not self._parts:
            return pl.DataFrame(empty_table(PREDICTIONS).select(_NAMED)), self._none
        rows, embeddings = self._parts[0]
        return rows.drop("place"), embeddings

    def _shrink(self) -> None:
        if not self._parts:
            return
        all_rows = pl.concat([rows for rows, _ in self._parts]).with_row_index("at")
        one_each = all_rows.unique("image_id", keep="any")  # equal content, equal embedding
        first = one_each.sort("place", "image_id").head(self._keep)
        self._parts = [(first.drop("at"), self._embeddings_at(first["at"].to_numpy()))]
        self._held = first.height
        self._last = first["place"][-1] if first.height == self._keep and self._keep else self._last

    def _embeddings_at(self, at: np.ndarray) -> np.ndarray:
        """Those of some rows of all parts, without putting the parts together."""
        chosen, start = np.empty((len(at), self._none.shape[1]), np.float32), 0
        for rows, embeddings in self._parts:
            ours = (at >= start) & (at < start + rows.height)
            chosen[ours] = embeddings[at[ours] - start]
            start += rows.height
        return chosen


def _predictions(predictor: Predictor, images: pl.DataFrame, probs: np.ndarray, embeddings: np.ndarray) -> pa.Table:
    """Rows of `PREDICTIONS` for images (N) with id, uri and hash, under ids that a second attempt finds again."""
    ids: Sequence[str] = images["image_id"].to_list()
    rows = prediction_table(
        image_ids=ids,
        image_uris=images["image_uri"].to_list(),
        image_hashes=images["image_hash"].to_list(),
        model_name=predictor.name,
        model_version=predictor.version,
        classes=predictor.classes,
        probs=probs,
        source="rescore",
        embeddings=embeddings,
    )
    named = [str(uuid.uuid5(uuid.NAMESPACE_OID, f"rescore/{predictor.name}/{predictor.version}/{one}")) for one in ids]
    return rows.set_column(0, PREDICTIONS.field("prediction_id"), pa.array(named, pa.string()))
