"""TypiClust: the most typical image of each cluster that no label covers yet. Right at low budgets."""

from __future__ import annotations

import numpy as np

from al_core.strategies._arrays import Array, float32, like, namespace, to_numpy, unit_length
from al_core.strategies._ranking import round_robin
from al_core.strategies._spread import CHUNK_VALUES
from al_core.strategies.base import Need, Picks, Pool, QueryStrategy
from al_core.strategies.clustering import kmeans

_NEIGHBOURS = 20
_SMALLEST_CLUSTER = 5
_MOST_COMPARED = 10_000  # members of a cluster; a larger one is compared with a sample of that size


class TypiClust(QueryStrategy):
    """Clusters labeled and unlabeled images together and serves the clusters with the fewest labels first,
    the largest of those before the others; of each the image in the densest spot.

    The score is that density: 1 / mean distance to the 20 nearest images of the cluster (half the cluster
    where it is smaller). There are as many clusters as labels and picks together, at most `most_clusters`;
    more picks than clusters take the next typical ones. Clusters of less than 5 images come last.
    """

    name = "typiclust"
    needs: frozenset[Need] = frozenset({"embedding", "labels"})
    reference = (
        "Hacohen, Dekel & Weinshall (2022), Active learning on a budget: opposite strategies suit high and low budgets"
    )
    cost = "time O(N d (L + k)) a round of at most 10, plus O(d m^2) for each cluster of m; memory O(N d)"

    def __init__(self, most_clusters: int = 500) -> None:
        self.most_clusters = most_clusters

    def query(self, pool: Pool, budget: int, seed: int) -> Picks:
        """One image of each uncovered cluster in turn."""
        count = self.check(pool, budget)
        if not count:
            return Picks(np.empty(0, np.int64), np.empty(0))
        rows, labeled = unit_length(float32(pool.embeddings)), float32(pool.labeled_embeddings)
        xp = namespace(rows)
        together = xp.concatenate([rows, unit_length(labeled)]) if len(labeled) else rows
        clusters, _ = kmeans(together, min(count + len(labeled), self.most_clusters), seed)
        return choose_typical(rows, clusters[: len(rows)], clusters[len(rows) :], count, seed)


def choose_typical(rows: Array, clusters: np.ndarray, labeled_clusters: np.ndarray, count: int, seed: int) -> Picks:
    """The `count` images that TypiClust takes given the clusters of all images (N,) and of the labels (L,)."""
    number = 1 + int(max(clusters.max(), labeled_clusters.max(initial=0)))
    sizes = np.bincount(clusters, minlength=number)
    labels = np.bincount(labeled_clusters, minlength=number)
    small = sizes < _SMALLEST_CLUSTER
    order = np.lexsort((-sizes, labels, small))
    precedence = np.empty(number, np.int64)
    precedence[order] = np.arange(number)

    density = np.zeros(len(rows))
    members = np.split(np.argsort(clusters, kind="stable"), np.cumsum(sizes)[:-1])
    for cluster in order[sizes[order] > 0][:count]:  # no other cluster gets its turn
        density[members[cluster]] = _density(rows, members[cluster], seed)
    groups = [np.flatnonzero(~small[clusters]), np.flatnonzero(small[clusters])]
    ranked = [group[round_robin(clusters[group], -density[group], precedence)] for group in groups]
    indices = np.concatenate(ranked)[:count]
    return Picks(indices, density[indices], clusters[indices])


def _density(rows: Array, members: np.ndarray, seed: int) -> np.ndarray:
    """1 / mean distance of each member to its nearest fellows."""
    if len(members) < 2:
        return np.zeros(len(members))
    xp, neighbours = namespace(rows), min(_NEIGHBOURS, len(members) // 2)
    points = rows[like(rows, members, "int64")]
    # seen from its own mean a tight cluster keeps the digits that tell its members apart
    points = points - points.mean(0)
    others = points
    if len(members) > _MOST_COMPARED:
        sample = np.random.default_rng(seed).choice(len(members), _MOST_COMPARED, replace=False)
        others = points[like(rows, np.sort(sample), "int64")]
    squares, other_squares = (xp.einsum("nd,nd->n", each, each) for each in (points, others))
    means = np.empty(len(members))
    step = max(1, CHUNK_VALUES // len(others))
    for start in range(0, len(members), step):
        part = slice(start, start + step)
        distances = points[part] @ (-2 * others.T)
        distances += squares[part][:, None] + other_squares  # in this order both ends of a pair round alike
        if xp is np:
            nearest = np.partition(distances, neighbours, axis=1)[:, : neighbours + 1]
        else:
            nearest = to_numpy(xp.topk(distances, neighbours + 1, dim=1, largest=False).values)
        nearest = np.sqrt(np.maximum(nearest, 0))
        # the nearest of all is the member itself
        means[part] = (nearest.sum(axis=1) - nearest.min(axis=1)) / neighbours
    return 1 / (means + 1e-5)  # equal images are as dense as it gets, not infinitely dense
