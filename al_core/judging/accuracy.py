"""Accuracy over time: how often the serving model is right on its traffic, from few labels, at every look.

The control slice is a uniform draw from the traffic, so its share of right answers is the accuracy. Two things make it
narrower. *Strata*: errors gather where the model is unsure, so images count by predicted class and confidence, and the
traffic itself says how many there are of each. *Prediction-powered*: before a label comes, what the strata and the
logged confidences let expect of it is known for every image of the traffic; only the rest rests on labels. Sources:
Angelopoulos et al. (2023), "PPI++"; Fisch et al. (2024), "Stratified prediction-powered inference".

Looks repeat, so the interval is a *confidence sequence*: with the demanded confidence it holds at all looks together.
It is the set of accuracies against which nobody who bets got rich (Waudby-Smith & Ramdas 2024, "Estimating means of
bounded random variables by betting"). Half of the stake bets on the labels alone, half on what the predictions leave
open, so that the better of the two decides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from al_core.records import Interval

EDGES = (0.6, 0.9, 0.99)  # of confidence, between strata
PRIOR_LABELS = 4.0  # what the mean confidence of a stratum counts for, in labels
TRUST, TRUST_WEIGHT = 0.5, 0.2  # how far expectations are followed before any label speaks, and how firmly
GRID = np.linspace(0, 1, 301)[1:-1]  # accuracies that are tried
BETS = np.sqrt((np.arange(12) + 0.5) / 12)  # as shares of the largest bet that cannot ruin

ANSWERED = pl.Schema({"predicted_label": pl.String(), "confidence": pl.Float64(), "label": pl.String()})


@dataclass(frozen=True)
class Look:
    """The accuracy after so many labels."""

    labels: int
    accuracy: Interval  # holds at all looks together
    from_labels_alone: float


def looks(answered: pl.DataFrame, traffic: pl.DataFrame, after: Sequence[int], confidence: float = 0.95) -> list[Look]:
    """The accuracy after the first so many labels, for each of `after`.

    Args:
        answered: Rows of `ANSWERED`, labeled images drawn uniformly from the traffic, in the order of their drawing.
        traffic: `predicted_label` and `confidence` of a uniform sample of the traffic, many more than labels.
        after: Numbers of labels, ascending, from 1 to the height of `answered`.
        confidence: Of all looks together.
    """
    right = (answered["predicted_label"] == answered["label"]).to_numpy().astype(float)
    rest, trust, estimates = _residuals(answered, right, traffic)
    growth = _growth(rest, trust, after)
    found = []
    for count in after:
        hits = right[:count].sum()
        log_capital = np.logaddexp(_labels_alone(hits, count), growth[count]) - np.log(2)
        held = GRID[log_capital < -np.log(1 - confidence)]
        low, high = (held[0], held[-1]) if len(held) else (estimates[count - 1],) * 2
        step = GRID[1] - GRID[0]  # what lies between two that were tried belongs to the interval
        low, high = max(0.0, float(low - step)), min(1.0, float(high + step))
        value = min(max(float(estimates[count - 1]), low), high)
        found.append(Look(int(count), Interval(value=value, low=low, high=high), float(hits / count)))
    return found


def average_thresholded_confidence(confidence: np.ndarray, right: np.ndarray, traffic: np.ndarray) -> float | None:
    """Accuracy guessed without labels (ATC): the share of the traffic above a threshold of confidence.

    The threshold is the one above which as many labeled images (N,) lie as are right. Nothing guarantees it where the
    traffic differs: an estimate from labels goes beside it. None without a labeled image or without traffic. Source:
    Garg et al. (2022), "Leveraging unlabeled data to predict out-of-distribution performance".
    """
    if not len(confidence) or not len(traffic):
        return None
    above = round(float(np.mean(right)) * len(confidence))
    ordered = np.sort(confidence)[::-1]
    threshold = -np.inf if above == len(ordered) else ordered[above]
    return float(np.mean(traffic > threshold))


def _residuals(
    answered: pl.DataFrame, right: np.ndarray, traffic: pl.DataFrame
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Answers corrected by what was expected of them, how far expectations were trusted, and estimates, each (n,).

    What is expected of a label is fixed by the labels before it, so that the mean of each residual is the accuracy.
    """
    names = {
        name: place for place, name in enumerate(sorted({*traffic["predicted_label"], *answered["predicted_label"]}))
    }
    ours, theirs = _strata(answered, names), _strata(traffic, names)
    strata = len(names) * (len(EDGES) + 1)
    counts = np.bincount(theirs, minlength=strata)
    weights = counts / max(1, counts.sum())
    sums = np.bincount(theirs, weights=traffic["confidence"].to_numpy(), minlength=strata)
    prior = np.divide(sums, counts, out=np.full(strata, 0.5), where=counts > 0)
    labels, hits = np.zeros(strata), np.zeros(strata)
    rest, trust, estimates = np.empty(len(right)), np.empty(len(right)), np.empty(len(right))
    n = mean_y = mean_g = covariance = spread = 0.0
    for j, (stratum, is_right) in enumerate(zip(ours, right, strict=True)):
        expected = (hits + PRIOR_LABELS * prior) / (labels + PRIOR_LABELS)
        follow = (covariance + TRUST * TRUST_WEIGHT) / (spread + TRUST_WEIGHT)
        trust[j] = min(max(follow, 0.0), 1.0) if counts.any() else 0.0
        guess = expected[stratum]
        rest[j] = is_right - trust[j] * (guess - weights @ expected)
        n += 1
        before = guess - mean_g
        mean_g += before / n
        mean_y += (is_right - mean_y) / n
        covariance += before * (is_right - mean_y)
        spread += before * (guess - mean_g)
        labels[stratum] += 1
        hits[stratum] += is_right
        estimates[j] = rest[: j + 1].mean()
    return rest, trust, estimates


def _strata(rows: pl.DataFrame, names: dict[str, int]) -> np.ndarray:
    """Predicted class and confidence as one number, (N,)."""
    score = np.searchsorted(EDGES, rows["confidence"].to_numpy(), side="right")
    return np.array([names[name] for name in rows["predicted_label"]], np.int64) * (len(EDGES) + 1) + score


def _labels_alone(right: float, count: int) -> np.ndarray:
    """Log capital against each accuracy of `GRID` of a bet on labels alone: all bets, mixed evenly."""
    beta = math.lgamma(right + 1) + math.lgamma(count - right + 1) - math.lgamma(count + 2)  # `al status` has no scipy
    return beta - right * np.log(GRID) - (count - right) * np.log1p(-GRID)


def _growth(rest: np.ndarray, trust: np.ndarray, after: Sequence[int]) -> dict[int, np.ndarray]:
    """Log capital against each accuracy of bets on residuals, after so many labels; half above, half below."""
    wealth, found = np.zeros((2 * len(BETS), len(GRID))), {}
    for count, (value, reach) in enumerate(zip(rest, trust, strict=True), start=1):
        above = BETS[:, None] / (GRID + reach)[None, :]
        below = -BETS[:, None] / (1 + reach - GRID)[None, :]
        wealth += np.log1p(np.concatenate([above, below]) * (value - GRID)[None, :])
        if count in after:
            found[count] = np.logaddexp.reduce(wealth, axis=0) - np.log(len(wealth))
    return found
