"""Least confidence: the images whose best class is the least probable."""

from __future__ import annotations

from al_core.strategies._by_score import ByScore


class LeastConfidence(ByScore):
    """The smallest largest probability first; the score is that probability."""

    name = "least_confidence"
    reference = "Lewis & Gale (1994), A sequential algorithm for training text classifiers, SIGIR"
    column = "confidence"
