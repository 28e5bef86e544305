"""Entropy times density: uncertain images that many others look like."""

from __future__ import annotations

import numpy as np

from al_core.strategies._arrays import float32, to_numpy, unit_length
from al_core.strategies._ranking import first_by
from al_core.strategies.base import Need, Picks, Pool, QueryStrategy
from al_core.uncertainty import entropy


class EntropyDensity(QueryStrategy):
    """Entropy times the mean cosine similarity to the pool (negative ones count 0) to the power `beta`.

    The mean similarity to all N images is the product with their mean direction, so no pair is compared.
    """

    name = "entropy_density"
    needs: frozenset[Need] = frozenset({"probs", "embedding"})
    reference = "Settles & Craven (2008), Active learning strategies for sequence labeling tasks, EMNLP"
    cost = "time O(N (C + d)), memory O(N d)"
    prefilter = "entropy"

    def __init__(self, beta: float = 1.0) -> None:
        self.beta = beta

    def query(self, pool: Pool, budget: int, seed: int) -> Picks:
        """The largest products; `seed` changes nothing."""
        count = self.check(pool, budget)
        if not count:
            return Picks(np.empty(0, np.int64), np.empty(0))
        directions = unit_length(float32(pool.embeddings))
        density = to_numpy((directions @ directions.mean(0)).clip(0)).astype(np.float64)
        scores = entropy(np.asarray(to_numpy(pool.probs), np.float32)) * density**self.beta
        indices = first_by(scores, count, descending=True)
        return Picks(indices, scores[indices])
