"""The part of the prediction log that selection may choose from: one model version's eligible images."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import pyarrow as pa

from al_core.strategies.base import Order
from al_resources.prediction_store import PredictionStore


@dataclass(frozen=True)
class Candidates:
    """A prediction store bound to one model version: the `CandidateSource` of `al_core.selection`."""

    store: PredictionStore
    model_name: str
    model_version: int

    def eligible(self, order: Order, limit: int, columns: Sequence[str], exclude: Collection[str] = ()) -> pa.Table:
        """The first `limit` eligible images in `order`; see `PredictionStore.eligible`."""
        return self.store.eligible(self.model_name, self.model_version, order, limit, columns, exclude)

    def count_eligible(self) -> int:
        """How many images there are to choose from."""
        return self.store.count_eligible(self.model_name, self.model_version)
