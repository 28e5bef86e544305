"""k-means for pools: seeded by k-means++ on a sample, a few Lloyd rounds in chunks, on the data's device."""

from __future__ import annotations

import numpy as np

from al_core.strategies._arrays import Array, like, namespace, to_numpy
from al_core.strategies._spread import CHUNK_VALUES, Embedded, draw_far_apart

_SEEDING_ROWS = 20_000
_ROUNDS = 10  # after that hardly a row changes its cluster, and a batch does not notice
_SETTLED = 0.002  # share of rows that still change


def kmeans(rows: Array, clusters: int, seed: int) -> tuple[np.ndarray, Array]:
    """Divide rows, shape (N, d) float32, among at most `clusters` centres.

    O(N K d) per round, at most 10 rounds; beside the data, a chunk of distances is held in memory. Equal rows
    can leave clusters empty.

    Source: Lloyd (1982), "Least squares quantization in PCM".

    Returns:
        Labels (N,) int64, and centres (K, d) of the kind and on the device of `rows`; K = min(clusters, N).
    """
    rng = np.random.default_rng(seed)
    clusters = min(clusters, len(rows))
    if not clusters:
        return np.empty(0, np.int64), rows[:0]
    sample = rng.choice(len(rows), min(len(rows), max(_SEEDING_ROWS, 8 * clusters)), replace=False)
    seeding = rows[like(rows, np.sort(sample), "int64")]
    seeds, _ = draw_far_apart(Embedded(seeding), clusters, int(rng.integers(len(seeding))), rng)
    centres = seeding[like(rows, seeds, "int64")]
    labels = nearest_centre(rows, centres)
    for _ in range(_ROUNDS):
        centres = _means(rows, labels, centres)
        before, labels = labels, nearest_centre(rows, centres)
        if int((labels != before).sum()) <= _SETTLED * len(rows):
            break
    return to_numpy(labels), centres


def nearest_centre(rows: Array, centres: Array) -> Array:
    """The position of the nearest centre for every row, shape (N,) int64; ties go to the first centre."""
    xp = namespace(rows)
    squares = xp.einsum("kd,kd->k", centres, centres)
    step = max(1, CHUNK_VALUES // len(centres))
    labels = like(rows, np.zeros(len(rows)), "int64")
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        distances = rows[part] @ (-2 * centres.T)
        distances += squares
        labels[part] = xp.argmin(distances, 1)
    return labels


def _means(rows: Array, labels: Array, centres: Array) -> Array:
    """Means of the clusters; an empty one keeps its centre."""
    xp = namespace(rows)
    counts = xp.bincount(labels, minlength=len(centres))
    if xp is np:
        sums = np.zeros(centres.shape, np.float64)
        order = np.argsort(labels, kind="stable")
        step = max(1, CHUNK_VALUES // rows.shape[1])
        for start in range(0, len(order), step):
            part = order[start : start + step]
            present, first = np.unique(labels[part], return_index=True)
            sums[present] += np.add.reduceat(rows[part], first, axis=0)
        means = sums / np.maximum(counts, 1)[:, None]
    else:
        sums = xp.zeros_like(centres, dtype=xp.float64).index_add_(0, labels, rows.double())
        means = sums / counts.clip(1)[:, None]
    return xp.where((counts > 0)[:, None], like(rows, means), centres)
