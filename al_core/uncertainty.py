"""Uncertainty scores of class probabilities: confidence, margin, entropy."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec

import numpy as np

CHUNK_VALUES = 1 << 20  # probabilities looked at together: the working set stays inside the cache
COMPILED_FROM = 1 << 24  # probabilities; below, plain numpy is done before a compiler has been loaded
SUM_TOLERANCE = 1e-3
_FEW_CLASSES = 24  # too few to fill the lanes of the processor


@dataclass(frozen=True)
class UncertaintyScores:
    """Three views of the same uncertainty, each of shape (N,) and of the type of the probabilities."""

    confidence: np.ndarray  # largest probability
    margin: np.ndarray  # largest minus second largest; 1 with a single class
    entropy: np.ndarray  # -sum p ln p, in nats, 0 ln 0 = 0


def uncertainty_scores(probs: np.ndarray) -> UncertaintyScores:
    """All three scores of `probs`, shape (N, C), in one pass of bounded memory.

    Raises:
        ValueError: `probs` is no matrix of numbers, or a row is no probability distribution: it holds NaN,
            infinity or a negative value, or its sum differs from 1 by more than `SUM_TOLERANCE`.
    """
    probs = _matrix(probs)
    if _compiles(probs):
        return UncertaintyScores(*_compiled_two_largest(probs), _entropies(probs))
    scores = UncertaintyScores(*(np.empty(len(probs), probs.dtype) for _ in range(3)))
    for rows, block in _checked_blocks(probs):
        scores.confidence[rows] = block.max(axis=0)
        scores.margin[rows] = _margin(block)
        scores.entropy[rows] = _entropy(block)
    return scores


def least_confidence(probs: np.ndarray) -> np.ndarray:
    """1 - largest probability, shape (N,), between 0 and 1 - 1/C; the larger, the less certain.

    Raises as `uncertainty_scores`. Source: Lewis & Gale (1994), "A sequential algorithm for training text
    classifiers".
    """
    probs = _matrix(probs)
    if _compiles(probs):
        return _compiled_doubts(probs)
    return _by_block(probs, lambda block: 1 - block.max(axis=0))


def margin(probs: np.ndarray) -> np.ndarray:
    """Largest minus second largest probability, shape (N,), between 0 and 1; the smaller, the less certain.

    Raises as `uncertainty_scores`. Source: Scheffer, Decomain & Wrobel (2001), "Active hidden Markov models
    for information extraction".
    """
    probs = _matrix(probs)
    return _compiled_two_largest(probs)[1] if _compiles(probs) else _by_block(probs, _margin)


def entropy(probs: np.ndarray) -> np.ndarray:
    """Shannon entropy in nats, shape (N,), between 0 and ln C; the larger, the less certain.

    Raises as `uncertainty_scores`. Source: Shannon (1948), "A mathematical theory of communication".
    """
    return _entropies(_matrix(probs))


def _by_block(probs: np.ndarray, score: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    scores = np.empty(len(probs), probs.dtype)
    for rows, block in _checked_blocks(probs):
        scores[rows] = score(block)
    return scores


def _matrix(probs: np.ndarray) -> np.ndarray:
    probs = np.asarray(probs)
    if probs.ndim != 2 or probs.dtype.kind not in "fiub":
        raise ValueError(
            f"probabilities of shape {probs.shape} and type {probs.dtype}; expected numbers of shape (N, C)"
        )
    return probs if probs.dtype in (np.float32, np.float64) else probs.astype(np.float64)


def _checked_blocks(probs: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Rows, and their probabilities turned on their side, shape (C, rows).

    numpy works through long rows with all lanes of the processor, and classes are few: on its side, a block
    that stays in the cache takes a fifth of the time. A thousand rows are worth more than the cache.
    """
    classes = max(1, probs.shape[1])
    step = max(CHUNK_VALUES // 8 // classes, min(1024, 4 * CHUNK_VALUES // classes), 1)
    for start in range(0, len(probs), step):
        block = np.ascontiguousarray(probs[start : start + step].T)
        # NaN and infinity fail the comparison of the sum, so two reductions find every kind of bad row
        with np.errstate(invalid="ignore"):  # infinities of both signs in a row add up to NaN
            good = (np.abs(block.sum(axis=0) - 1) <= SUM_TOLERANCE) & (block.min(axis=0, initial=0) >= 0)
        if not good.all():
            raise ValueError(_what_is_wrong(probs, start + int(good.argmin())))
        yield slice(start, start + block.shape[1]), block


def _what_is_wrong(probs: np.ndarray, row: int) -> str:
    values = probs[row]
    bad = np.flatnonzero(~(np.isfinite(values) & (values >= 0)))
    off_sum = f"probabilities that sum to {values[np.isfinite(values)].sum():.6g}"
    found = f"{values[bad[0]]} for class {bad[0]}" if len(bad) else off_sum
    return (
        f"row {row} holds {found}; expected finite, non-negative probabilities that sum to 1 within "
        f"{SUM_TOLERANCE} (are these logits? apply softmax first)"
    )


def _margin(block: np.ndarray) -> np.ndarray:
    if len(block) == 1:
        return np.ones(block.shape[1], block.dtype)
    top = np.maximum(block[0], block[1])
    second, loser = np.minimum(block[0], block[1]), np.empty_like(top)
    for row in block[2:]:  # one pass that keeps the two largest; sorting would cost C log C
        np.minimum(top, row, out=loser)
        np.maximum(second, loser, out=second)
        np.maximum(top, row, out=top)
    return top - second


def _entropy(block: np.ndarray) -> np.ndarray:
    # ln is taken of the smallest normal number where p = 0: finite, so that 0 ln 0 comes out as 0
    logs = np.log(np.maximum(block, np.finfo(block.dtype).tiny))
    logs *= block
    return np.maximum(-logs.sum(axis=0), 0)


def _compiles(probs: np.ndarray) -> bool:
    return probs.size >= COMPILED_FROM and probs.shape[1] > 1 and _has_numba()


@cache
def _has_numba() -> bool:
    """The extra `compiled` brings it; without it numpy answers the same, some times slower on such arrays."""
    return find_spec("numba") is not None


def _compiled_doubts(probs: np.ndarray) -> np.ndarray:
    """1 - the largest of every row."""
    from al_core import uncertainty_kernels as _compiled

    def of_many(block: np.ndarray, doubt: np.ndarray, tolerance: float) -> int:
        integer = f"i{block.dtype.itemsize}"
        bad = _compiled.largest(block, block.view(integer), doubt.view(integer), tolerance)
        np.subtract(1, doubt, out=doubt)  # while the block's results are in the cache
        return bad

    doubt = np.empty(len(probs), probs.dtype)
    _in_threads(_compiled.doubts_of_few if probs.shape[1] < _FEW_CLASSES else of_many, probs, doubt)
    return doubt


def _compiled_two_largest(probs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Confidence and margin."""
    from al_core import uncertainty_kernels as _compiled

    def of_many(block: np.ndarray, confidence: np.ndarray, margins: np.ndarray, tolerance: float) -> int:
        integer = f"i{block.dtype.itemsize}"
        bits, outputs = block.view(integer), (confidence.view(integer), margins.view(integer))
        bad = _compiled.two_largest_of_many(block, bits, *outputs, tolerance)
        np.subtract(confidence, margins, out=margins)  # while the block's results are in the cache
        return bad

    confidence, margins = np.empty(len(probs), probs.dtype), np.empty(len(probs), probs.dtype)
    few = probs.shape[1] < _FEW_CLASSES
    _in_threads(_compiled.two_largest if few else of_many, probs, confidence, margins)
    return confidence, margins


def _entropies(probs: np.ndarray) -> np.ndarray:
    if not _compiles(probs) or probs.dtype != np.float32:
        return _by_block(probs, _entropy)
    from al_core import uncertainty_kernels as _compiled

    scores = np.empty(len(probs), np.float32)
    _in_threads(_compiled.entropies, probs, scores)
    return scores


def _in_threads(kernel: Callable[..., int], probs: np.ndarray, *outputs: np.ndarray) -> None:
    step = max(1, CHUNK_VALUES // probs.shape[1])

    def run(start: int) -> int:
        rows = slice(start, start + step)
        bad = kernel(np.ascontiguousarray(probs[rows]), *(output[rows] for output in outputs), SUM_TOLERANCE)
        return start + bad if bad >= 0 else -1

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for bad in pool.map(run, range(0, len(probs), step)):
            if bad >= 0:
                raise ValueError(_what_is_wrong(probs, bad))
