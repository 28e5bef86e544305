"""The head on a frozen encoder: softmax regression, a convex problem solved to its end."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize  # type: ignore[import-untyped]

from al_core.errors import InvalidInput

MOST_ITERATIONS = 200
STEEPEST = 1e-4  # slope at the minimum, as scikit-learn stops; closer changes no answer and takes half again as long


@dataclass(frozen=True)
class LinearHead:
    """What was found, and how."""

    weight: torch.Tensor  # (C, d) float32
    bias: torch.Tensor  # (C,)
    loss: float
    evaluations: int


def fit_linear_head(
    embeddings: torch.Tensor,
    targets: torch.Tensor,
    class_weights: torch.Tensor,
    *,
    label_smoothing: float,
    weight_decay: float,
) -> LinearHead:
    """The minimum of the cross-entropy, as `torch.nn.functional.cross_entropy` weighs and smooths it, plus
    `weight_decay / 2` times the squared weights. By L-BFGS (Liu & Nocedal 1989) on standardised features; the
    scaling is folded into the weights.

    Args:
        embeddings: (N, d), float32.
        targets: (N,), positions of the classes.
        class_weights: (C,).
        label_smoothing: Share of the target that is spread over all classes.
        weight_decay: Of the weights on standardised features; the bias is not decayed.

    Raises:
        ValueError: the embeddings are not finite.
    """
    std, mean = torch.std_mean(embeddings, dim=0, correction=0)
    std = torch.where(std > 1e-6, std, 1.0)
    features = (embeddings - mean) / std
    wanted = _wanted(targets, class_weights, label_smoothing)
    mass = wanted.sum(dim=1, keepdim=True)
    classes, width = wanted.shape[1], features.shape[1]

    def loss_and_slope(values: np.ndarray) -> tuple[float, np.ndarray]:
        weight, bias = _unpack(values, classes, features)
        log_probs = torch.log_softmax(torch.addmm(bias, features, weight.T), dim=1)
        at_logits = log_probs.exp() * mass - wanted
        slope = torch.cat([at_logits.T @ features + weight_decay * weight, at_logits.sum(dim=0)[:, None]], dim=1)
        loss = weight_decay / 2 * weight.square().sum() - (wanted * log_probs).sum()
        return loss.item(), slope.double().cpu().numpy().ravel()

    start = np.zeros(classes * (width + 1))
    solved = minimize(
        loss_and_slope, start, jac=True, method="L-BFGS-B", options={"maxiter": MOST_ITERATIONS, "gtol": STEEPEST}
    )
    if not math.isfinite(solved.fun):
        raise InvalidInput("the embeddings of the frozen encoder are not finite; its weights are broken")
    weight, bias = _unpack(solved.x, classes, features)
    return LinearHead(weight / std, bias - (weight / std) @ mean, float(solved.fun), int(solved.nfev))


def _wanted(targets: torch.Tensor, class_weights: torch.Tensor, label_smoothing: float) -> torch.Tensor:
    """(N, C): what each log-probability counts in the loss."""
    classes = len(class_weights)
    weights = class_weights[targets]
    wanted = (label_smoothing / classes * class_weights).repeat(len(targets), 1)
    wanted[torch.arange(len(targets), device=targets.device), targets] += (1 - label_smoothing) * weights
    return wanted / weights.sum()


def _unpack(values: np.ndarray, classes: int, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight (C, d) and bias (C,) of what the solver holds, where the features are."""
    table = torch.from_numpy(values.reshape(classes, -1)).to(features)
    return table[:, :-1], table[:, -1]
