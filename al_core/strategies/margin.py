"""Smallest margin: the images where two classes compete."""

from __future__ import annotations

from al_core.strategies._by_score import ByScore


class Margin(ByScore):
    """The smallest distance between the two most probable classes first; the score is that distance."""

    name = "margin"
    reference = "Scheffer, Decomain & Wrobel (2001), Active hidden Markov models for information extraction, IDA"
    column = "margin"
