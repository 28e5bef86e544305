"""Stopping advice: what the next round will probably bring, from random images and from how models agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from al_core.records import Interval

_FEWEST_ROUNDS = 3
_EXPONENTS = np.linspace(0, 2, 81)
_STABLE = 0.99  # kappa, over the last three pairs of models (Bloodgood & Vijay-Shanker)
_PAIRS = 3


@dataclass(frozen=True)
class RoundEvidence:
    """How a model did on images that were drawn at random: a control slice, or the holdout."""

    labels: int  # the model was trained on
    images: int
    correct: int


@dataclass(frozen=True)
class StoppingAdvice:
    """What to expect of the next round."""

    gain: Interval | None  # accuracy it will probably add, with a 95 % interval; None: too few rounds to say
    agreement: float | None  # kappa of the last models; None: fewer than two models
    stop: bool  # whether another round is not worth its labels
    sentence: str


def advise(
    evidence: Sequence[RoundEvidence],
    *,
    next_labels: int,
    committee: Sequence[np.ndarray] = (),
    worthwhile: float = 0.005,
    seed: int = 0,
) -> StoppingAdvice:
    """Estimate what `next_labels` more labels will bring, and say whether that is worth it.

    The error is taken to fall as a power of the number of labels; exponent and factor are fitted to all
    rounds, and the interval comes from a parametric bootstrap. `committee` holds the classes (M,) that the
    last models, oldest first, predicted for the same random images. To stop is advised where even the upper
    end of the interval is below `worthwhile`, or where the estimate is and the models have stopped changing
    their minds. Nothing stops by itself.

    Sources: Figueroa et al. (2012), "Predicting sample size required for classification performance";
    Bloodgood & Vijay-Shanker (2009), "A method for stopping active learning based on stabilizing predictions".

    Raises:
        ValueError: a round has more correct answers than images, or no labels.
    """
    for one in evidence:
        if not (0 <= one.correct <= one.images and one.labels > 0):
            raise ValueError(f"{one}: expected 0 <= correct <= images and at least one label")
    known = [one for one in evidence if one.images]
    agreement = _agreement(committee)
    if len(known) < _FEWEST_ROUNDS or len({one.labels for one in known}) < 2:
        sentence = f"too early to say what more labels bring: {len(known)} rounds with random images"
        return StoppingAdvice(None, agreement, False, sentence)
    gain = _expected_gain(known, next_labels, seed)
    settled = agreement is not None and agreement >= _STABLE
    stop = gain.high < worthwhile or (gain.value < worthwhile and settled)
    return StoppingAdvice(gain, agreement, stop, _sentence(gain, agreement, stop, next_labels))


def _expected_gain(evidence: Sequence[RoundEvidence], next_labels: int, seed: int) -> Interval:
    labels = np.array([one.labels for one in evidence], np.float64)
    images = np.array([one.images for one in evidence])
    wrong = images - np.array([one.correct for one in evidence])
    last = labels.max()
    factor, exponent = _fit(labels, images, wrong[None])
    expected = np.minimum(factor[0] * labels ** -exponent[0], 1)
    redrawn = np.random.default_rng(seed).binomial(images, expected, (1000, len(images)))
    factors, exponents = _fit(labels, images, redrawn)

    def gain(factor: np.ndarray, exponent: np.ndarray) -> np.ndarray:
        before, after = (factor * count**-exponent for count in (last, last + next_labels))
        return np.minimum(before, 1) - np.minimum(after, 1)

    low, high = np.quantile(gain(factors, exponents), [0.025, 0.975])
    return Interval(value=float(gain(factor, exponent)[0]), low=float(low), high=float(high))


def _fit(labels: np.ndarray, images: np.ndarray, wrong: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Factor and exponent of error = factor * labels^-exponent for each row of `wrong`, shape (B, rounds).

    Errors are counted, so they are taken as Poisson: the best factor of each exponent is then known, and the
    exponents are few enough to try them all.
    """
    shapes = labels[None, :] ** -_EXPONENTS[:, None]  # (exponents, rounds)
    factors = (wrong.sum(axis=1)[:, None] + 1e-9) / (images * shapes).sum(axis=1)
    # Poisson log-likelihood up to terms that are the same for all: sum wrong ln(rate); the rates sum alike
    fit = wrong @ np.log(shapes).T + wrong.sum(axis=1)[:, None] * np.log(factors)
    best = fit.argmax(axis=1)
    return factors[np.arange(len(wrong)), best], _EXPONENTS[best]


def _agreement(committee: Sequence[np.ndarray]) -> float | None:
    """Mean Cohen's kappa of the last pairs of successive models."""
    pairs = list(pairwise(committee))[-_PAIRS:]
    if not pairs:
        return None
    return float(np.mean([_kappa(one, other) for one, other in pairs]))


def _kappa(one: np.ndarray, other: np.ndarray) -> float:
    if len(one) != len(other) or not len(one):
        raise ValueError(f"{len(one)} and {len(other)} predictions; expected those of the same images, at least one")
    classes = np.union1d(one, other)
    shares = [(answers[:, None] == classes).mean(axis=0) for answers in (one, other)]
    by_chance = float(shares[0] @ shares[1])
    observed = float((one == other).mean())
    return 1.0 if by_chance == 1 else (observed - by_chance) / (1 - by_chance)


def _sentence(gain: Interval, agreement: float | None, stop: bool, next_labels: int) -> str:
    points = f"{100 * gain.value:+.1f} points of accuracy (95 %: {100 * gain.low:+.1f} to {100 * gain.high:+.1f})"
    parts = [f"{next_labels} more labels should bring {points}"]
    if agreement is not None:
        parts.append(f"the last models agree to kappa {agreement:.3f}")
    parts.append("another round is hardly worth its labels" if stop else "another round is worth its labels")
    return "; ".join(parts)
