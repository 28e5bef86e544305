"""Training: the contract every trainer keeps, its settings, and the trainer for image classifiers in torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from al_core.records import Preprocessing
from al_core.training_settings import TrainingSettings


@dataclass(frozen=True)
class LabeledImage:
    """One image with its resolved label; `uri` is what `read_image` understands."""

    image_id: str
    uri: str
    label: str


@dataclass(frozen=True)
class TrainingRequest:
    """Everything a trainer gets; `parent` is a folder as `ModelRegistry.fetch` returns it."""

    train: Sequence[LabeledImage]
    validation: Sequence[LabeledImage]
    classes: tuple[str, ...]  # the parent's classes first, in their order, new ones after them
    settings: TrainingSettings
    read_image: Callable[[str], bytes]
    output: Path  # an empty folder; the trainer leaves model.safetensors there
    parent: Path | None = None


@dataclass(frozen=True)
class TrainingResult:
    """What a trainer leaves behind, beside `model.safetensors` in the output folder."""

    weights: Path
    architecture: str
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    temperature: float
    log: dict[str, Any]


class Trainer(Protocol):
    """Anything that turns labels into a checkpoint."""

    def fit(self, request: TrainingRequest, report: Callable[[str], None]) -> TrainingResult:
        """Train; `report` takes a line of progress for people. Raises `ValueError` on data it cannot train on."""
