"""Auto: typical images while labels are few, uncertain ones in clusters once the model knows something."""

from __future__ import annotations

import numpy as np

from al_core.strategies._arrays import float32, like, namespace, to_numpy, unit_length
from al_core.strategies.base import Labeled, Need, Picks, Pool, QueryStrategy
from al_core.strategies.cluster_margin import ClusterMargin
from al_core.strategies.typiclust import TypiClust


class Auto(QueryStrategy):
    """TypiClust until the labels describe the data, Cluster-Margin from then on.

    The measure: how often a labeled image has the label of the labeled image most similar to it, averaged
    over the classes that have at least two. Where that is below `switch_at`, the model's doubts are noise and
    typical images teach more; uncertainty pays once it is above.
    """

    name = "auto"
    needs: frozenset[Need] = frozenset({"probs", "embedding", "labels"})
    reference = (
        "Hacohen, Dekel & Weinshall (2022), Active learning on a budget; Doucet et al. (2024), Bridging "
        "diversity and uncertainty in active learning with self-supervised pre-training"
    )
    cost = "time O(L^2 d) and that of the strategy it decides for, memory O(N d)"

    def __init__(self, switch_at: float = 0.5, most_compared: int = 5000) -> None:
        self.switch_at = switch_at
        self.most_compared = most_compared

    def plan(self, labeled: Labeled) -> QueryStrategy:
        """The strategy for these labels."""
        measured = neighbour_agreement(labeled.embeddings, labeled.targets, self.most_compared)
        return ClusterMargin() if measured >= self.switch_at else TypiClust()

    def query(self, pool: Pool, budget: int, seed: int) -> Picks:
        """The picks of the strategy it decides for."""
        self.check(pool, budget)
        assert pool.labeled_embeddings is not None
        assert pool.labeled_targets is not None
        ids = np.arange(len(pool.labeled_embeddings)).astype(str)
        return self.plan(Labeled(ids, pool.labeled_embeddings, pool.labeled_targets)).query(
            pool, budget, seed
        )


def neighbour_agreement(embeddings: np.ndarray, targets: np.ndarray, most_compared: int = 5000) -> float:
    """Balanced leave-one-out accuracy of the nearest neighbour by cosine; 0 where no class has two images.

    `embeddings` (L, d), `targets` (L,). Only the last `most_compared` labels are looked at.
    """
    rows, classes = unit_length(float32(embeddings[-most_compared:])), to_numpy(targets)[-most_compared:]
    if len(rows) < 2:
        return 0.0
    cosines = rows @ rows.T
    itself = like(rows, np.arange(len(rows)), "int64")
    cosines[itself, itself] = -np.inf
    nearest = to_numpy(namespace(rows).argmax(cosines, 1))
    agrees = classes[nearest] == classes
    rates = [agrees[classes == one].mean() for one in np.unique(classes) if (classes == one).sum() > 1]
    return float(np.mean(rates)) if rates else 0.0
