"""Entropy: the images whose prediction is spread over many classes."""

from __future__ import annotations

from al_core.strategies._by_score import ByScore


class Entropy(ByScore):
    """The largest entropy of the prediction first; the score is that entropy, in nats."""

    name = "entropy"
    reference = "Settles & Craven (2008), Active learning strategies for sequence labeling tasks, EMNLP"
    column = "entropy"
    descending = True
