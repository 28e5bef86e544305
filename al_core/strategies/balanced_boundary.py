"""Balanced boundary: as many images for every class, those nearest to its boundary. For imbalanced data."""

from __future__ import annotations

import numpy as np

from al_core.strategies._arrays import to_numpy
from al_core.strategies._ranking import first_by
from al_core.strategies.base import Need, Picks, Pool, QueryStrategy
from al_core.uncertainty import CHUNK_VALUES


class BalancedBoundary(QueryStrategy):
    """Every class in turn takes the image nearest to its own decision boundary, from either side.

    The distance to the boundary of class c is the difference between the log-probability of c and that of
    the best other class. A class that is never predicted gets the images that are nearest to being it,
    so rare classes are not starved, as they are by margin or entropy. The score is the distance, the
    cluster is the class that took the image.
    """

    name = "balanced_boundary"
    needs: frozenset[Need] = frozenset({"probs"})
    reference = "Emam et al. (2021), Active learning at the ImageNet scale (BASE), with log-odds as the distance"
    cost = "time O(N C + C k log k), memory O(C k)"
    prefilter = "margin"

    def query(self, pool: Pool, budget: int, seed: int) -> Picks:
        """Classes take turns in their order; `seed` changes nothing."""
        count = self.check(pool, budget)
        probs = np.asarray(to_numpy(pool.probs), np.float32)
        if not count:
            return Picks(np.empty(0, np.int64), np.empty(0), np.empty(0, np.int64))
        # at most `count` images are taken by others before a class finds one of its `count` nearest free
        queues = [_nearest_to_boundary(probs, column, count) for column in range(probs.shape[1])]
        return _take_turns(queues, count)


def _nearest_to_boundary(probs: np.ndarray, column: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    distances = np.empty(len(probs))
    step = max(1, CHUNK_VALUES // probs.shape[1])
    for start in range(0, len(probs), step):
        block = probs[start : start + step]
        own = block[:, column]
        rival = np.delete(block, column, axis=1).max(axis=1, initial=0)
        odds = np.log(np.maximum([own, rival], np.finfo(np.float32).tiny))
        distances[start : start + step] = np.abs(odds[0] - odds[1])
    nearest = first_by(distances, min(count, len(distances)))
    return nearest, distances[nearest]


def _take_turns(queues: list[tuple[np.ndarray, np.ndarray]], count: int) -> Picks:
    places = [0] * len(queues)
    taken: dict[int, tuple[float, int]] = {}
    while len(taken) < count:
        for column, (nearest, distances) in enumerate(queues):
            while places[column] < len(nearest) and int(nearest[places[column]]) in taken:
                places[column] += 1
            if places[column] < len(nearest) and len(taken) < count:
                taken[int(nearest[places[column]])] = (float(distances[places[column]]), column)
    scores, classes = zip(*taken.values(), strict=True)
    return Picks(np.array(list(taken)), np.array(scores), np.array(classes))
