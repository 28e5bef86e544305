"""Who lies within a radius of whom, among N points of unit length, without a graph of N^2 edges in memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from al_core.strategies._arrays import Array, like, namespace, to_numpy
from al_core.strategies._spread import CHUNK_VALUES
from al_core.strategies.clustering import kmeans, nearest_centre

_CLUSTERING_ROWS = 20_000
PRUNED_FROM = 1000  # points; fewer are compared before they are clustered


class Balls:
    """Balls of one radius around the points `rows`, shape (N, d), which have unit length.

    The points are ordered by cluster. Between two clusters lies a slab at right angles to the line through
    their centres; where it is thicker than the radius, no pair of the two can be close and none is compared.
    This is exact, and on data that has clusters most pairs fall away. On a GPU everything is compared.
    """

    def __init__(self, rows: Array, radius: float, seed: int) -> None:
        self.least_cosine = 1 - radius**2 / 2  # |x - y|^2 = 2 - 2 <x, y> on the unit sphere
        count = len(rows)
        if namespace(rows) is np and count >= PRUNED_FROM:
            labels, centres = _clusters(rows, seed)
        else:
            labels, centres = np.zeros(count, np.int64), rows[:1]
        self.order = np.argsort(labels, kind="stable")  # sorted place -> position in `rows`
        self.points = rows[like(rows, self.order, "int64")]
        self._cluster = labels[self.order]
        self._starts = np.searchsorted(self._cluster, np.arange(len(centres) + 1))
        self._touching = _touching(self.points, self._cluster, self._starts, to_numpy(centres), radius)

    def sizes(self) -> np.ndarray:
        """How many points each ball holds, its centre included, by sorted place, shape (N,)."""
        sizes = np.zeros(len(self.points), np.int64)
        for cluster in range(len(self._starts) - 1):
            own = slice(self._starts[cluster], self._starts[cluster + 1])
            for other in self._runs(self._touching[cluster], begin=cluster):
                for part in _parts(other, own.stop - own.start):
                    inside = self._inside(own, part)
                    sizes[own] += to_numpy(inside.sum(1))
                    # what lies behind the own cluster is visited once and counted for both sides
                    behind = slice(max(part.start, own.stop), part.stop)
                    sizes[behind] += to_numpy(inside[:, behind.start - part.start :].sum(0))
        return sizes

    def members(self, place: int) -> np.ndarray:
        """Sorted places of the points in the ball around one of them."""
        found = []
        for run in self._runs(self._touching[self._cluster[place]]):
            inside = self._inside(slice(place, place + 1), run)[0]
            found.append(run.start + np.flatnonzero(to_numpy(inside)))
        return np.concatenate(found)

    def overlap(self, places: np.ndarray) -> np.ndarray:
        """How many of the points at `places` each ball holds, shape (N,)."""
        counts = np.zeros(len(self.points), np.int64)
        chosen = self.points[like(self.points, places, "int64")]
        near = self._touching[np.unique(self._cluster[places])].any(axis=0)
        for run in self._runs(near):
            for part in _parts(run, len(places)):
                counts[part] += to_numpy((self.points[part] @ chosen.T >= self.least_cosine).sum(1))
        return counts

    def around(self, others: Array) -> np.ndarray:
        """Which points, by sorted place, lie in a ball around any of `others` (L, d), shape (N,) bool."""
        covered = np.zeros(len(self.points), bool)
        if len(others):
            for part in _parts(slice(0, len(covered)), len(others)):
                covered[part] = to_numpy(((self.points[part] @ others.T) >= self.least_cosine).any(1))
        return covered

    def _inside(self, rows: slice, columns: slice) -> Array:
        inside = self.points[rows] @ self.points[columns].T >= self.least_cosine
        # a point is in its own ball, whatever rounding says
        both = range(max(rows.start, columns.start), min(rows.stop, columns.stop))
        for place in both:
            inside[place - rows.start, place - columns.start] = True
        return inside

    def _runs(self, clusters: np.ndarray, begin: int = 0) -> Iterator[slice]:
        """Stretches of places that belong to clusters marked in `clusters` (K,), from cluster `begin` on."""
        marked = np.flatnonzero(clusters[begin:]) + begin
        for stretch in np.split(marked, np.flatnonzero(np.diff(marked) > 1) + 1):
            if len(stretch) and self._starts[stretch[0]] < self._starts[stretch[-1] + 1]:
                yield slice(int(self._starts[stretch[0]]), int(self._starts[stretch[-1] + 1]))


def _clusters(rows: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    sample = np.random.default_rng(seed).choice(len(rows), min(len(rows), _CLUSTERING_ROWS), replace=False)
    _, centres = kmeans(rows[np.sort(sample)], round(len(rows) ** 0.5), seed)
    return nearest_centre(rows, centres), centres


def _touching(points: Array, cluster: np.ndarray, starts: np.ndarray, centres: np.ndarray, radius: float) -> np.ndarray:
    """Which pairs of clusters may hold points within the radius of each other, shape (K, K) bool."""
    number = len(centres)
    if number == 1:
        return np.ones((1, 1), bool)
    reach = np.full((number, number), -np.inf)  # how far cluster i stretches towards centre j
    step = max(1, CHUNK_VALUES // number)
    for start in range(0, len(points), step):
        part = slice(start, start + step)
        towards = points[part] @ centres.T
        towards -= towards[np.arange(len(towards)), cluster[part]][:, None]
        present, first = np.unique(cluster[part], return_index=True)
        reach[present] = np.maximum(reach[present], np.maximum.reduceat(towards, first, axis=0))
    squares = np.einsum("kd,kd->k", centres, centres)
    apart = np.sqrt(np.maximum(squares[:, None] + squares - 2 * centres @ centres.T, 0))
    # a hair of slack for rounding; empty clusters reach nowhere and touch nobody
    touching = -reach - reach.T <= (radius + 1e-3) * apart
    np.fill_diagonal(touching, starts[1:] > starts[:-1])
    return touching


def _parts(run: slice, rows: int) -> Iterator[slice]:
    step = max(1, CHUNK_VALUES // max(1, rows))
    for start in range(run.start, run.stop, step):
        yield slice(start, min(run.stop, start + step))
