"""Power versions of scores: the top of a noisy ranking, so that a batch is not the same image many times."""

from __future__ import annotations

import numpy as np

from al_core.strategies._arrays import to_numpy
from al_core.strategies._ranking import first_by
from al_core.strategies.bald import mutual_information
from al_core.strategies.base import Need, Picks, Pool, QueryStrategy
from al_core.uncertainty import entropy, least_confidence, margin


class Power(QueryStrategy):
    """Images drawn without replacement with probability proportional to uncertainty^`beta`.

    Drawing so is taking the largest beta ln(uncertainty) + Gumbel noise, which is the score: one pass and a
    top-k. beta = 0 is random sampling, a large beta the plain top-k. Images without any uncertainty come
    last.
    """

    needs: frozenset[Need] = frozenset({"probs"})
    reference = "Kirsch et al. (2023), Stochastic batch acquisition: a simple baseline for deep active learning"
    cost = "time O(N C), memory O(N)"

    def __init__(self, beta: float = 1.0) -> None:
        self.beta = beta

    def uncertainty(self, pool: Pool) -> np.ndarray:
        """The score to be drawn by, not negative, shape (N,)."""
        raise NotImplementedError

    def query(self, pool: Pool, budget: int, seed: int) -> Picks:
        """One draw under the seed."""
        count = self.check(pool, budget)
        uncertainty = self.uncertainty(pool).astype(np.float64)
        noise = np.random.default_rng(seed).gumbel(size=len(uncertainty))
        scores = self.beta * np.log(np.maximum(uncertainty, np.finfo(np.float64).tiny)) + noise
        scores = np.where(uncertainty > 0, scores, -np.inf)
        indices = first_by(scores, count, descending=True)
        return Picks(indices, scores[indices])


class PowerLeastConfidence(Power):
    """Drawn by 1 - largest probability, see `Power`."""

    name = "power_least_confidence"
    prefilter = "confidence"

    def uncertainty(self, pool: Pool) -> np.ndarray:
        """1 - largest probability."""
        return least_confidence(to_numpy(pool.probs))


class PowerMargin(Power):
    """Drawn by 1 - margin, see `Power`."""

    name = "power_margin"
    prefilter = "margin"

    def uncertainty(self, pool: Pool) -> np.ndarray:
        """1 - margin."""
        return 1 - margin(to_numpy(pool.probs))


class PowerEntropy(Power):
    """Drawn by entropy, see `Power`."""

    name = "power_entropy"
    prefilter = "entropy"

    def uncertainty(self, pool: Pool) -> np.ndarray:
        """Entropy in nats."""
        return entropy(to_numpy(pool.probs))


class PowerBald(Power):
    """Drawn by mutual information, see `Power` and `Bald`."""

    name = "power_bald"
    needs: frozenset[Need] = frozenset({"committee"})
    cost = "time O(N T C), memory O(N) beside the committee's answers"
    prefilter = "entropy"

    def uncertainty(self, pool: Pool) -> np.ndarray:
        """Mutual information in nats."""
        return mutual_information(pool)
