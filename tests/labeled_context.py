"""A strategy context for tests: what is labeled, without a dataset and without a model."""

from __future__ import annotations

import numpy as np

from al_core.strategies.base import Labeled
from al_core.strategies.context import Committee, StrategyContext


class LabeledContext(StrategyContext):
    """A context that knows what is labeled without a dataset."""

    def __init__(self, labeled: Labeled, committee: Committee | None = None) -> None:
        super().__init__(classes=(), committee=committee)
        self._labeled = labeled

    @property
    def labeled(self) -> Labeled:  # type: ignore[override]
        return self._labeled

    @property
    def seconds(self) -> np.ndarray:  # type: ignore[override]
        return np.ones(1 + int(self._labeled.targets.max()))
