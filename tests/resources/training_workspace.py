"""Trainings for the tests of trainers: a published dataset of small pictures, and the platform it lies in."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from PIL import Image

from al_core.dataset import ROWS, Dataset
from al_core.learning.checkpoint import training_key
from al_core.learning.contract import Trainer, TrainingRequest
from al_core.learning.settings import TrainingSettings
from al_core.records import DatasetManifest, utc_now
from al_resources.platform import Platform

CLASSES = ("across", "down")
SMALL = {"image_size": 8, "channels": 1, "epochs": 2, "augment": "none", "device": "cpu"}


def stripes(count: int, seed: int) -> list[tuple[str, bytes]]:
    """`count` noisy pictures per class, with their labels."""
    rng = np.random.default_rng(seed)
    made = []
    for label in CLASSES:
        for _ in range(count):
            pixels = rng.integers(0, 120, (8, 8))
            if label == "across":
                pixels[::2] += 130
            else:
                pixels[:, ::2] += 130
            buffer = io.BytesIO()
            Image.fromarray(pixels.astype(np.uint8)).save(buffer, "PNG")
            made.append((label, buffer.getvalue()))
    return made


def publish_dataset(platform: Platform, *, train: int = 8, validation: int = 2, sequence: int = 1) -> Dataset:
    """A dataset of that many pictures per class and split, published."""
    rows: list[dict[str, Any]] = []
    for split, count, seed in (("train", train, 1), ("validation", validation, 2), ("holdout", 2, 3)):
        for label, picture in stripes(count, seed=100 * sequence + seed):
            stored = platform.images.put(picture)
            rows.append(
                {"image_id": stored.image_id, "image_url": stored.uri, "label": label, "split": split, "round": 0}
            )
    manifest = DatasetManifest(
        version=f"{sequence:032x}",
        sequence=sequence,
        parent=None,
        round=sequence - 1,
        classes=CLASSES,
        counts={"train": 2 * train, "validation": 2 * validation, "holdout": 4, "excluded": 0},
        holdout="h",
        created_at=utc_now(),
    )
    dataset = Dataset(pl.DataFrame(rows, schema=ROWS), manifest)
    platform.datasets.publish(dataset)
    return dataset


@dataclass
class TrainingBench:
    """A trainer, and what it needs to be asked for something."""

    platform: Platform
    trainer: Trainer
    folder: Path
    lines: list[str] = field(default_factory=list)

    def request(
        self, dataset: Dataset, *, parent: Path | None = None, key: str = "", **changes: Any
    ) -> TrainingRequest:
        """A training of that dataset; `changes` are to the settings."""
        wanted = TrainingSettings(**SMALL | changes)
        output = self.folder / f"output-{time.monotonic_ns()}"
        output.mkdir()
        return TrainingRequest(
            train=dataset.images("train"),
            validation=dataset.images("validation"),
            classes=dataset.manifest.classes,
            settings=wanted,
            read_image=self.platform.images.read,
            output=output,
            parent=parent,
            key=training_key(dataset.manifest.version, 1 if parent else None, wanted, "test"),
            dataset=dataset.manifest,
        )

    @property
    def report(self) -> Callable[[str], None]:
        return self.lines.append
