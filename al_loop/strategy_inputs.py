"""What strategies need beside the prediction log: the labeled images, a committee, and what earlier rounds found."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from al_core.errors import InvalidInput
from al_core.strategies.context import StrategyContext
from al_loop.answering import answers_of, predictor_of

if TYPE_CHECKING:
    from al_core.learning.contract import LabeledImage
    from al_core.learning.inference import Predictor
    from al_resources.platform import Platform

COMMITTEE = 3  # the serving version and the ones it was trained from


def strategy_context(platform: Platform, version: int) -> StrategyContext:
    """What strategies may need for a pool that this model version scored."""
    inputs = _Inputs(platform, version)
    return StrategyContext(
        classes=platform.registry.manifest(version).classes,
        dataset=platform.datasets.latest,
        labels=lambda: platform.ledgers.read("labels"),
        embed=inputs.embed,
        committee=inputs.committee,
        encoder=lambda: inputs.predictor.encoder_hash,
        distances_file=cache_folder(platform) / "distances.npz",
    )


def cache_folder(platform: Platform) -> Path:
    """Where a machine keeps what the next selection would compute again."""
    return platform.settings.home / "cache" / "selection"


class _Inputs:
    """What the platform's stores and models say, on demand: most strategies ask for nothing of it."""

    def __init__(self, platform: Platform, version: int) -> None:
        self.platform = platform
        self.version = version

    @cached_property
    def predictor(self) -> Predictor:
        """The model version whose pool is chosen from."""
        return predictor_of(self.platform, self.version)

    def committee(self, image_ids: Sequence[str]) -> np.ndarray:
        """The answers of the version and its ancestors: image ids (N,) -> probabilities (N, T, C).

        A class that an ancestor does not know has probability 0 there.

        Raises:
            ValueError: an image is gone or broken since it was scored.
        """
        from al_core.learning.contract import LabeledImage

        members = [self.predictor, *(predictor_of(self.platform, number) for number in self._ancestors())]
        classes = members[0].classes
        images = [LabeledImage(image_id, self.platform.images.path_of(image_id), "") for image_id in image_ids]
        answers = np.zeros((len(images), len(members), len(classes)), np.float32)
        for number, member in enumerate(members):
            ids, probs, _ = answers_of(self.platform, member, images)
            if len(ids) != len(images):
                raise InvalidInput(f"{len(images) - len(ids)} images of the pool cannot be read any more")
            answers[:, number, [classes.index(name) for name in member.classes]] = probs
        return answers

    def _ancestors(self) -> list[int]:
        """The versions this one was trained from, newest first, at most `COMMITTEE - 1` of them."""
        numbers: list[int] = []
        parent = self.predictor.manifest.parent_version
        while parent is not None and len(numbers) < COMMITTEE - 1:
            numbers.append(parent)
            parent = self.platform.registry.manifest(parent).parent_version
        return numbers

    def embed(self, images: Sequence[LabeledImage]) -> tuple[np.ndarray, np.ndarray]:
        """Ids (L,) and embeddings (L, d) of the readable images; only those new to this encoder are computed."""
        from al_core.learning.embedding import embedded_chunks

        predictor, platform = self.predictor, self.platform
        chunks = [*embedded_chunks(
            images, platform.images.read, predictor.manifest.preprocessing, predictor.embed_pixels,
            predictor.encoder_hash, platform.embeddings,
        )]  # fmt: skip
        rows = [chunk.embeddings for chunk in chunks if chunk.image_ids] or [np.empty((0, predictor.dimension))]
        ids = [image_id for chunk in chunks for image_id in chunk.image_ids]
        return np.array(ids, str), np.concatenate(rows).astype(np.float32, copy=False)
