"""k-means: one image from the middle of each of as many clusters as images are asked for."""

from __future__ import annotations

import numpy as np

from al_core.strategies._arrays import float32, like, namespace, to_numpy
from al_core.strategies._ranking import round_robin
from al_core.strategies.base import Need, Picks, Pool, QueryStrategy
from al_core.strategies.clustering import kmeans


class KMeans(QueryStrategy):
    """Clusters the pool, then takes of each cluster the image nearest to its centre, largest clusters first.

    The score is the distance to the centre. Where clusters stay empty because images are equal, the others
    give their second nearest.
    """

    name = "kmeans"
    needs: frozenset[Need] = frozenset({"embedding"})
    reference = "Zhdanov (2019), Diverse mini-batch active learning"
    cost = "time O(N d k) a round of at most 10, memory O(N d)"

    def query(self, pool: Pool, budget: int, seed: int) -> Picks:
        """As many clusters as images."""
        count = self.check(pool, budget)
        rows = float32(pool.embeddings)
        clusters, centres = kmeans(rows, count, seed)
        if not count:
            return Picks(np.empty(0, np.int64), np.empty(0))
        offsets = rows - centres[like(rows, clusters, "int64")]
        distances = to_numpy(namespace(rows).einsum("nd,nd->n", offsets, offsets))
        sizes = np.bincount(clusters)
        indices = round_robin(clusters, distances, -sizes)[:count]
        return Picks(indices, np.sqrt(distances[indices]).astype(np.float64), clusters[indices])
