"""ProbCover: images whose neighbourhoods cover as much of the pool as possible. Right at low budgets."""

from __future__ import annotations

import numpy as np

from al_core.strategies._arrays import Array, float32, like, namespace, to_numpy, unit_length
from al_core.strategies._balls import Balls
from al_core.strategies._spread import CHUNK_VALUES, Embedded, farthest_first
from al_core.strategies.base import Need, Picks, Pool, QueryStrategy
from al_core.strategies.clustering import kmeans

_CLASSES_UNKNOWN = 10
_SAMPLED_BALLS = 2000


class ProbCover(QueryStrategy):
    """The image with the most uncovered images within `radius`, again and again.

    Embeddings are scaled to length 1. Without a `radius`, it is the largest at which a share `purity` of the
    images has only neighbours of its own k-means cluster, with as many clusters as classes were labeled (10
    before there are labels): the strategy is very sensitive to it. The score is the number of images newly
    covered. When all are covered, the farthest ones follow, with score 0.
    """

    name = "probcover"
    needs: frozenset[Need] = frozenset({"embedding", "labels"})
    reference = "Yehuda, Dekel, Hacohen & Weinshall (2022), Active learning through a covering lens"
    cost = "time O(N^2 d) at worst, less where the pool has clusters; memory O(N (d + sqrt N))"

    def __init__(self, radius: float | None = None, purity: float = 0.95) -> None:
        self.radius = radius
        self.purity = purity

    def query(self, pool: Pool, budget: int, seed: int) -> Picks:
        """Greedy cover; the seed decides where the radius is estimated."""
        count = self.check(pool, budget)
        if not count:
            return Picks(np.empty(0, np.int64), np.empty(0))
        rows, labeled = unit_length(float32(pool.embeddings)), unit_length(float32(pool.labeled_embeddings))
        radius = self.radius
        if radius is None:
            classes = len(np.unique(to_numpy(pool.labeled_targets))) or _CLASSES_UNKNOWN
            radius = pure_radius(rows, max(2, classes), self.purity, seed)
        indices, covered = _cover(Balls(rows, radius, seed), labeled, count)
        rest, _ = _farthest(Embedded(rows), labeled, indices, count - len(indices))
        return Picks(
            np.concatenate([indices, rest]),
            np.concatenate([covered, np.zeros(len(rest))]),
            details={"radius": float(radius), "images covered": float(covered.sum())},
        )


def pure_radius(rows: Array, clusters: int, purity: float, seed: int) -> float:
    """The largest radius at which a share `purity` of the balls holds points of one cluster only.

    Estimated on at most 2 000 balls; the points, shape (N, d), have unit length. 2 where there is one cluster.
    """
    labels, _ = kmeans(rows, clusters, seed)
    sample = np.random.default_rng(seed).choice(len(rows), min(len(rows), _SAMPLED_BALLS), replace=False)
    largest_foreign = np.full(len(sample), -np.inf)  # cosine with the nearest point of another cluster
    centres = rows[like(rows, sample, "int64")]
    step = max(1, CHUNK_VALUES // len(sample))
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        cosines = to_numpy(rows[part] @ centres.T)
        foreign = labels[part][:, None] != labels[sample]
        largest_foreign = np.maximum(largest_foreign, np.where(foreign, cosines, -np.inf).max(axis=0))
    free = np.sort(np.sqrt(np.maximum(2 - 2 * largest_foreign, 0)))
    limit = free[min(int((1 - purity) * len(free)), len(free) - 1)]
    return float(np.nextafter(limit, 0)) if np.isfinite(limit) else 2.0


def _cover(balls: Balls, labeled: Array, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Greedy picks and how many points each newly covers, until `count` or until all are covered."""
    place_of = np.empty(len(balls.order), np.int64)
    place_of[balls.order] = np.arange(len(balls.order))
    covered = balls.around(labeled)
    sizes = balls.sizes()
    if covered.any():
        sizes -= balls.overlap(np.flatnonzero(covered))
    uncovered_in = np.empty_like(sizes)
    uncovered_in[balls.order] = sizes  # by position in the pool, where the first of equals is to be picked
    picks: list[int] = []
    gains: list[int] = []
    while len(picks) < count:
        pick = int(uncovered_in.argmax())
        if uncovered_in[pick] <= 0:
            break
        members = balls.members(int(place_of[pick]))
        fresh = members[~covered[members]]
        picks.append(pick)
        gains.append(len(fresh))
        covered[fresh] = True
        if len(fresh):
            uncovered_in[balls.order] -= balls.overlap(fresh)
        uncovered_in[pick] = -1
    return np.array(picks, np.int64), np.array(gains, np.float64)


def _farthest(features: Embedded, labeled: Array, picked: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    nearest = features.to_nearest(labeled)
    nearest = namespace(nearest).minimum(
        nearest, features.to_nearest(features.rows[like(features.rows, picked, "int64")])
    )
    nearest[like(features.rows, picked, "int64")] = -np.inf
    return farthest_first(features, count, nearest)
