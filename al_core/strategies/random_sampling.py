"""Random sampling: the baseline that every other strategy has to beat."""

from __future__ import annotations

import numpy as np

from al_core.records import image_keys
from al_core.strategies._ranking import first_by
from al_core.strategies.base import KEY_SPACE, Order, Picks, Pool, QueryStrategy


class RandomSampling(QueryStrategy):
    """Images in the order of their keys from a random pivot on; they have no score (NaN)."""

    name = "random"
    reference = "Cochran (1977), Sampling techniques"
    cost = "time and memory O(N); in the store a range of one column"

    def order(self, seed: int) -> Order:
        """The store's random order under that seed."""
        return Order("random", seed=seed)

    def query(self, pool: Pool, budget: int, seed: int) -> Picks:
        """The first `budget` images of the random order under `seed`."""
        count = self.check(pool, budget)
        distance = (image_keys(pool.image_ids.tolist()) - self.order(seed).pivot) % KEY_SPACE
        return Picks(first_by(distance, count), np.full(count, np.nan))
