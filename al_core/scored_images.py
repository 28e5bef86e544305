"""Images that a model has scored, in memory: a `CandidateSource` beside the prediction log."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import polars as pl
import pyarrow as pa

from al_core.judging.truth import Part
from al_core.strategies.base import KEY_SPACE, Order


class ScoredImages:
    """Rows of `PREDICTIONS`, one an image, as selection sees a prediction store.

    `count` says how many there were to choose from where these are only the first of them.
    """

    def __init__(self, predictions: pa.Table, part: Part | None = None, count: int | None = None) -> None:
        rows = pl.DataFrame(predictions)
        self._predictions = rows if part is None else rows.filter(part.filter(pl.col("image_key")))
        self._count = count

    def eligible(self, order: Order, limit: int, columns: Sequence[str], exclude: Collection[str] = ()) -> pa.Table:
        """The first `limit` images in `order`, see `PredictionStore.eligible`."""
        rows = self._predictions
        if exclude:
            rows = rows.filter(~pl.col("image_id").is_in(list(exclude)))
        wanted = dict.fromkeys(["image_id", *columns])
        if order.column == "random":
            rows = rows.sort((pl.col("image_key") - order.pivot) % KEY_SPACE, "image_id")
        else:
            rows = rows.sort(order.column, "image_id", descending=[order.descending, False])
            wanted |= {order.column: None}
        return rows.head(limit).select(list(wanted)).to_arrow()

    def count_eligible(self) -> int:
        """How many there are."""
        return self._predictions.height if self._count is None else self._count
