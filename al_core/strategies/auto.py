"""Auto: what covers the doubts while labels are few, then uncertain images in clusters; on a long tail by class."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from al_core.strategies._arrays import float32, like, namespace, to_numpy, unit_length
from al_core.strategies.base import Labeled, Need, Picks, Pool, QueryStrategy
from al_core.strategies.class_balanced import ClassBalanced
from al_core.strategies.cluster_margin import ClusterMargin
from al_core.strategies.uherding import UHerding

if TYPE_CHECKING:
    from al_core.strategies.context import StrategyContext

_MOST_COMPARED = 5000
TAIL = 5  # times as many labels of the most common class as of the rarest
BY_CHANCE = 1e-3


class Auto(QueryStrategy):
    """UHerding until the labels describe the data, Cluster-Margin from then on; either class by class on a long tail.

    The measure is `neighbour_agreement`: how often the labeled image most similar to a labeled image has its
    label. Where that never came to `switch_at`, the model's doubts are noise and typical images teach more.
    `enough` labels per class switch in any case: on hard data the agreement may never come that far.

    A tail is there once the labels show it (`has_long_tail`): the budget then goes to the classes with the fewest
    labels, as `ClassBalanced` has it, with the images that the other strategy wants of those predicted to be of them.

    Labels are looked at as they accumulated, oldest first, and one beginning of the sequence that agrees, or shows
    a tail, is enough: uncertain images disagree by nature, and balanced batches hide the tail they were asked for.
    """

    name = "auto"
    needs: frozenset[Need] = frozenset({"probs", "embedding", "labels"})
    reference = (
        "Bae, Oliveira & Sutherland (2025), Uncertainty herding; Hacohen, Dekel & Weinshall (2022), Active learning "
        "on a budget; Doucet et al. (2024), Bridging diversity and uncertainty in active learning with "
        "self-supervised pre-training; Bengar et al. (2022), Class-balanced active learning for image classification"
    )
    cost = "time O(L^2 d) for at most 5 000 labels and that of the strategy it decides for, memory O(N d)"

    def __init__(self, switch_at: float = 0.85, enough: int = 100) -> None:
        self.switch_at = switch_at
        self.enough = enough

    def given(self, context: StrategyContext) -> QueryStrategy:
        """The strategy that it decides for."""
        return self.plan(context.labeled)

    def plan(self, labeled: Labeled) -> QueryStrategy:
        """The strategy for these labels, which are in the order in which they came in."""
        best = self._whichever_class(labeled)
        return ClassBalanced(best) if has_long_tail(labeled.targets) else best

    def _whichever_class(self, labeled: Labeled) -> QueryStrategy:
        classes = len(np.unique(to_numpy(labeled.targets)))
        if len(labeled.targets) >= self.enough * max(2, classes):
            return ClusterMargin()
        agreement = best_agreement(labeled.embeddings, labeled.targets)
        return ClusterMargin() if agreement >= self.switch_at else UHerding()

    def query(self, pool: Pool, budget: int, seed: int) -> Picks:
        """The picks of the strategy it decides for."""
        self.check(pool, budget)
        assert pool.labeled_embeddings is not None
        assert pool.labeled_targets is not None
        ids = np.arange(len(pool.labeled_embeddings)).astype(str)
        return self.plan(Labeled(ids, pool.labeled_embeddings, pool.labeled_targets)).query(pool, budget, seed)


def has_long_tail(targets: np.ndarray) -> bool:
    """Whether some beginning of the labels (L,) shows that classes are far from equally common.

    Its most common class has at least `TAIL` times as many labels as its rarest, and equally common classes would
    come out as uneven with a probability below `BY_CHANCE` (chi-squared). Measured on CIFAR-10 in 8 draws each: even
    classes are never taken for a tail up to 180 labels, 1:20 is noticed after 36 to 81 labels, 1:5 after 54 to 180.
    """
    from scipy.stats import chisquare  # type: ignore[import-untyped]

    names = to_numpy(targets)
    for count in _beginnings(len(names)):
        _, labels = np.unique(names[:count], return_counts=True)
        if len(labels) > 1 and labels.max() >= TAIL * labels.min() and chisquare(labels).pvalue < BY_CHANCE:
            return True
    return False


def best_agreement(embeddings: np.ndarray, targets: np.ndarray) -> float:
    """The best `neighbour_agreement` of the first 16, 24, 36, 54 ... labels, of at most 5 000; 0 before."""
    counts = _beginnings(min(len(targets), _MOST_COMPARED))
    return max((neighbour_agreement(embeddings[:count], targets[:count]) for count in counts), default=0.0)


def _beginnings(count: int) -> Iterator[int]:
    """16, 24, 36, 54 ... up to `count`."""
    step = 16
    while step <= count:
        yield step
        step += step // 2


def neighbour_agreement(embeddings: np.ndarray, targets: np.ndarray) -> float:
    """How often the nearest other image by cosine has the same label, averaged over the classes.

    `embeddings` (L, d), `targets` (L,). A class with one image counts as never found. 0 without labels.
    """
    rows, classes = unit_length(float32(embeddings)), to_numpy(targets)
    if len(rows) < 2:
        return 0.0
    cosines = rows @ rows.T
    itself = like(rows, np.arange(len(rows)), "int64")
    cosines[itself, itself] = -np.inf
    agrees = classes[to_numpy(namespace(rows).argmax(cosines, 1))] == classes
    return float(np.mean([agrees[classes == one].mean() for one in np.unique(classes)]))
