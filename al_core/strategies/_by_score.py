"""Strategies that only order images by one logged score."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from al_core.strategies._ranking import first_by
from al_core.strategies.base import Need, Order, Picks, Pool, QueryStrategy
from al_core.uncertainty import uncertainty_scores


class ByScore(QueryStrategy):
    """The images with the smallest (or largest) value of a column of the prediction log.

    The store answers by itself (`order`); `query` gives the same images from probabilities, because both
    compute the score in float32.
    """

    needs: frozenset[Need] = frozenset({"probs"})
    cost: ClassVar[str] = "time O(N C), memory O(N); in the store a top-k over one column"
    column: ClassVar[Literal["confidence", "margin", "entropy"]]
    descending: ClassVar[bool] = False

    def order(self, seed: int) -> Order:
        """The column itself."""
        return Order(self.column, descending=self.descending)

    def query(self, pool: Pool, budget: int, seed: int) -> Picks:
        """The `budget` most extreme scores; `seed` changes nothing."""
        count = self.check(pool, budget)
        scores = getattr(uncertainty_scores(np.asarray(pool.probs, np.float32)), self.column)
        indices = first_by(scores, count, descending=self.descending)
        return Picks(indices, scores[indices].astype(np.float64))
