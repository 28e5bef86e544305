"""What strategies need beside the prediction log: the labeled images as embeddings, and a committee of models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from al_core.strategies.base import Labeled, QueryStrategy

if TYPE_CHECKING:
    from al_core.inference import Predictor
    from al_core.training import LabeledImage
    from al_resources.platform import Platform

COMMITTEE = 3  # the serving version and the ones it was trained from


def labeled_images(platform: Platform, version: int, strategy: QueryStrategy) -> Labeled | None:
    """The training images of the newest dataset as the serving model sees them; None where nobody asks."""
    asks = "labels" in strategy.needs or type(strategy).plan is not QueryStrategy.plan
    dataset = platform.datasets.latest() if asks else None
    if dataset is None:
        return None
    predictor = _predictor(platform, version)
    known = [image for image in dataset.images("train") if image.label in predictor.classes]
    ids, _, embeddings = _answers(platform, predictor, known)
    label_of = {image.image_id: image.label for image in known}
    targets = np.array([predictor.classes.index(label_of[image_id]) for image_id in ids], np.int64)
    return Labeled(np.array(ids, str), embeddings, targets)


def committee(platform: Platform, version: int) -> Callable[[Sequence[str]], np.ndarray]:
    """The answers of the serving version and its ancestors: image ids (N,) -> probabilities (N, T, C).

    A class that an ancestor does not know has probability 0 there.

    Raises:
        ValueError: an image is gone or broken since it was scored.
    """

    def ask(image_ids: Sequence[str]) -> np.ndarray:
        from al_core.training import LabeledImage

        members = [_predictor(platform, number) for number in _lineage(platform, version)]
        classes = members[0].classes
        images = [LabeledImage(image_id, platform.images.path_of(image_id), "") for image_id in image_ids]
        answers = np.zeros((len(images), len(members), len(classes)), np.float32)
        for number, member in enumerate(members):
            ids, probs, _ = _answers(platform, member, images)
            if len(ids) != len(images):
                raise ValueError(f"{len(images) - len(ids)} images of the pool cannot be read any more")
            answers[:, number, [classes.index(name) for name in member.classes]] = probs
        return answers

    return ask


def _lineage(platform: Platform, version: int) -> list[int]:
    """The version and its ancestors, newest first, at most `COMMITTEE` of them."""
    numbers = [version]
    while len(numbers) < COMMITTEE and (parent := platform.registry.manifest(numbers[-1]).parent_version):
        numbers.append(parent)
    return numbers


def _predictor(platform: Platform, version: int) -> Predictor:
    from al_core.inference import Predictor

    return Predictor.load(platform.registry.fetch(version))


def _answers(
    platform: Platform, predictor: Predictor, images: Sequence[LabeledImage]
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Ids, probabilities and embeddings of the readable ones among the images, chunk by chunk."""
    from al_core.preprocessing import read_in_chunks

    ids: list[str] = []
    probs = [np.empty((0, len(predictor.classes)), np.float32)]
    embeddings = [np.empty((0, predictor.dimension), np.float32)]
    for chunk in read_in_chunks(images, platform.images.read, predictor.manifest.preprocessing):
        ids += [images[position].image_id for position in chunk.positions]
        answered, embedded = predictor.predict_pixels(chunk.pixels)
        probs.append(answered)
        embeddings.append(embedded)
    return ids, np.concatenate(probs), np.concatenate(embeddings)
