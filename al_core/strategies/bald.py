"""BALD: images on which the members of a committee are each certain, and disagree."""

from __future__ import annotations

import numpy as np

from al_core.errors import InvalidInput
from al_core.strategies._arrays import to_numpy
from al_core.strategies._ranking import first_by
from al_core.strategies.base import Need, Picks, Pool, QueryStrategy
from al_core.uncertainty import CHUNK_VALUES, entropy


class Bald(QueryStrategy):
    """The largest mutual information between the label and the model, in nats, which is the score.

    That is the entropy of the mean prediction minus the mean entropy of the predictions.
    """

    name = "bald"
    needs: frozenset[Need] = frozenset({"committee"})
    reference = (
        "Houlsby et al. (2011), Bayesian active learning for classification and preference learning; Gal, "
        "Islam & Ghahramani (2017), Deep Bayesian active learning with image data"
    )
    cost = "time O(N T C), memory O(N) beside the committee's answers"
    prefilter = "entropy"

    def query(self, pool: Pool, budget: int, seed: int) -> Picks:
        """The largest scores; `seed` changes nothing."""
        count = self.check(pool, budget)
        scores = mutual_information(pool)
        indices = first_by(scores, count, descending=True)
        return Picks(indices, scores[indices])


def committee_of(pool: Pool) -> np.ndarray:
    """The committee's probabilities, shape (N, T, C) float32.

    Raises:
        ValueError: they have another shape, or no member.
    """
    committee = np.asarray(to_numpy(pool.committee), np.float32)
    if committee.ndim != 3 or (len(committee) and not committee.shape[1]):
        raise InvalidInput(
            f"committee of shape {committee.shape}; expected (images, members, classes), at least one member"
        )
    return committee


def mutual_information(pool: Pool) -> np.ndarray:
    """Entropy of the committee's mean minus mean entropy of its members, in nats, shape (N,), not negative."""
    committee = committee_of(pool)
    scores = np.empty(len(committee))
    _, members, classes = committee.shape
    step = max(1, CHUNK_VALUES // max(1, members * classes))
    for start in range(0, len(committee), step):
        block = committee[start : start + step].astype(np.float64)
        each = entropy(block.reshape(-1, classes)).reshape(-1, members)
        scores[start : start + step] = entropy(block.mean(axis=1)) - each.mean(axis=1)
    return np.maximum(scores, 0)
