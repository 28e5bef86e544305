"""Calibration: how sure a model may say it is."""

from __future__ import annotations

import math

import numpy as np
import torch


def fit_temperature(
    logits: torch.Tensor, targets: torch.Tensor, *, deviation: float = 0.5, weights: torch.Tensor | None = None
) -> float:
    """The temperature that makes (N, C) logits best calibrated, between 0.01 and 10 (Guo et al. 2017).

    A target of -1 is an image of a class that the logits do not know: all it says is that the answer is wrong.
    `weights` (N,) say for how many images each stands, one on average; None: one each.
    Negative log-likelihood plus a weak prior (ln T normal around 0 with that `deviation`): without it a small
    validation set without errors drives T to zero. The objective is convex in 1/T plus a smooth bowl in
    ln T; golden sections on ln T find the minimum.
    """
    logits = logits.double()

    def objective(log_t: float) -> float:
        lost = losses(logits * math.exp(-log_t), targets)
        return (lost if weights is None else lost * weights).sum().item() + log_t**2 / (2 * deviation**2)

    low, high, golden = math.log(0.01), math.log(10), (math.sqrt(5) - 1) / 2
    left, right = high - golden * (high - low), low + golden * (high - low)
    at_left, at_right = objective(left), objective(right)
    while high - low > 1e-3:
        if at_left < at_right:
            high, right, at_right = right, left, at_left
            left = high - golden * (high - low)
            at_left = objective(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + golden * (high - low)
            at_right = objective(right)
    return math.exp((low + high) / 2)


def losses(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihood of each image, (N,): of its class, or for a target of -1 of the answer being wrong."""
    log_probs = torch.log_softmax(logits, dim=1)
    known = targets >= 0
    found = -log_probs.gather(1, targets.clamp(min=0)[:, None])[:, 0]
    wrong = -torch.log1p(-log_probs.max(dim=1).values.exp().clamp(max=1 - 1e-6))
    return torch.where(known, found, wrong)


def calibration_error(confidence: np.ndarray, right: np.ndarray, *, bins: int = 15) -> float:
    """Expected calibration error: how far confidence and accuracy lie apart, by bins of equal width (Guo et al. 2017).

    Args:
        confidence: (N,), of the predicted class.
        right: (N,), bool: whether it was the labeled one.
        bins: How many.
    """
    if not len(confidence):
        return 0.0
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    return float(np.abs(np.bincount(place, right - confidence, minlength=bins)).sum() / len(confidence))


def calibration_limit(
    confidence: np.ndarray, *, least: float = 0.05, sure: float = 0.95, replicates: int = 1000, seed: int = 0
) -> float:
    """The calibration error that a model as confident as this one may show on so few images, were it calibrated.

    The error is a sum of absolute values and reads high on few images, so it is compared with what chance alone
    brings: images are right as often as their confidence says, `replicates` times. Never below `least`.

    Args:
        confidence: (N,), of the predicted class.
        least: An error that nobody minds.
        sure: The share of the calibrated models that stay below the limit.
        replicates: Draws.
        seed: Of the draws.
    """
    rng = np.random.default_rng(seed)
    chance = [calibration_error(confidence, rng.random(len(confidence)) < confidence) for _ in range(replicates)]
    return max(least, float(np.quantile(chance, sure)))
