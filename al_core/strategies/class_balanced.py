"""Class-balanced: another strategy's picks, spread so that every class ends up with as many labels."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

import numpy as np

from al_core.strategies._arrays import to_numpy
from al_core.strategies.base import Picks, Pool, QueryStrategy
from al_core.strategies.margin import Margin

if TYPE_CHECKING:
    from al_core.strategies.context import StrategyContext


class ClassBalanced(QueryStrategy):
    """Fills the classes up from the one with the fewest labels; a class is filled with images predicted to
    belong to it, as the strategy `base` chooses them. Score and order within a class are those of `base`, the
    cluster is the class.
    """

    name = "class_balanced"
    reference = "Bengar et al. (2022), Class-balanced active learning for image classification"
    cost = "time O(N C + k log C) and that of the strategy inside, memory O(N)"

    def __init__(self, base: QueryStrategy | None = None) -> None:
        self.base = base or Margin()
        self.needs = self.base.needs | {"probs", "labels"}
        self.prefilter = self.base.prefilter

    def given(self, context: StrategyContext) -> ClassBalanced:
        """With what the strategy inside takes of it."""
        return ClassBalanced(self.base.given(context))

    def query(self, pool: Pool, budget: int, seed: int) -> Picks:
        """Class by class, the rarest first."""
        count = self.check(pool, budget)
        probs = to_numpy(pool.probs)
        classes = probs.shape[1]
        predicted = probs.argmax(axis=1) if len(pool) else np.empty(0, np.int64)
        labels = np.bincount(to_numpy(pool.labeled_targets).astype(np.int64), minlength=classes)[:classes]
        turns = _fill_up(labels, np.bincount(predicted, minlength=classes), count)

        indices, scores = np.empty(count, np.int64), np.empty(count)
        for column in np.unique(turns):
            members, mine = np.flatnonzero(predicted == column), turns == column
            picks = self.base.query(pool.take(members), int(mine.sum()), seed)
            indices[mine], scores[mine] = members[picks.indices], picks.scores
        return Picks(indices, scores, turns)


def _fill_up(labels: np.ndarray, available: np.ndarray, count: int) -> np.ndarray:
    """Which class gets each of `count` picks: always the one with the fewest labels that has images left."""
    queue = [(int(have), column) for column, have in enumerate(labels) if available[column]]
    heapq.heapify(queue)
    left, turns = available.copy(), np.empty(count, np.int64)
    for number in range(count):
        have, column = heapq.heappop(queue)
        turns[number] = column
        left[column] -= 1
        if left[column]:
            heapq.heappush(queue, (have + 1, column))
    return turns
