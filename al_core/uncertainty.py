"""Uncertainty scores of class probabilities: confidence, margin, entropy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CHUNK_VALUES = 1 << 20  # probabilities looked at together: the working set stays inside the cache
SUM_TOLERANCE = 1e-3


@dataclass(frozen=True)
class UncertaintyScores:
    """Three views of the same uncertainty, each of shape (N,)."""

    confidence: np.ndarray  # largest probability
    margin: np.ndarray  # largest minus second largest; 1 with a single class
    entropy: np.ndarray  # -sum p ln p, in nats, 0 ln 0 = 0


def uncertainty_scores(probs: np.ndarray) -> UncertaintyScores:
    """All three scores of `probs`, shape (N, C)."""
    raise NotImplementedError
