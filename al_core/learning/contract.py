"""Training: the contract every trainer keeps, and how one is found. Free of torch."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from al_core.errors import InvalidInput
from al_core.learning.settings import TrainingSettings
from al_core.learning.trainer_path import split_trainer_path
from al_core.records import DatasetManifest, EncoderRecord, Preprocessing

if TYPE_CHECKING:
    import numpy as np

    from al_core.learning.known_embeddings import KnownEmbeddings


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
    key: str = ""  # `checkpoint.training_key`; a trainer that runs elsewhere finds its work again by it
    dataset: DatasetManifest | None = None  # the published version that `train` and `validation` are the splits of
    # content hash of an encoder and how many images at most -> embeddings (M, d) float32 that it made of images without
    # a label; a trainer that works elsewhere has none
    unlabeled: Callable[[str, int], np.ndarray] | None = None
    known: KnownEmbeddings | None = None  # of a frozen encoder, what it made before; a trainer elsewhere has none


@dataclass(frozen=True)
class TrainingResult:
    """What a trainer leaves behind, beside `model.safetensors` in the output folder."""

    weights: Path
    architecture: str
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    temperature: float
    log: dict[str, Any]
    encoder: EncoderRecord | None = None  # where the encoder comes from, and what rebuilds it


class Trainer(Protocol):
    """Anything that turns labels into a checkpoint."""

    def fit(self, request: TrainingRequest, report: Callable[[str], None]) -> TrainingResult:
        """Train; `report` takes a line of progress for people. Raises `ValueError` on data it cannot train on."""


def load_trainer(dotted_path: str) -> Trainer:
    """The trainer behind `module:attribute`: a class, or a function without arguments, that makes one.

    Raises:
        ValueError: the path has another form, nothing is there, or what is there makes no trainer.
    """
    module_name, attribute = split_trainer_path(dotted_path)
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise InvalidInput(f"training.trainer {dotted_path!r}: {module_name} cannot be imported ({error})") from error
    make = getattr(module, attribute, None)
    if make is None:
        raise InvalidInput(f"training.trainer {dotted_path!r}: {module_name} has no {attribute}")
    trainer = make() if callable(make) else make
    if not callable(getattr(trainer, "fit", None)):
        raise InvalidInput(
            f"training.trainer {dotted_path!r} gives a {type(trainer).__name__}, which has no fit(request, report)"
        )
    return trainer
