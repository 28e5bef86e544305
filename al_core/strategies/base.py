"""The contract every query strategy keeps.

A strategy sees a pool of candidates as arrays and answers with positions in it. It never changes its inputs,
gives the same answer for the same seed, and breaks ties by image id. What it needs is declared, so that the
store fetches nothing else; a strategy that only orders by one logged column says so through `order` and is
answered by the store itself, without its pool ever being loaded.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from al_core.errors import InvalidInput
from al_core.uncertainty import SUM_TOLERANCE

if TYPE_CHECKING:
    from al_core.strategies.context import StrategyContext

Need = Literal["probs", "embedding", "labels", "committee"]
ScoreColumn = Literal["confidence", "margin", "entropy"]
KEY_SPACE = 1 << 60  # image keys are 60 bits, see `al_core.records.image_keys`


@dataclass(frozen=True)
class Order:
    """An order of the prediction log that a store can produce by itself.

    `column` is one of confidence, margin, entropy, or "random": images in the order of their key, beginning
    at a pivot drawn from `seed`. Keys are content hashes, so that order is a uniform shuffle. Ties of a score
    are broken by image id, ascending.
    """

    column: Literal["confidence", "margin", "entropy", "random"]
    descending: bool = False
    seed: int | None = None

    @property
    def pivot(self) -> int:
        """Where the random order begins: 60 bits drawn from the seed."""
        return int(np.random.default_rng(self.seed).integers(0, KEY_SPACE))


@dataclass(frozen=True)
class Pool:
    """Candidates as arrays, one row per image; what a strategy did not ask for is None.

    Rows are sorted by image id, so a stable sort by score breaks ties as the contract demands. Every array
    but the ids may be a torch tensor instead; strategies whose work grows with N k d then run on its device.
    """

    image_ids: np.ndarray  # (N,) str
    probs: np.ndarray | None = None  # (N, C) float32
    embeddings: np.ndarray | None = None  # (N, d) float32
    committee: np.ndarray | None = None  # (N, T, C) float32: T stochastic passes, or models of an ensemble
    labeled_ids: np.ndarray | None = None  # (L,) str
    labeled_embeddings: np.ndarray | None = None  # (L, d) float32
    labeled_targets: np.ndarray | None = None  # (L,) int64, positions in the model's classes

    def __len__(self) -> int:
        return len(self.image_ids)

    def take(self, rows: np.ndarray) -> Pool:
        """The pool of the images at these positions, ascending; what is labeled stays."""
        per_image = {"probs": self.probs, "embeddings": self.embeddings, "committee": self.committee}
        taken = {name: array[rows] for name, array in per_image.items() if array is not None}
        return replace(self, image_ids=self.image_ids[rows], **taken)


@dataclass(frozen=True)
class Labeled:
    """The images that have a label already, as far as strategies care."""

    image_ids: np.ndarray  # (L,) str
    embeddings: np.ndarray  # (L, d) float32, by the model whose pool is chosen from
    targets: np.ndarray  # (L,) int64, positions in the model's classes


@dataclass(frozen=True)
class Picks:
    """The answer: positions in the pool, the most wanted first."""

    indices: np.ndarray  # (k,) int64, distinct, k = min(budget, N)
    scores: np.ndarray  # (k,) float64, what the strategy ordered by
    clusters: np.ndarray | None = None  # (k,) int64
    details: dict[str, float] = field(default_factory=dict)  # what a person may want to know of the choice


class QueryStrategy(ABC):
    """Base of all strategies. The constructor only assigns settings."""

    name: ClassVar[str]
    needs: frozenset[Need] = frozenset()
    reference: ClassVar[str] = ""  # paper or document
    cost: ClassVar[str] = ""  # time and memory, in N, C, d, k, L
    # by which of the log's orders the pool is cut down where it does not fit in memory
    prefilter: ScoreColumn | Literal["random"] = "random"

    def order(self, seed: int) -> Order | None:
        """The store's own order that answers this strategy alone, or None where arrays are needed."""
        return None

    def given(self, context: StrategyContext) -> QueryStrategy:
        """The strategy for what is known when the batch is chosen: itself, or a copy with what it takes of it.

        A strategy that switches answers with another one. Nothing of the context is computed unless it is asked.
        """
        return self

    @abstractmethod
    def query(self, pool: Pool, budget: int, seed: int) -> Picks:
        """Choose `min(budget, len(pool))` candidates.

        Raises:
            ValueError: the budget is negative, or something the strategy needs is missing from the pool.
        """

    def check(self, pool: Pool, budget: int) -> int:
        """How many images to choose: `min(budget, len(pool))`. Raises `ValueError` as `query` does."""
        if budget < 0:
            raise InvalidInput(f"budget {budget} is negative; expected the number of images to choose")
        for need in sorted(self.needs):
            self._check_need(pool, need)
        return min(budget, len(pool))

    def _check_need(self, pool: Pool, need: Need) -> None:
        if need == "labels":
            given = [pool.labeled_targets] + [pool.labeled_embeddings] * ("embedding" in self.needs)
        else:
            given = [{"probs": pool.probs, "embedding": pool.embeddings, "committee": pool.committee}[need]]
        for array in given:
            if array is None:
                raise InvalidInput(f"strategy {self.name} needs {need}, which this pool does not hold")
            if need != "labels" and len(array) != len(pool):
                raise InvalidInput(f"{len(array)} rows of {need} for {len(pool)} images; expected one per image")
        if need == "embedding":
            _refuse_unusable_embeddings(pool)
        elif need == "probs":
            _refuse_unusable_probs(pool)


def _refuse_unusable_probs(pool: Pool) -> None:
    probs = pool.probs
    assert probs is not None
    if probs.ndim != 2 or not (len(pool) == 0 or probs.shape[1]):
        raise InvalidInput(f"probabilities of shape {tuple(probs.shape)}; expected (images, classes)")
    with np.errstate(invalid="ignore"):  # NaN and infinity fail the first comparison
        good = (abs(probs.sum(1) - 1) <= SUM_TOLERANCE) & (probs >= 0).all(1)
    if not bool(good.all()):
        bad = good.tolist().index(False)
        raise InvalidInput(
            f"the probabilities of image {pool.image_ids[bad]} are no distribution; expected finite, "
            f"non-negative values that sum to 1 within {SUM_TOLERANCE}"
        )


def _refuse_unusable_embeddings(pool: Pool) -> None:
    rows, labeled = pool.embeddings, pool.labeled_embeddings
    assert rows is not None
    with np.errstate(invalid="ignore"):
        totals = rows.sum(1).tolist()  # finite only where everything is; isfinite would fill N x d flags
    bad = [position for position, total in enumerate(totals) if not math.isfinite(total)]
    if bad:
        raise InvalidInput(
            f"the embedding of image {pool.image_ids[bad[0]]} holds NaN or infinity ({len(bad)} such images); "
            "score them again with a sound model, or leave them out"
        )
    if labeled is not None and len(labeled) and len(rows) and labeled.shape[1] != rows.shape[1]:
        raise InvalidInput(
            f"labeled embeddings have {labeled.shape[1]} values, those of the pool {rows.shape[1]}; expected "
            "both from the same model"
        )
