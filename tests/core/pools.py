"""Pools and a prediction log in memory, for the tests of strategies and selection."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import polars as pl
import pyarrow as pa

from al_core.images import content_id
from al_core.records import prediction_table
from al_core.strategies.base import KEY_SPACE, Order, Pool


def image_ids(count: int, salt: int = 0) -> list[str]:
    """`count` content ids, sorted."""
    return sorted(content_id(f"{salt}:{number}".encode()) for number in range(count))


def random_probs(count: int, classes: int, seed: int = 0) -> np.ndarray:
    """Softmax of normal noise, float32."""
    logits = np.random.default_rng(seed).normal(0, 2, (count, classes))
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)


def random_pool(count: int, *, classes: int = 4, width: int = 8, labeled: int = 5, seed: int = 0) -> Pool:
    """A pool that holds everything any strategy may need."""
    rng = np.random.default_rng(seed)
    return Pool(
        image_ids=np.array(image_ids(count, seed), "<U32"),
        probs=random_probs(count, classes, seed),
        embeddings=rng.normal(size=(count, width)).astype(np.float32),
        committee=np.stack([random_probs(count, classes, seed + 1 + member) for member in range(3)], axis=1),
        labeled_ids=np.array(image_ids(labeled, seed + 1_000_000), "<U32"),
        labeled_embeddings=rng.normal(size=(labeled, width)).astype(np.float32),
        labeled_targets=rng.integers(0, classes, labeled),
    )


def random_hashes(count: int, seed: int = 0) -> list[str]:
    """Near-duplicate hashes that resemble each other no more than chance has it."""
    return [row.tobytes().hex() for row in np.random.default_rng(seed).integers(0, 256, (count, 16), np.uint8)]


class MemorySource:
    """A `CandidateSource` over a table in memory that obeys the contract of `PredictionStore.eligible`."""

    def __init__(self, predictions: pa.Table, taken: Collection[str] = ()) -> None:
        self.calls: list[tuple[Order, int]] = []
        self._log = (
            pl.DataFrame(predictions)
            .sort("logged_at", "prediction_id", descending=True)
            .unique("image_id", keep="first", maintain_order=True)
            .filter(~pl.col("image_id").is_in(list(taken)))
        )

    @classmethod
    def of(
        cls,
        probs: np.ndarray,
        *,
        hashes: Sequence[str | None] | None = None,
        embeddings: np.ndarray | None = None,
        taken: Collection[str] = (),
        salt: int = 0,
    ) -> MemorySource:
        ids = image_ids(len(probs), salt)
        table = prediction_table(
            image_ids=ids,
            image_uris=[f"images/{image_id}.png" for image_id in ids],
            image_hashes=hashes or [None] * len(ids),
            model_name="classifier",
            model_version=3,
            classes=[f"class {number}" for number in range(probs.shape[1])],
            probs=probs,
            source="simulation",
            embeddings=embeddings,
        )
        return cls(table, taken)

    @property
    def ids(self) -> list[str]:
        return self._log["image_id"].sort().to_list()

    def eligible(self, order: Order, limit: int, columns: Sequence[str], exclude: Collection[str] = ()) -> pa.Table:
        self.calls.append((order, limit))
        rows = self._log.filter(~pl.col("image_id").is_in(list(exclude)))
        if order.column == "random":
            rows = rows.sort((pl.col("image_key") - order.pivot) % KEY_SPACE, "image_id")
        else:
            rows = rows.sort(order.column, "image_id", descending=[order.descending, False])
        wanted = dict.fromkeys(["image_id", *columns, *([] if order.column == "random" else [order.column])])
        return rows.head(limit).select(list(wanted)).to_arrow()

    def count_eligible(self) -> int:
        return self._log.height
