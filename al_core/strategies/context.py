"""What a query strategy may need besides the pool: one object, handed over by production and by simulation alike.

Nothing of it is computed before a strategy asks. Who hands it over says how the model at hand embeds images, how
earlier models answer, and where the ledger of labels lies; what is made of these is decided here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from al_core.errors import InvalidInput
from al_core.records import LABELS, empty_table
from al_core.strategies.base import Labeled
from al_core.strategies.cost_aware import seconds_per_class
from al_core.strategies.distance_cache import DistanceCache

if TYPE_CHECKING:
    from al_core.dataset import Dataset
    from al_core.learning.contract import LabeledImage

Embed = Callable[[Sequence["LabeledImage"]], tuple[np.ndarray, np.ndarray]]
Committee = Callable[[Sequence[str]], np.ndarray]


@dataclass
class StrategyContext:
    """Everything that is known when a batch is chosen, as the model sees it whose doubts are asked.

    Attributes:
        classes: Of that model, in its order.
        dataset: Gives the newest version of the labeled dataset; None before the first.
        labels: Gives the ledger of labels, rows of `LABELS` in the order of insertion.
        embed: Images to the ids (L,) of the readable ones and their embeddings (L, d), in the order given.
        committee: Image ids (N,) to the answers (N, T, C) of the model and its predecessors; classes that one of
            them does not know have probability 0 there.
        encoder: Gives the content hash of the encoder; distances of another one mean nothing.
        distances_file: Where distances are kept between rounds; None keeps them for this selection only.
    """

    classes: Sequence[str]
    dataset: Callable[[], Dataset | None] = lambda: None
    labels: Callable[[], pl.DataFrame] = lambda: pl.DataFrame(empty_table(LABELS))
    embed: Embed | None = None
    committee: Committee | None = None
    encoder: Callable[[], str] = lambda: ""
    distances_file: Path | None = None

    @cached_property
    def labeled(self) -> Labeled:
        """The images that teach (train and validation), oldest first: in the order in which their labels came in.

        Images of classes that the model does not know, and those that cannot be read any more, are left out.
        """
        images = self._teaching_images()
        if not images:
            return Labeled(np.empty(0, str), np.empty((0, 0), np.float32), np.empty(0, np.int64))
        if self.embed is None:
            raise InvalidInput("a strategy asks for the labeled images, and nobody said how they are embedded")
        ids, embeddings = self.embed(images)
        position = {name: number for number, name in enumerate(self.classes)}
        label_of = {image.image_id: image.label for image in images}
        targets = np.array([position[label_of[image_id]] for image_id in ids.tolist()], np.int64)
        return Labeled(ids, embeddings, targets)

    @cached_property
    def seconds(self) -> np.ndarray:
        """What a label of each class takes a person, (C,) seconds, from the times that the labels came with."""
        return seconds_per_class(self.labels().select("label", "annotation_seconds").iter_rows(), self.classes)

    @cached_property
    def distances(self) -> DistanceCache:
        """The distances to the labeled images that earlier rounds computed with the same encoder."""
        return DistanceCache(self.encoder(), self.distances_file)

    def _teaching_images(self) -> list[LabeledImage]:
        dataset = self.dataset()
        if dataset is None:
            return []
        first = self.labels()["image_id"].unique(maintain_order=True).to_list()
        arrival = {image_id: place for place, image_id in enumerate(first)}
        known = [
            image for split in ("train", "validation") for image in dataset.images(split) if image.label in self.classes
        ]
        return sorted(known, key=lambda image: (arrival.get(image.image_id, len(arrival)), image.image_id))
