"""UHerding: images that stand for as much of the model's doubt as possible, at every budget."""

from __future__ import annotations

import numpy as np

from al_core.strategies._arrays import Array, float32, like, to_numpy, unit_length
from al_core.strategies.base import Need, Picks, Pool, QueryStrategy
from al_core.strategies.max_herding import herd
from al_core.uncertainty import uncertainty_scores

WIDEST = 1.0  # MaxHerding's bandwidth: nothing is known yet
NARROWEST = 0.05  # of vectors of unit length: below it an image stands for hardly more than itself
_ROWS = 1024  # labeled images compared with all others at a time


class UHerding(QueryStrategy):
    """MaxHerding in which every image of the pool counts as much as the model doubts it.

    The doubt is one minus the margin of the calibrated probabilities. The kernel's bandwidth is the distance between
    the labeled images that lie closest to each other: wide while labels are few, so that any image stands for many
    and typical ones are chosen; narrow once they are many, so that an image stands for itself and its own doubt
    decides. The score is the mean doubt that is newly covered.
    """

    name = "uherding"
    needs: frozenset[Need] = frozenset({"probs", "embedding", "labels"})
    reference = (
        "Bae, Oliveira & Sutherland (2025), Uncertainty herding: one active learning method for all label budgets"
    )
    cost = "time O(N M d + L^2 d) for M references, then usually a few times O(M d) a pick; memory O(N d)"

    def __init__(self, references: int = 2000) -> None:
        self.references = references

    def query(self, pool: Pool, budget: int, seed: int) -> Picks:
        """Lazy greedy; the seed draws the references of a pool that has more images."""
        count = self.check(pool, budget)
        if not count:
            return Picks(np.empty(0, np.int64), np.empty(0))
        rows, labeled = unit_length(float32(pool.embeddings)), unit_length(float32(pool.labeled_embeddings))
        return herd(
            rows,
            labeled,
            count,
            seed,
            bandwidth=adapted_bandwidth(labeled),
            references=self.references,
            weights=like(rows, 1 - uncertainty_scores(to_numpy(pool.probs)).margin),
        )


def adapted_bandwidth(labeled: Array) -> float:
    """The distance between the two of the (L, d) rows of unit length that lie closest, `NARROWEST` to `WIDEST`."""
    nearest = WIDEST
    for start in range(0, len(labeled), _ROWS):
        cosines = labeled[start : start + _ROWS] @ labeled.T
        place = like(labeled, np.arange(len(cosines)), "int64")
        cosines[place, place + start] = -1.0  # itself
        nearest = min(nearest, (2 - 2 * min(1.0, float(cosines.max()))) ** 0.5)
    return max(NARROWEST, nearest)
