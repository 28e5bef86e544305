"""Cluster-Margin: uncertain images, spread over the clusters they fall into. Scales to huge batches."""

from __future__ import annotations

import numpy as np

from al_core.strategies._arrays import float32, like, to_numpy
from al_core.strategies._ranking import first_by, round_robin
from al_core.strategies.base import Need, Picks, Pool, QueryStrategy
from al_core.strategies.clustering import kmeans
from al_core.uncertainty import margin


class ClusterMargin(QueryStrategy):
    """Clusters the images of smallest margin (`candidates` per pick) and takes of each cluster in turn, the
    smallest cluster first, the image of smallest margin; the score is that margin.

    The paper clusters the pool once by average linkage with about 10 images a cluster; linkage needs N^2
    distances, so k-means makes as many clusters as images are asked for.
    """

    name = "cluster_margin"
    needs: frozenset[Need] = frozenset({"probs", "embedding"})
    reference = "Citovsky et al. (2021), Batch active learning at scale"
    cost = "time O(N C) plus O(m k^2 d) a round of at most 10 for m candidates a pick, memory O(m k (d + C))"
    prefilter = "margin"

    def __init__(self, candidates: int = 10) -> None:
        self.candidates = candidates

    def query(self, pool: Pool, budget: int, seed: int) -> Picks:
        """Round robin over clusters."""
        count = self.check(pool, budget)
        margins = margin(np.asarray(to_numpy(pool.probs), np.float32))
        uncertain = np.sort(first_by(margins, min(len(pool), self.candidates * count)))
        embeddings = float32(pool.embeddings)
        clusters, _ = kmeans(embeddings[like(embeddings, uncertain, "int64")], count, seed)
        turns = round_robin(clusters, margins[uncertain], np.bincount(clusters))[:count]
        indices = uncertain[turns]
        return Picks(indices, margins[indices].astype(np.float64), clusters[turns])
