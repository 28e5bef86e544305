"""The contract every query strategy keeps.

A strategy sees a pool of candidates as arrays and answers with positions in it. It never changes its inputs,
gives the same answer for the same seed, and breaks ties by image id. What it needs is declared, so that the
store fetches nothing else; a strategy that only orders by one logged column says so through `order` and is
answered by the store itself, without its pool ever being loaded.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np

Need = Literal["probs", "embedding", "labels"]
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

    Rows are sorted by image id, so a stable sort by score breaks ties as the contract demands.
    """

    image_ids: np.ndarray  # (N,) str
    probs: np.ndarray | None = None  # (N, C) float32
    embeddings: np.ndarray | None = None  # (N, d) float32
    labeled_embeddings: np.ndarray | None = None  # (L, d) float32
    labeled_targets: np.ndarray | None = None  # (L,) int64, positions in the model's classes

    def __len__(self) -> int:
        return len(self.image_ids)


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
    needs: ClassVar[frozenset[Need]] = frozenset()
    reference: ClassVar[str] = ""  # paper or document
    cost: ClassVar[str] = ""  # time and memory, in N, C, d, k, L
    # by which of the log's orders the pool is cut down where it does not fit in memory
    prefilter: ClassVar[Literal["confidence", "margin", "entropy", "random"]] = "random"

    def order(self, seed: int) -> Order | None:
        """The store's own order that answers this strategy alone, or None where arrays are needed."""
        return None

    @abstractmethod
    def query(self, pool: Pool, budget: int, seed: int) -> Picks:
        """Choose `min(budget, len(pool))` candidates.

        Raises:
            ValueError: the budget is negative, or something the strategy needs is missing from the pool.
        """

    def check(self, pool: Pool, budget: int) -> int:
        """How many images to choose: `min(budget, len(pool))`. Raises `ValueError` as `query` does."""
        if budget < 0:
            raise ValueError(f"budget {budget} is negative; expected the number of images to choose")
        given = {"probs": pool.probs, "embedding": pool.embeddings, "labels": pool.labeled_embeddings}
        for need in sorted(self.needs):
            array = given[need]
            if array is None:
                raise ValueError(f"strategy {self.name} needs {need}, which this pool does not hold")
            if need != "labels" and len(array) != len(pool):
                raise ValueError(
                    f"{len(array)} rows of {need} for {len(pool)} images; expected one per image"
                )
        return min(budget, len(pool))
