"""Cost-aware: uncertainty per second of a person's time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from al_core.errors import InvalidInput
from al_core.strategies._arrays import to_numpy
from al_core.strategies._ranking import first_by
from al_core.strategies.base import Need, Picks, Pool, QueryStrategy
from al_core.uncertainty import entropy, least_confidence, margin

if TYPE_CHECKING:
    from al_core.strategies.context import StrategyContext

Uncertainty = Literal["least_confidence", "margin", "entropy"]
_SCORES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "least_confidence": least_confidence,
    "margin": lambda probs: 1 - margin(probs),
    "entropy": entropy,
}
_PRIOR = 5  # labels: a class with fewer is mostly judged by all classes together
_PAUSE = 10  # times the median: longer is no annotation but a coffee, and counts as that much


class CostAware(QueryStrategy):
    """The largest uncertainty per expected second of annotation, which is the score.

    `seconds` holds what a label of each class takes (`seconds_per_class`), so the expected cost of an image
    is its probabilities times these. Without it every image costs one second.
    """

    name = "cost_aware"
    needs: frozenset[Need] = frozenset({"probs"})
    reference = "Settles, Craven & Friedland (2008), Active learning with real annotation costs"
    cost = "time O(N C), memory O(N)"

    def __init__(self, uncertainty: Uncertainty = "margin", seconds: Sequence[float] | None = None) -> None:
        self.uncertainty = uncertainty
        self.seconds = seconds
        self.prefilter = "confidence" if uncertainty == "least_confidence" else uncertainty

    def given(self, context: StrategyContext) -> CostAware:
        """With the seconds that labels took so far, unless the settings say what they take."""
        return self if self.seconds is not None else CostAware(self.uncertainty, context.seconds.tolist())

    def query(self, pool: Pool, budget: int, seed: int) -> Picks:
        """The largest ratios; `seed` changes nothing.

        Raises:
            ValueError: also where the uncertainty is unknown, or `seconds` does not fit the classes.
        """
        count = self.check(pool, budget)
        if self.uncertainty not in _SCORES:
            raise InvalidInput(f"uncertainty {self.uncertainty!r}; expected one of {', '.join(_SCORES)}")
        probs = np.asarray(to_numpy(pool.probs), np.float32)
        seconds = np.ones(probs.shape[1]) if self.seconds is None else np.asarray(self.seconds, np.float64)
        if seconds.shape != probs.shape[1:] or not (np.isfinite(seconds) & (seconds > 0)).all():
            raise InvalidInput(
                f"seconds {self.seconds} for {probs.shape[1]} classes; expected one positive number per class"
            )
        expected = probs @ seconds
        scores = _SCORES[self.uncertainty](probs).astype(np.float64) / expected
        indices = first_by(scores, count, descending=True)
        return Picks(indices, scores[indices], details={"expected seconds": float(expected[indices].sum())})


def seconds_per_class(timed: Iterable[tuple[str, float | None]], classes: Sequence[str]) -> np.ndarray:
    """What a label of each class takes on average, in seconds, shape (C,), from (label, seconds) pairs.

    Pairs without a time are ignored, pauses cut off. A class with few labels is drawn towards the mean of
    all; without any time every class takes one second.
    """
    pairs = [(label, float(seconds)) for label, seconds in timed if seconds is not None and seconds > 0]
    if not pairs:
        return np.ones(len(classes))
    limit = _PAUSE * float(np.median([seconds for _, seconds in pairs]))
    overall = float(np.mean([min(seconds, limit) for _, seconds in pairs]))
    totals, counts = dict.fromkeys(classes, 0.0), dict.fromkeys(classes, 0)
    for label, seconds in pairs:
        if label in totals:
            totals[label] += min(seconds, limit)
            counts[label] += 1
    return np.array([(totals[name] + _PRIOR * overall) / (counts[name] + _PRIOR) for name in classes])
