"""Asking a published model in this process: for committees, comparisons, and what the log does not hold."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from al_core.learning.contract import LabeledImage
    from al_core.learning.inference import Predictor
    from al_resources.platform import Platform

TIMED_ANSWERS = 11  # of one image each; the median is told


def predictor_of(platform: Platform, version: int) -> Predictor:
    """A version of the registry, loaded."""
    from al_core.learning.inference import Predictor

    return Predictor.load(platform.registry.fetch(version))


def answers_of(
    platform: Platform, predictor: Predictor, images: Sequence[LabeledImage]
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Ids, probabilities and embeddings of the readable ones among the images, chunk by chunk.

    What a frozen encoder made of an image before is not made again, and what it makes now is kept.
    """
    from al_core.learning.embedding import embedded_chunks

    known = platform.embeddings if platform.settings.training.frozen else None
    encoder = "" if known is None else predictor.encoder_hash
    preprocessing, embed = predictor.manifest.preprocessing, predictor.embed_pixels
    ids: list[str] = []
    probs = [np.empty((0, len(predictor.classes)), np.float32)]
    embeddings = [np.empty((0, predictor.dimension), np.float32)]
    for chunk in embedded_chunks(images, platform.images.read, preprocessing, embed, encoder, known):
        if chunk.image_ids:
            ids += chunk.image_ids
            probs.append(predictor.classify(chunk.embeddings))
            embeddings.append(chunk.embeddings)
    return ids, np.concatenate(probs), np.concatenate(embeddings)


def latency_ms(predictor: Predictor) -> float:
    """Median time of one answer in this process, in milliseconds, network alone."""
    import torch

    preprocessing = predictor.manifest.preprocessing
    pixels = torch.zeros((1, preprocessing.channels, preprocessing.size, preprocessing.size), dtype=torch.uint8)
    seconds = []
    for _ in range(TIMED_ANSWERS):
        begun = time.perf_counter()
        predictor.predict_pixels(pixels)
        seconds.append(time.perf_counter() - begun)
    return 1000 * float(np.median(seconds))
