"""Choosing rows that lie far apart: farthest first (greedy), and drawn by squared distance (k-means++).

Both need, pick after pick, the distances of all N rows to the row just picked: one matrix-vector product per
pick, bound by reading the matrix. Here they are computed for a block of likely next picks in one matrix
product, which reads the matrix once for all of them. The picks are those of the plain algorithms; only
distances that turn out not to be needed are wasted. The block grows while its guesses are good and shrinks
while they are not, so that in the worst case about twice the plain work is done.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from al_core.strategies._arrays import Array, full, largest, like, namespace

MOST_COLUMNS = 64  # of a block: more would not read the matrix less often per pick by much
_FIRST_COLUMNS = 16
CHUNK_VALUES = 1 << 22


class Features(Protocol):
    """N points of a Euclidean space, known through their inner products."""

    squares: Array  # (N,) squared lengths

    def products(self, chosen: Array) -> Array:
        """Inner products of the rows at `chosen` (B,) with all rows, shape (B, N)."""


class Embedded:
    """The rows of a matrix, shape (N, d)."""

    def __init__(self, rows: Array) -> None:
        self.rows = rows
        self.squares = namespace(rows).einsum("nd,nd->n", rows, rows)

    def products(self, chosen: Array) -> Array:
        """See `Features`."""
        return self.rows[chosen] @ self.rows.T

    def to_nearest(self, others: Array) -> Array:
        """Squared distance of every row to the nearest of `others`, shape (L, d); infinite where L is 0."""
        xp, nearest = namespace(self.rows), full(self.rows, len(self.rows), np.inf)
        if not len(others):
            return nearest
        squares = xp.einsum("nd,nd->n", others, others)
        step = max(1, CHUNK_VALUES // len(others))
        for start in range(0, len(nearest), step):
            rows = slice(start, start + step)
            distances = self.rows[rows] @ (-2 * others.T)
            distances += squares
            nearest[rows] = xp.amin(distances, 1)
        nearest += self.squares
        return nearest.clip(0)


def farthest_first(features: Features, count: int, nearest: Array) -> tuple[np.ndarray, np.ndarray]:
    """Pick `count` rows, each the one farthest from everything picked before; ties go to the first row.

    `nearest`, shape (N,), holds the squared distances to what was picked earlier (0 or infinite at first) and
    is used up; rows that may not be picked hold -inf.

    Returns:
        Positions (count,) and their squared distances when they were picked (count,).
    """
    xp = namespace(nearest)
    picks, distances = np.empty(count, np.int64), np.empty(count)
    block: dict[int, int] = {}
    products: Array = None
    width, hits = _FIRST_COLUMNS // 2, _FIRST_COLUMNS
    for number in range(count):
        pick = int(xp.argmax(nearest))
        if pick not in block:
            width = _next_width(width, hits)
            chosen = [
                pick,
                *(row for row in largest(nearest, min(width, len(nearest))).tolist() if row != pick),
            ]
            products, hits = features.products(like(nearest, chosen[:width], "int64")), 0
            block = {row: column for column, row in enumerate(chosen[:width])}
        picks[number], distances[number] = pick, float(nearest[pick])
        _bring_nearer(features, products[block[pick]], pick, nearest)
        nearest[pick] = -np.inf
        hits += 1
    return picks, distances


def draw_far_apart(
    features: Features, count: int, first: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw `count` different rows by k-means++: each with probability proportional to its squared distance.

    `first` is the first row. Blocks are drawn ahead from the present distances; since distances only
    shrink, taking a drawn row with probability (distance now / distance when drawn) makes it a draw from the
    distances of now (rejection sampling), so the result is distributed exactly as if drawn one by one. When
    all distances are zero, the remaining rows follow in order.

    Source: Arthur & Vassilvitskii (2007), "k-means++: the advantages of careful seeding".

    Returns:
        Positions (count,) and their squared distances when they were drawn (count,), infinite for the first.
    """
    nearest = full(features.squares, len(features.squares), np.inf)
    picks, distances = [first], [np.inf]
    _bring_nearer(features, features.products(like(nearest, [first], "int64"))[0], first, nearest)
    width, hits = _FIRST_COLUMNS // 2, _FIRST_COLUMNS
    while len(picks) < count:
        width = _next_width(width, hits)
        drawn = _draw(nearest, min(width, count - len(picks)), rng)
        if not len(drawn):
            break
        weights, hits = nearest[drawn].tolist(), 0
        products = features.products(drawn)
        for column, (pick, weight) in enumerate(zip(drawn.tolist(), weights, strict=True)):
            now = float(nearest[pick])
            if rng.random() * weight < now:
                picks.append(pick)
                distances.append(now)
                _bring_nearer(features, products[column], pick, nearest)
                hits += 1
    rest = np.setdiff1d(np.arange(len(nearest)), picks)[: count - len(picks)]
    return np.array([*picks, *rest], np.int64), np.array([*distances, *[0.0] * len(rest)])


def _draw(weights: Array, count: int, rng: np.random.Generator) -> Array:
    """`count` rows with replacement by weight, as positions on the device; none where all weights are 0."""
    xp = namespace(weights)
    # summed in float64: in float32 a late row's share of a long sum is lost to rounding
    cumulated = xp.cumsum(weights, 0, dtype=xp.float64)
    total = float(cumulated[-1])
    if total <= 0:
        return like(weights, [], "int64")
    drawn = xp.searchsorted(cumulated, like(weights, rng.random(count) * total, "float64"), side="right")
    return drawn.clip(0, len(weights) - 1)


def _bring_nearer(features: Features, products: Array, pick: int, nearest: Array) -> None:
    """Lower `nearest` to the squared distances from `pick`, whose inner products are given."""
    xp = namespace(nearest)
    distances = features.squares - 2 * products
    distances += features.squares[pick]
    xp.minimum(nearest, distances.clip(0), out=nearest)
    nearest[pick] = 0


def _next_width(width: int, hits: int) -> int:
    return min(2 * width, MOST_COLUMNS) if 2 * hits >= width else max(1, width // 2)
