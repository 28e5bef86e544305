"""Mean standard deviation: images on which the probabilities of a committee scatter."""

from __future__ import annotations

import numpy as np

from al_core.strategies._ranking import first_by
from al_core.strategies.bald import committee_of
from al_core.strategies.base import Need, Picks, Pool, QueryStrategy
from al_core.uncertainty import CHUNK_VALUES, least_confidence


class MeanStd(QueryStrategy):
    """The largest standard deviation over the committee, averaged over the classes, which is the score."""

    name = "mean_std"
    needs: frozenset[Need] = frozenset({"committee"})
    reference = (
        "Kampffmeyer, Salberg & Jenssen (2016), Semantic segmentation of small objects and modeling of uncertainty"
    )
    cost = "time O(N T C), memory O(N) beside the committee's answers"
    prefilter = "entropy"

    def query(self, pool: Pool, budget: int, seed: int) -> Picks:
        """The largest scores; `seed` changes nothing."""
        count = self.check(pool, budget)
        committee = committee_of(pool)
        scores = np.empty(len(committee))
        step = max(1, CHUNK_VALUES // max(1, committee[:1].size))
        for start in range(0, len(committee), step):
            block = committee[start : start + step].astype(np.float64)
            least_confidence(block.reshape(-1, block.shape[2]))  # refuses rows that are no distribution
            scores[start : start + step] = block.std(axis=1).mean(axis=1)
        indices = first_by(scores, count, descending=True)
        return Picks(indices, scores[indices])
