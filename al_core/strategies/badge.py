"""BADGE: images whose gradients are large and point in different directions."""

from __future__ import annotations

import numpy as np

from al_core.strategies._arrays import Array, float32, namespace
from al_core.strategies._spread import draw_far_apart
from al_core.strategies.base import Need, Picks, Pool, QueryStrategy


class Badge(QueryStrategy):
    """k-means++ on the gradients that the last layer would get if the predicted label were true.

    The gradient of an image is the outer product of q = p - onehot(predicted) and its embedding v, C d values
    that are never formed: <g_i, g_j> = <q_i, q_j> <v_i, v_j>. The largest gradient comes first; the others
    are drawn by squared distance. The score is the distance when drawn (the length, for the first).
    """

    name = "badge"
    needs: frozenset[Need] = frozenset({"probs", "embedding"})
    reference = (
        "Ash, Zhang, Krishnamurthy, Langford & Agarwal (2020), Deep batch active learning by diverse, "
        "uncertain gradient lower bounds"
    )
    cost = "time O(k N (C + d)), memory O(N (C + d))"
    prefilter = "margin"

    def query(self, pool: Pool, budget: int, seed: int) -> Picks:
        """k-means++ under the seed."""
        count = self.check(pool, budget)
        if not count:
            return Picks(np.empty(0, np.int64), np.empty(0))
        gradients = Gradients(float32(pool.probs), float32(pool.embeddings))
        first = int(namespace(gradients.squares).argmax(gradients.squares))
        indices, distances = draw_far_apart(gradients, count, first, np.random.default_rng(seed))
        distances[0] = float(gradients.squares[first])
        return Picks(indices, np.sqrt(distances))


class Gradients:
    """Last-layer gradients as `Features`: N points of C d dimensions, known through two factors."""

    def __init__(self, probs: Array, embeddings: Array) -> None:
        xp = namespace(probs)
        best = xp.argmax(probs, 1)
        self.errors = probs - 0.0  # a copy: inputs stay as they are
        self.errors[xp.arange(len(probs)), best] -= 1
        self.embeddings = embeddings
        self.squares = xp.einsum("nc,nc->n", self.errors, self.errors) * xp.einsum("nd,nd->n", embeddings, embeddings)

    def products(self, chosen: Array) -> Array:
        """Inner products of the gradients at `chosen` (B,) with all gradients, shape (B, N)."""
        products = self.errors[chosen] @ self.errors.T
        products *= self.embeddings[chosen] @ self.embeddings.T
        return products
