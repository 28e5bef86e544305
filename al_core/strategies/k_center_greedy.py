"""k-center greedy (coreset): images that leave no candidate far from a labeled or chosen one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from al_core.strategies._arrays import Array, float32, namespace
from al_core.strategies._spread import Embedded, farthest_first
from al_core.strategies.base import Need, Picks, Pool, QueryStrategy
from al_core.strategies.distance_cache import DistanceCache

if TYPE_CHECKING:
    from al_core.strategies.context import StrategyContext


class KCenterGreedy(QueryStrategy):
    """The image farthest from everything labeled or chosen, again and again; the score is that distance.

    Without labeled images the one nearest to the mean of the pool comes first, and has no distance (NaN).
    A `cache` keeps the distances to the labeled images between rounds, as long as the encoder stays.
    """

    name = "k_center_greedy"
    needs: frozenset[Need] = frozenset({"embedding", "labels"})
    reference = "Sener & Savarese (2018), Active learning for convolutional neural networks: a core-set approach"
    cost = "time O(N d (L + k)), memory O(N d)"

    def __init__(self, cache: DistanceCache | None = None) -> None:
        self.cache = cache

    def given(self, context: StrategyContext) -> KCenterGreedy:
        """With the distances that earlier rounds computed."""
        return self if self.cache is not None else KCenterGreedy(context.distances)

    def query(self, pool: Pool, budget: int, seed: int) -> Picks:
        """Farthest first; `seed` changes nothing."""
        count = self.check(pool, budget)
        features, labeled = Embedded(float32(pool.embeddings)), float32(pool.labeled_embeddings)
        if count and not len(labeled):
            return _from_the_middle(features, count)
        cache = self.cache
        nearest = features.to_nearest(labeled) if cache is None else cache.to_nearest(pool, features)
        indices, distances = farthest_first(features, count, nearest)
        return Picks(indices, np.sqrt(distances))


def _from_the_middle(features: Embedded, count: int) -> Picks:
    first = _most_central(features)
    nearest = features.to_nearest(features.rows[first : first + 1])
    nearest[first] = -np.inf
    indices, distances = farthest_first(features, count - 1, nearest)
    return Picks(np.array([first, *indices]), np.sqrt([np.nan, *distances]))


def _most_central(features: Embedded) -> int:
    rows: Array = features.rows
    return int(namespace(rows).argmin(features.squares - 2 * (rows @ rows.mean(0))))
