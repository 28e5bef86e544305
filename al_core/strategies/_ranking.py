"""Ranking that breaks ties as the contract demands."""

from __future__ import annotations

import numpy as np


def first_by(scores: np.ndarray, count: int, *, descending: bool = False) -> np.ndarray:
    """Positions of the `count` smallest (or largest) scores, the most extreme first, shape (count,), int64.

    Equal scores keep the order of their positions, which in a `Pool` is the order of the image ids.
    O(N + count log count) instead of sorting everything.
    """
    if descending:
        scores = -scores
    if count <= 0:
        return np.empty(0, np.int64)
    if count < len(scores):
        bound = np.partition(scores, count - 1)[count - 1]
        below = np.flatnonzero(scores < bound)
        at_bound = np.flatnonzero(scores == bound)[: count - len(below)]
        # merged in the order of positions, or a stable sort would have nothing to be stable about
        candidates = np.sort(np.concatenate([below, at_bound]))
    else:
        candidates = np.arange(len(scores))
    return candidates[np.argsort(scores[candidates], kind="stable")]


def round_robin(groups: np.ndarray, scores: np.ndarray, precedence: np.ndarray) -> np.ndarray:
    """All positions, as if every group in turn handed in its member with the smallest score.

    Groups take their turns in the order of `precedence`, shape (number of groups,), the smallest first; a
    group without members left is passed over. Equal scores keep the order of their positions.
    """
    by_group = np.lexsort((scores, groups))
    starts = np.searchsorted(groups[by_group], np.arange(len(precedence)))
    turn = np.empty(len(groups), np.int64)
    turn[by_group] = np.arange(len(groups)) - starts[groups[by_group]]
    return np.lexsort((np.arange(len(groups)), groups, precedence[groups], turn))
