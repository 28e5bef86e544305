"""MaxHerding: images that stand for as much of the pool as possible, without a radius to tune."""

from __future__ import annotations

import numpy as np

from al_core.strategies._arrays import Array, float32, like, namespace, to_numpy, unit_length
from al_core.strategies._spread import CHUNK_VALUES
from al_core.strategies.base import Need, Picks, Pool, QueryStrategy

_BLOCK = 64


class MaxHerding(QueryStrategy):
    """The image that raises most how similar the pool is to its most similar labeled or chosen image.

    Similarity is the Gaussian kernel exp(-d^2 / 2 `bandwidth`^2) of embeddings scaled to length 1. The rise is
    summed over at most `references` images drawn from the pool, and is the score, as a mean. It can only
    shrink while images are chosen, so stale values are bounds: only the few candidates at the top are
    looked at again (lazy greedy), and the picks are those of looking at all.
    """

    name = "max_herding"
    needs: frozenset[Need] = frozenset({"embedding", "labels"})
    reference = (
        "Bae, Noh & Sutherland (2024), Generalized coverage for more robust low-budget active learning; "
        "lazy greedy: Minoux (1978)"
    )
    cost = "time O(N M d) for M references, then usually a few times O(M d) a pick; memory O(N d)"

    def __init__(self, bandwidth: float = 1.0, references: int = 5000) -> None:
        self.bandwidth = bandwidth
        self.references = references

    def query(self, pool: Pool, budget: int, seed: int) -> Picks:
        """Lazy greedy; the seed draws the references of a pool that has more images."""
        count = self.check(pool, budget)
        if not count:
            return Picks(np.empty(0, np.int64), np.empty(0))
        rows, labeled = unit_length(float32(pool.embeddings)), unit_length(float32(pool.labeled_embeddings))
        return herd(rows, labeled, count, seed, bandwidth=self.bandwidth, references=self.references)


def herd(
    rows: Array,
    labeled: Array,
    count: int,
    seed: int,
    *,
    bandwidth: float,
    references: int,
    weights: Array | None = None,
) -> Picks:
    """`count` rows, each raising most how similar the references are to what is labeled or chosen.

    Args:
        rows: (N, d) of unit length.
        labeled: (L, d) of unit length.
        count: How many, at least one.
        seed: Draws the references where there are more rows.
        bandwidth: Of the Gaussian kernel.
        references: At most so many rows are to be covered.
        weights: (N,), what covering each row is worth, not negative; 1 by default.
    """
    sample = np.arange(len(rows))
    if len(sample) > references:
        sample = np.sort(np.random.default_rng(seed).choice(sample, references, replace=False))
    place = like(rows, sample, "int64")
    kernel = _Kernel(rows[place], bandwidth, None if weights is None else weights[place])
    covered = kernel.best(labeled)
    gains = kernel.gains(rows, covered)
    picks, scores = np.empty(count, np.int64), np.empty(count)
    for number in range(count):
        picks[number], scores[number] = _best(rows, kernel, covered, gains)
        covered = namespace(rows).maximum(covered, kernel(rows[picks[number]][None])[0])
        gains[picks[number]] = -np.inf
    return Picks(picks, scores)


class _Kernel:
    """Similarity of points of unit length to the references, shape (M, d), each worth its weight, shape (M,)."""

    def __init__(self, references: Array, bandwidth: float, weights: Array | None = None) -> None:
        self.references = references
        self.weights = weights
        self.sharpness = 1 / bandwidth**2

    def __call__(self, rows: Array) -> Array:
        """Kernel values, shape (len(rows), M); |x - y|^2 / 2 = 1 - <x, y> on the unit sphere."""
        exponents = rows @ self.references.T
        exponents -= 1
        exponents *= self.sharpness
        return namespace(rows).exp(exponents)

    def best(self, rows: Array) -> Array:
        """The largest similarity of any of `rows` to each reference, shape (M,); 0 without rows."""
        best = like(self.references, np.zeros(len(self.references)))
        for part in _chunks(len(rows), len(self.references)):
            best = namespace(best).maximum(best, namespace(best).amax(self(rows[part]), 0))
        return best

    def gains(self, rows: Array, covered: Array) -> np.ndarray:
        """The mean rise over the references if one of `rows` were chosen, shape (len(rows),)."""
        gains = np.empty(len(rows))
        for part in _chunks(len(rows), len(self.references)):
            rise = self(rows[part])
            rise -= covered
            rise = rise.clip(0)
            gains[part] = to_numpy(rise.mean(1) if self.weights is None else rise @ self.weights / len(self.references))
        return gains


def _best(rows: Array, kernel: _Kernel, covered: Array, gains: np.ndarray) -> tuple[int, float]:
    """The candidate with the largest true gain; `gains` holds bounds from above and is brought up to date."""
    fresh = np.zeros(len(gains), bool)
    while True:
        top = int(gains.argmax())
        if fresh[top]:
            return top, float(gains[top])
        stale = np.flatnonzero(~fresh & np.isfinite(gains))
        if len(stale) > _BLOCK:
            stale = stale[np.argpartition(gains[stale], len(stale) - _BLOCK)[len(stale) - _BLOCK :]]
        # the top one may tie with others for its place in the block, and is looked at in any case
        block = np.union1d(stale, [top])
        gains[block] = kernel.gains(rows[like(rows, block, "int64")], covered)
        fresh[block] = True


def _chunks(rows: int, columns: int) -> list[slice]:
    step = max(1, CHUNK_VALUES // max(1, columns))
    return [slice(start, start + step) for start in range(0, rows, step)]
