"""Stores that can be told to be away, and predictions to put into them. Free of torch: processes start with it."""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from al_core.images import content_id
from al_resources.platform import Platform
from al_resources.settings import load_settings
from al_serving.collector import Collector, Prediction


class Stores:
    """The stores behind a collector: `broken` makes the log fail, and while `open` is cleared it hangs."""

    def __init__(self, folder: Path) -> None:
        platform = Platform(load_settings(home=folder))
        self.folder = folder
        self.ledgers, self.log, self.images = platform.ledgers, platform.predictions, platform.images
        self.broken = False
        self.fails_after_writing = 0  # so many times
        self.open = threading.Event()
        self.open.set()

    def append(self, predictions: pa.Table) -> None:
        self.open.wait()
        if self.broken:
            raise ConnectionError("the store is away")
        self.log.append(predictions)
        if self.fails_after_writing:
            self.fails_after_writing -= 1
            raise TimeoutError("no answer, though the rows are in")

    def rows_of(self, image_ids: Collection[str], columns: Sequence[str] | None = None) -> pa.Table:
        return self.log.rows_of(image_ids, columns)

    def collector(self, **options: Any) -> Collector:
        return Collector(self, self.images, self.ledgers, self.folder / "spool", **options)  # type: ignore[arg-type]

    def logged(self) -> pa.Table:
        """Everything in the log."""
        batches = list(self.log.scan(["prediction_id", "image_id", "image_uri", "model_version", "logged_at"]))
        return pa.Table.from_batches(batches) if batches else pa.table({"image_id": pa.array([], pa.string())})


def png(number: int) -> bytes:
    """A small image whose pixels say its number."""
    pixels = np.frombuffer(np.random.default_rng(number).bytes(64), np.uint8).reshape(8, 8)
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def prediction(number: int, version: int = 1) -> Prediction:
    image = png(number)
    return Prediction(
        image=image,
        image_id=content_id(image),
        image_hash="0" * 32,
        model_name="digits",
        model_version=version,
        classes=("0", "1"),
        probs=np.array([0.25, 0.75], np.float32),
        source="online",
    )
