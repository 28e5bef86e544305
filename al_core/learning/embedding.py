"""Embedding pictures with an encoder, before there is a model or beside one: in bounded memory, chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from al_core.learning.networks import (
    Classifier,
    build_network,
    encoder_hash,
    half_precision_of,
    preprocessing_for,
    resolve_device,
)
from al_core.learning.preprocessing import normalise, read_in_chunks
from al_core.learning.settings import TrainingSettings
from al_core.records import Preprocessing

if TYPE_CHECKING:
    from al_core.learning.contract import LabeledImage

BATCH_VALUES = 1 << 22  # input values embedded together; bounds the memory of the activations


@dataclass(frozen=True)
class EmbeddedChunk:
    """Some consecutive images: those that could be read, with their embeddings, and why the others could not."""

    image_ids: list[str]
    embeddings: np.ndarray  # (len(image_ids), d) float32
    skipped: dict[str, str]  # image id -> reason


class Embedder:
    """An encoder at hand; on the GPU where there is one, in half precision where `training.precision` allows it."""

    def __init__(self, network: Classifier, preprocessing: Preprocessing, settings: TrainingSettings) -> None:
        self.preprocessing = preprocessing
        self._device = resolve_device(settings.device)
        self._half = half_precision_of(settings, self._device)
        self._network = network.to(self._device).eval().requires_grad_(False)

    @classmethod
    def of_settings(cls, settings: TrainingSettings) -> Embedder:
        """The encoder that a first training would begin with.

        Raises:
            NoEncoder: it cannot be had.
        """
        preprocessing = preprocessing_for(
            settings.architecture,
            size=settings.image_size,
            channels=settings.channels,
            weights=settings.initial_weights,
            crop=settings.crop,
        )
        network = build_network(
            settings.architecture,
            classes=2,
            size=preprocessing.size,
            channels=preprocessing.channels,
            weights=settings.initial_weights,
        )
        return cls(network, preprocessing, settings)

    @cached_property
    def encoder_hash(self) -> str:
        """Content hash of all that makes an embedding."""
        return encoder_hash(self._network, self.preprocessing)

    @property
    def dimension(self) -> int:
        """The width of the embeddings."""
        return self._network.head.in_features

    @torch.inference_mode()
    def embed_pixels(self, pixels: torch.Tensor) -> np.ndarray:
        """(N, d) float32 of (N, channels, size, size) uint8."""
        rows = max(1, BATCH_VALUES // max(1, pixels[:1].numel()))
        parts = [np.empty((0, self.dimension), np.float32)]
        for part in pixels.split(rows):
            with torch.autocast(self._device.type, dtype=self._half, enabled=self._half is not None):
                embedded = self._network.embed(normalise(part.to(self._device), self.preprocessing))
            parts.append(embedded.float().cpu().numpy())
        return np.concatenate(parts)

    def chunks(self, images: Sequence[LabeledImage], read_image: Callable[[str], bytes]) -> Iterator[EmbeddedChunk]:
        """The images in their order, a chunk at a time; a file that is missing or broken is named with the reason."""
        for chunk in read_in_chunks(images, read_image, self.preprocessing):
            ids = [images[position].image_id for position in chunk.positions]
            yield EmbeddedChunk(ids, self.embed_pixels(chunk.pixels), chunk.skipped)
