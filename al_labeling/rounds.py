"""The rounds on the page: each with its queue, its pictures and what the model said of them."""

from __future__ import annotations

import math
import threading
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING

from al_labeling.look_alikes import Predictions, predictions_of
from al_labeling.pictures import Pictures
from al_labeling.work_queue import WorkQueue
from al_resources.labeling.staging import MANIFEST, is_staged, round_folder, staged_images

if TYPE_CHECKING:
    from al_resources.platform import Platform
    from al_resources.settings.labeling_page import LabelingPageSettings

MANIFEST_SECONDS = 5.0  # how long a round that was selected anew may stay unseen
LOOKED_AT = 5  # rounds that are searched for open pictures, the newest first


@dataclass
class Round:
    """One staged round."""

    queue: WorkQueue
    pictures: Pictures
    platform: Platform

    @cached_property
    def predictions(self) -> Predictions:
        """Read when somebody asks for a grid, a prediction or a second opinion."""
        return predictions_of(self.platform.predictions, list(self.queue.images))

    def labeled_elsewhere(self) -> Mapping[str, set[str]]:
        """Image id -> who labeled it with another tool."""
        from al_core.answers import standing

        found: dict[str, set[str]] = defaultdict(set)
        labels = standing(self.platform.ledgers.read("labels"))
        for image_id, annotator in labels.select("image_id", "annotator").iter_rows():
            if image_id in self.queue.images:
                found[image_id].add(annotator)
        return found


class Rounds:
    """Opened when they are asked for, and kept."""

    def __init__(self, platform: Platform, settings: LabelingPageSettings, secret: bytes) -> None:
        self._platform = platform
        self._settings = settings
        self._secret = secret
        self._open: dict[int, Round] = {}
        self._read_of: dict[int, str] = {}  # the manifest that a round was read of
        self._looked: dict[int, tuple[float, str]] = {}
        self._staged = 0  # rounds that are known to be staged: all below this number
        self._lock = threading.Lock()

    def numbers(self) -> list[int]:
        """The staged rounds, oldest first."""
        with self._lock:
            while is_staged(self._platform.blobs, self._staged):
                self._staged += 1
            return list(range(self._staged))

    def get(self, number: int) -> Round | None:
        """A staged round; None where there is none of that number."""
        if number not in self.numbers():
            return None
        with self._lock:
            manifest = self._manifest(number)
            if number not in self._open or self._read_of[number] != manifest:
                self._open[number], self._read_of[number] = self._load(number), manifest
            return self._open[number]

    def _manifest(self, number: int) -> str:
        """Which manifest of a round is in force: a round may be selected anew while people label it."""
        looked, manifest = self._looked.get(number, (-math.inf, ""))
        if time.monotonic() - looked > MANIFEST_SECONDS:
            manifest = self._platform.blobs.info(f"{round_folder(number)}/{MANIFEST}").etag
            self._looked[number] = (time.monotonic(), manifest)
        return manifest

    def newest_open_to(self, annotator: str, tab: str) -> int | None:
        """The newest round that has a picture for this person, else the newest; None before the first."""
        numbers = self.numbers()
        for number in numbers[: -LOOKED_AT - 1 : -1]:
            found = self.get(number)
            if found is not None and found.queue.open_to(annotator, tab):
                return number
        return numbers[-1] if numbers else None

    def _load(self, number: int) -> Round:
        settings, blobs = self._settings, self._platform.blobs
        images = staged_images(blobs, number)
        queue = WorkQueue(
            blobs,
            number,
            images,
            lease=timedelta(seconds=settings.lease_seconds),
            overlap=settings.overlap,
            overlap_when=settings.overlap_when,
            predicted=lambda: round_.predictions.labels,
            labeled_elsewhere=lambda: round_.labeled_elsewhere(),  # noqa: PLW0108  (the round comes after its queue)
        )
        round_ = Round(queue, Pictures(blobs, round_folder(number), images, self._secret), self._platform)
        return round_
