"""What selection may choose from in the prediction log: one model version's eligible images of one part."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import pyarrow as pa

from al_core.judging.truth import Part
from al_core.strategies.base import Order
from al_resources.prediction_store import PredictionStore


@dataclass(frozen=True)
class Candidates:
    """A prediction store bound to one model version and one part of all images: a `CandidateSource`."""

    store: PredictionStore
    model_name: str
    model_version: int
    part: Part | None = None

    def eligible(self, order: Order, limit: int, columns: Sequence[str], exclude: Collection[str] = ()) -> pa.Table:
        """The first `limit` eligible images in `order`; see `PredictionStore.eligible`."""
        return self.store.eligible(self.model_name, self.model_version, order, limit, columns, exclude, self.part)

    def count_eligible(self) -> int:
        """How many images there are to choose from."""
        return self.store.count_eligible(self.model_name, self.model_version, self.part)
