"""Inference: a published checkpoint that answers with calibrated probabilities and embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from al_core.learning.checkpoint import load_network, read_manifest
from al_core.learning.networks import Classifier, encoder_hash, resolve_device
from al_core.learning.preprocessing import normalise, to_pixels
from al_core.records import ModelManifest

BATCH_VALUES = 1 << 21  # input values computed together; bounds the memory of the activations


class Predictor:
    """One model version, ready to answer. Holds no state between calls: safe to use from several threads."""

    def __init__(self, network: Classifier, manifest: ModelManifest, device: torch.device) -> None:
        self.manifest = manifest
        self._device = device
        self._network = network.to(device).eval().requires_grad_(False)
        values = manifest.preprocessing.channels * manifest.preprocessing.size**2
        self._batch = max(1, BATCH_VALUES // values)

    @classmethod
    def load(cls, folder: Path, device: str = "auto") -> Predictor:
        """The checkpoint in `folder`, its weights verified against the manifest.

        Raises:
            BadCheckpoint: files are missing, the weights were changed, or they do not fit the architecture.
        """
        manifest = read_manifest(folder)
        return cls(load_network(folder, manifest), manifest, resolve_device(device))

    @property
    def classes(self) -> tuple[str, ...]:
        """What the columns of the probabilities stand for."""
        return self.manifest.classes

    @property
    def name(self) -> str:
        """The model's name."""
        return self.manifest.name

    @property
    def version(self) -> int:
        """The model's version."""
        return self.manifest.version

    @property
    def dimension(self) -> int:
        """The width of the embeddings."""
        return self._network.head.in_features

    @cached_property
    def encoder_hash(self) -> str:
        """Content hash of all that makes an embedding; equal in versions that were trained with a frozen encoder."""
        return encoder_hash(self._network, self.manifest.preprocessing)

    def predict(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Probabilities, shape (N, C), float32: softmax of the logits over the temperature."""
        return self.predict_with_embeddings(images)[0]

    def predict_with_embeddings(self, images: Sequence[Image.Image]) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities (N, C) and penultimate activations (N, d), both float32."""
        parts = [
            self.predict_pixels(to_pixels(images[start : start + self._batch], self.manifest.preprocessing))
            for start in range(0, len(images), self._batch)
        ]
        if not parts:
            return np.empty((0, len(self.classes)), np.float32), np.empty((0, self.dimension), np.float32)
        probs, embeddings = zip(*parts, strict=True)
        return np.concatenate(probs), np.concatenate(embeddings)

    @torch.inference_mode()
    def predict_pixels(self, pixels: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """The same for images that are resized already, shape (N, channels, size, size), uint8."""
        embeddings = self.embed_pixels(pixels)
        return self.classify(embeddings), embeddings

    @torch.inference_mode()
    def embed_pixels(self, pixels: torch.Tensor) -> np.ndarray:
        """The activations (N, d) alone, of which `classify` makes probabilities."""
        parts = [
            self._network.embed(normalise(part.to(self._device), self.manifest.preprocessing)).cpu()
            for part in pixels.split(self._batch)
        ]
        return torch.cat(parts).numpy()

    @torch.inference_mode()
    def classify(self, embeddings: np.ndarray) -> np.ndarray:
        """Probabilities (N, C) of embeddings (N, d) that this model's encoder made."""
        logits = self._network.head(torch.from_numpy(embeddings).to(self._device))
        return (logits / self.manifest.temperature).softmax(dim=1).cpu().numpy()
