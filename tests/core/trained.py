"""Small labeled pictures and checkpoints for the tests of training, inference and evaluation."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from al_core.learning.checkpoint import sha256_of
from al_core.learning.contract import LabeledImage, TrainingRequest, TrainingResult
from al_core.learning.settings import TrainingSettings
from al_core.learning.torch_trainer import TorchTrainer
from al_core.records import ModelManifest, utc_now

STRIPES = ("across", "down", "plain", "spots")


def settings(**changes: Any) -> TrainingSettings:
    return TrainingSettings(**{"image_size": 8, "channels": 1, "epochs": 4, "device": "cpu"} | changes)


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


class Files:
    """Pictures by uri, as a blob store would hand them out."""

    def __init__(self) -> None:
        self.data: dict[str, bytes] = {}

    def add(self, image_id: str, label: str, data: bytes) -> LabeledImage:
        self.data[f"images/{image_id}"] = data
        return LabeledImage(image_id, f"images/{image_id}", label)

    def read(self, uri: str) -> bytes:
        if uri not in self.data:
            raise FileNotFoundError(uri)
        return self.data[uri]

    def patterns(self, count: int, classes: Sequence[str] = STRIPES[:2], seed: int = 0) -> list[LabeledImage]:
        """`count` noisy 8x8 pictures per class."""
        rng = np.random.default_rng(seed)
        made = []
        for label in classes:
            for _ in range(count):
                pixels = rng.integers(0, 120, (8, 8))
                if label == "across":
                    pixels[::2] += 130
                elif label == "down":
                    pixels[:, ::2] += 130
                elif label == "spots":
                    pixels[2:4, 2:4] += 130
                    pixels[5:7, 4:6] += 130
                made.append(self.add(f"{rng.integers(1 << 62):032x}", label, png(pixels)))
        return made


@cache
def digits() -> tuple[Files, tuple[LabeledImage, ...]]:
    """scikit-learn's digits in a fixed random order."""
    from sklearn.datasets import load_digits

    data, files = load_digits(), Files()
    order = np.random.default_rng(0).permutation(len(data.target))
    images = [files.add(f"{i:032x}", str(data.target[i]), png(data.images[i] * (255 / 16))) for i in order]
    return files, tuple(images)


def fit(
    files: Files,
    train: Sequence[LabeledImage],
    folder: Path,
    *,
    validation: Sequence[LabeledImage] = (),
    classes: Sequence[str] | None = None,
    parent: Path | None = None,
    settings: TrainingSettings,
    version: int = 1,
    report: Callable[[str], None] = lambda line: None,
) -> TrainingResult:
    """Train and leave a complete checkpoint in `folder`, manifest included."""
    folder.mkdir(parents=True, exist_ok=True)
    names = tuple(classes or sorted({image.label for image in train}))
    request = TrainingRequest(train, validation, names, settings, files.read, folder, parent)
    result = TorchTrainer().fit(request, report)
    manifest = ModelManifest(
        name="classifier",
        version=version,
        architecture=result.architecture,
        classes=result.classes,
        preprocessing=result.preprocessing,
        temperature=result.temperature,
        dataset_version="d",
        training_key=f"key {folder}",
        code_version="test",
        labels=len(train) + len(validation),
        created_at=utc_now(),
        weights_sha256=sha256_of(result.weights),
        encoder=result.encoder,
    )
    (folder / "manifest.json").write_text(manifest.model_dump_json())
    return result
