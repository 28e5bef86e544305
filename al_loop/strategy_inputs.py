"""What strategies need beside the prediction log: the labeled images, a committee, and what earlier rounds found."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from al_core.errors import InvalidInput
from al_core.strategies.base import Labeled, QueryStrategy
from al_core.strategies.class_balanced import ClassBalanced
from al_core.strategies.cost_aware import CostAware, seconds_per_class
from al_core.strategies.distance_cache import DistanceCache
from al_core.strategies.k_center_greedy import KCenterGreedy

if TYPE_CHECKING:
    from al_core.learning.contract import LabeledImage
    from al_core.learning.inference import Predictor
    from al_resources.platform import Platform

COMMITTEE = 3  # the serving version and the ones it was trained from


class SelectionInputs:
    """Computed on demand for one selection by one model version: most strategies ask for nothing of it."""

    def __init__(self, platform: Platform, version: int) -> None:
        self.platform = platform
        self.version = version

    @cached_property
    def predictor(self) -> Predictor:
        """The model version whose pool is chosen from."""
        return _predictor(self.platform, self.version)

    def prepare(self, strategy: QueryStrategy) -> QueryStrategy:
        """The strategy with what this instance knows: distances of earlier rounds, seconds per label of a class."""
        if isinstance(strategy, KCenterGreedy) and strategy.cache is None:
            file = self._cache / "distances.npz"
            strategy.cache = DistanceCache(self.predictor.encoder_hash, file)
        elif isinstance(strategy, CostAware) and strategy.seconds is None:
            timed = self.platform.ledgers.read("labels").select("label", "annotation_seconds").iter_rows()
            strategy.seconds = seconds_per_class(timed, self.predictor.classes).tolist()
        elif isinstance(strategy, ClassBalanced):
            self.prepare(strategy.base)
        return strategy

    def labeled(self, strategy: QueryStrategy) -> Labeled | None:
        """The training images of the newest dataset as the model sees them; None where nobody asks."""
        asks = "labels" in strategy.needs or type(strategy).plan is not QueryStrategy.plan
        dataset = self.platform.datasets.latest() if asks else None
        if dataset is None:
            return None
        known = [image for image in dataset.images("train") if image.label in self.predictor.classes]
        ids, embeddings = self._embedded(known)
        label_of = {image.image_id: image.label for image in known}
        targets = np.array([self.predictor.classes.index(label_of[image_id]) for image_id in ids], np.int64)
        return Labeled(ids, embeddings, targets)

    def committee(self, image_ids: Sequence[str]) -> np.ndarray:
        """The answers of the version and its ancestors: image ids (N,) -> probabilities (N, T, C).

        A class that an ancestor does not know has probability 0 there.

        Raises:
            ValueError: an image is gone or broken since it was scored.
        """
        from al_core.learning.contract import LabeledImage

        members = [self.predictor, *(_predictor(self.platform, number) for number in self._ancestors())]
        classes = members[0].classes
        images = [LabeledImage(image_id, self.platform.images.path_of(image_id), "") for image_id in image_ids]
        answers = np.zeros((len(images), len(members), len(classes)), np.float32)
        for number, member in enumerate(members):
            ids, probs, _ = _answers(self.platform, member, images)
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

    def _embedded(self, images: Sequence[LabeledImage]) -> tuple[np.ndarray, np.ndarray]:
        """Ids (L,) and embeddings (L, d) of the readable images; only those new to this encoder are computed."""
        from al_resources.caches.embeddings import EmbeddingCache

        cache = EmbeddingCache(self._cache / "embeddings", self.predictor.encoder_hash, self.predictor.dimension)
        ids = np.array([image.image_id for image in images], str)
        known, rows = cache.read(ids)
        new, _, computed = _answers(self.platform, self.predictor, [images[n] for n in np.flatnonzero(~known).tolist()])
        cache.add(np.array(new, str), computed)
        rows[np.flatnonzero(np.isin(ids, new))] = computed
        readable = known | np.isin(ids, new)
        return ids[readable], rows[readable]

    @property
    def _cache(self) -> Path:
        return self.platform.settings.home / "cache" / "selection"


def _predictor(platform: Platform, version: int) -> Predictor:
    from al_core.learning.inference import Predictor

    return Predictor.load(platform.registry.fetch(version))


def _answers(
    platform: Platform, predictor: Predictor, images: Sequence[LabeledImage]
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Ids, probabilities and embeddings of the readable ones among the images, chunk by chunk."""
    from al_core.learning.preprocessing import read_in_chunks

    ids: list[str] = []
    probs = [np.empty((0, len(predictor.classes)), np.float32)]
    embeddings = [np.empty((0, predictor.dimension), np.float32)]
    for chunk in read_in_chunks(images, platform.images.read, predictor.manifest.preprocessing):
        ids += [images[position].image_id for position in chunk.positions]
        answered, embedded = predictor.predict_pixels(chunk.pixels)
        probs.append(answered)
        embeddings.append(embedded)
    return ids, np.concatenate(probs), np.concatenate(embeddings)
