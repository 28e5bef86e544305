"""Compiled kernels for arrays of many millions of probabilities.

Importing this module imports numba, so only work that pays for it does. Kernels release the interpreter's
lock and are spread over threads by their callers: numba's own thread pools do not survive a fork, and web
servers fork.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    # reassociation lets sums use all lanes; the flags that promise "no NaN here" stay off: NaN must be found
    options: dict[str, Any] = {"nogil": True, "fastmath": {"reassoc", "contract", "nsz"}}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no writable place for the cache: compile in every process
        return numba.njit(**options)(function)


@_compiled
def _is_wrong(row: np.ndarray, total: float, tolerance: float) -> bool:
    """Whether a suspicious row is no distribution: the bits of -0.0 look negative, the number is not."""
    wrong = not abs(total - 1) <= tolerance
    for p in row:
        wrong = wrong or p < 0
    return wrong


@_compiled
def largest(probs: np.ndarray, bits: np.ndarray, confidence_bits: np.ndarray, tolerance: float) -> int:
    """Fill in the confidence of every row; returns the first row that is no distribution, or -1.

    `bits` is the memory of `probs` seen as integers of the same size, `confidence_bits` that of the result.
    Numbers that are not negative are ordered as their bits are, and the largest of integers is found in all
    lanes at once: of floats it is not, for fear of NaN.
    """
    bad = -1
    for row in range(probs.shape[0]):
        top, lowest = bits[row, 0], bits[row, 0]
        for column in range(probs.shape[1]):
            value = bits[row, column]
            top = max(top, value)
            lowest = min(lowest, value)
        total = probs.dtype.type(0)
        for column in range(probs.shape[1]):
            total += probs[row, column]
        confidence_bits[row] = top
        if bad < 0 and not (abs(total - 1) <= tolerance and lowest >= 0) and _is_wrong(probs[row], total, tolerance):
            bad = row
    return bad


@_compiled
def doubts_of_few(probs: np.ndarray, doubt: np.ndarray, tolerance: float) -> int:
    """Fill in 1 - the largest of every row, for classes too few to fill the lanes of the processor.

    Returns the first row that is no distribution, or -1.
    """
    bad = -1
    zero, one = probs.dtype.type(0), probs.dtype.type(1)
    for row in range(probs.shape[0]):
        total, lowest, top = zero, zero, zero
        for column in range(probs.shape[1]):
            p = probs[row, column]
            total += p
            # written as choices, which compile to single instructions; min() and max() look at NaN first
            lowest = p if p < lowest else lowest
            top = p if p > top else top
        doubt[row] = one - top
        if bad < 0 and not (abs(total - 1) <= tolerance and lowest >= 0):
            bad = row
    return bad


@_compiled
def two_largest(probs: np.ndarray, confidence: np.ndarray, margin: np.ndarray, tolerance: float) -> int:
    """Fill in confidence and margin of every row; returns the first row that is no distribution, or -1."""
    bad = -1
    zero = probs.dtype.type(0)
    for row in range(probs.shape[0]):
        total, lowest, top, second = zero, zero, zero, zero
        for column in range(probs.shape[1]):
            p = probs[row, column]
            total += p
            lowest = p if p < lowest else lowest  # choices again, no min() and max()
            loser = p if p < top else top
            second = loser if loser > second else second
            top = p if p > top else top
        confidence[row] = top
        margin[row] = top - second
        if bad < 0 and not (abs(total - 1) <= tolerance and lowest >= 0):
            bad = row
    return bad


@_compiled
def two_largest_of_many(
    probs: np.ndarray, bits: np.ndarray, first: np.ndarray, second: np.ndarray, tolerance: float
) -> int:
    """Fill in the bits of the two largest of every row; returns the first row that is no distribution, or -1.

    Integers again, see `largest`. The second largest is the largest of what lies below the first, or equals it:
    two simple passes over a row in the cache, in all lanes, beat one that carries both along.
    """
    bad = -1
    zero = bits.dtype.type(0)
    for row in range(probs.shape[0]):
        top, lowest = bits[row, 0], bits[row, 0]
        for column in range(probs.shape[1]):
            value = bits[row, column]
            top = max(top, value)
            lowest = min(lowest, value)
        total = probs.dtype.type(0)
        below, times = zero, zero
        for column in range(probs.shape[1]):
            value = bits[row, column]
            total += probs[row, column]
            times += bits.dtype.type(value == top)
            below = max(below, value if value < top else zero)
        first[row] = top
        second[row] = top if times > 1 else below
        if bad < 0 and not (abs(total - 1) <= tolerance and lowest >= 0) and _is_wrong(probs[row], total, tolerance):
            bad = row
    return bad


_LN2 = np.float32(0.6931471805599453)
_HALF = np.float32(0.5)
_ONE = np.float32(1)
_SQRT_HALF_BITS = np.int32(0x3F3504F3)
_MANTISSA = np.int32(0x7FFFFF)
# (ln(1 + x) - x + x^2/2) / x^3 for x from sqrt(1/2) - 1 to sqrt(2) - 1: a Chebyshev fit, error below 1e-8
_L0, _L1, _L2, _L3, _L4, _L5, _L6, _L7 = (
    np.float32(value)
    for value in (
        0.333333286,
        -0.250002965,
        0.200014687,
        -0.166422477,
        0.14202172,
        -0.129722362,
        0.127123189,
        -0.0810157975,
    )
)


@_compiled
def _p_ln_p(bits: np.ndarray, probs: np.ndarray, exponent: np.ndarray, work: np.ndarray) -> None:
    """`work` becomes p ln p; `work` and `bits` are the memory of float32 values seen as int32.

    The exponent is read off the bits and the rest approximated by a polynomial: unlike a call of the
    library's logarithm, that runs in all lanes of the processor at once.
    """
    mantissa = work.view(np.float32)
    for i in range(len(bits)):
        shifted = bits[i] - _SQRT_HALF_BITS
        exponent[i] = np.float32(shifted >> 23)
        work[i] = (shifted & _MANTISSA) + _SQRT_HALF_BITS
    for i in range(len(bits)):
        x = mantissa[i] - _ONE
        square = x * x
        tail = _L0 + x * (_L1 + x * (_L2 + x * (_L3 + x * (_L4 + x * (_L5 + x * (_L6 + x * _L7))))))
        mantissa[i] = (exponent[i] * _LN2 + (x - _HALF * square + square * x * tail)) * probs[i]


@_compiled
def entropies(probs: np.ndarray, entropy: np.ndarray, tolerance: float) -> int:
    """Fill in the entropy of every row of float32 `probs`; returns the first that is no distribution, or -1."""
    bad = -1
    rows, classes = probs.shape
    step = max(1, 2048 // classes)  # rows whose p ln p fit into the first cache
    work = np.empty(step * classes, np.int32)
    exponent = np.empty(step * classes, np.float32)
    terms = work.view(np.float32)
    flat = probs.reshape(-1)
    bits = flat.view(np.int32)
    for start in range(0, rows, step):
        stop = min(rows, start + step)
        size = (stop - start) * classes
        begin = start * classes
        _p_ln_p(bits[begin : begin + size], flat[begin : begin + size], exponent, work[:size])
        for row in range(start, stop):
            total, lowest, negative = np.float32(0), np.float32(0), np.float32(0)
            offset = (row - start) * classes
            for column in range(classes):
                p = probs[row, column]
                total += p
                lowest = p if p < lowest else lowest
                negative += terms[offset + column]
            entropy[row] = max(np.float32(0), -negative)
            if bad < 0 and not (abs(total - 1) <= tolerance and lowest >= 0):
                bad = row
    return bad
