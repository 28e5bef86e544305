"""Embedding pictures with an encoder, before there is a model or beside one: in bounded memory, chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from al_core.learning.checkpoint import load_network, read_manifest
from al_core.learning.networks import (
    Classifier,
    build_network,
    encoder_hash,
    half_precision_of,
    preprocessing_for,
    resolve_device,
)
from al_core.learning.preprocessing import CHUNK, normalise, read_in_chunks
from al_core.learning.settings import TrainingSettings
from al_core.records import Preprocessing, half_precision

if TYPE_CHECKING:
    from pathlib import Path

    from al_core.learning.contract import LabeledImage
    from al_core.learning.known_embeddings import KnownEmbeddings

BATCH_VALUES = 1 << 22  # input values embedded together; bounds the memory of the activations


@dataclass(frozen=True)
class EmbeddedChunk:
    """Some consecutive images: those that could be read, with their embeddings, and why the others could not."""

    image_ids: list[str]
    embeddings: np.ndarray  # (len(image_ids), d) float32
    skipped: dict[str, str]  # image id -> reason
    image_hashes: list[str | None] = field(default_factory=list)  # near-duplicate hashes, where somebody keeps them


class Embedder:
    """An encoder at hand; on the GPU where there is one, in half precision where `training.precision` allows it."""

    def __init__(
        self, network: Classifier, preprocessing: Preprocessing, settings: TrainingSettings, architecture: str
    ) -> None:
        self.architecture = architecture
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
        return cls(network, preprocessing, settings, settings.architecture)

    @classmethod
    def of_checkpoint(cls, folder: Path, settings: TrainingSettings) -> Embedder:
        """The encoder of a published version; `settings` say on what it runs.

        Raises:
            BadCheckpoint: files are missing, the weights were changed, or they do not fit the architecture.
        """
        manifest = read_manifest(folder)
        return cls(load_network(folder, manifest), manifest.preprocessing, settings, manifest.architecture)

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

    def chunks(
        self,
        images: Sequence[LabeledImage],
        read_image: Callable[[str], bytes],
        known: KnownEmbeddings | None = None,
    ) -> Iterator[EmbeddedChunk]:
        """The images in their order, see `embedded_chunks`."""
        encoder = self.encoder_hash if known is not None else ""
        return embedded_chunks(images, read_image, self.preprocessing, self.embed_pixels, encoder, known)


def embedded_chunks(
    images: Sequence[LabeledImage],
    read_image: Callable[[str], bytes],
    preprocessing: Preprocessing,
    embed: Callable[[torch.Tensor], np.ndarray],
    encoder: str = "",
    known: KnownEmbeddings | None = None,
) -> Iterator[EmbeddedChunk]:
    """The images in their order, a chunk at a time; a file that is missing or broken is named with the reason.

    `embed` makes (N, d) of pixels. With `known`, what this `encoder` made before is taken from there, and what it makes
    now is kept there: such images are not even read. An embedding is the same either way, of half precision.
    """
    before = None if known is None else known.read(encoder, [image.image_id for image in images])
    there = np.zeros(len(images), bool) if before is None else before.known
    place = np.cumsum(there) - 1
    for start in range(0, len(images), CHUNK):
        part = range(start, min(start + CHUNK, len(images)))
        missing = [images[n] for n in part if not there[n]]
        new = _computed(missing, read_image, preprocessing, embed, hashed=known is not None)
        if known is not None and new.image_ids:
            known.add(encoder, new.image_ids, new.embeddings, new.image_hashes)
        rows = dict(zip(new.image_ids, new.embeddings, strict=True))
        if before is not None:
            rows |= {images[n].image_id: before.embeddings[place[n]] for n in part if there[n]}
        ids = [images[n].image_id for n in part if images[n].image_id in rows]
        yield EmbeddedChunk(ids, _stacked([rows[image_id] for image_id in ids], new.embeddings.shape[1]), new.skipped)


def _stacked(rows: list[np.ndarray], width: int) -> np.ndarray:
    return np.stack(rows) if rows else np.empty((0, width), np.float32)


def _computed(
    images: Sequence[LabeledImage],
    read_image: Callable[[str], bytes],
    preprocessing: Preprocessing,
    embed: Callable[[torch.Tensor], np.ndarray],
    *,
    hashed: bool,
) -> EmbeddedChunk:
    """What is made of one chunk of images now; where it is kept (`hashed`), of half precision as what is kept."""
    if not images:
        return EmbeddedChunk([], np.empty((0, 0), np.float32), {})
    (read,) = read_in_chunks(images, read_image, preprocessing, hashed=hashed)
    rows = embed(read.pixels)
    ids = [images[position].image_id for position in read.positions]
    return EmbeddedChunk(ids, half_precision(rows) if hashed else rows, read.skipped, read.hashes)
