"""Distances to the labeled images, kept from one round to the next while the encoder stays the same."""

from __future__ import annotations

import tempfile
import zipfile
from pathlib import Path

import numpy as np

from al_core.strategies._arrays import Array, float32, like, to_numpy
from al_core.strategies._spread import Embedded
from al_core.strategies.base import Pool


class DistanceCache:
    """Squared distance of every image met so far to the nearest labeled one.

    A round then costs the new images against all labels and the old images against the new labels, instead
    of all against all. `encoder` says what computed the embeddings (model and version, or the hash of a
    frozen encoder); a file written for another one is started afresh.
    """

    def __init__(self, encoder: str, file: Path | None = None) -> None:
        self.encoder = encoder
        self.file = file
        self._image_ids = np.empty(0, "<U32")
        self._nearest = np.empty(0, np.float32)
        self._labeled_ids = np.empty(0, "<U32")
        if file is not None and file.exists():
            self._load(file)

    def to_nearest(self, pool: Pool, features: Embedded) -> Array:
        """Squared distances of the pool's images to the nearest labeled one, shape (N,).

        Raises:
            ValueError: the pool does not say which images are labeled.
        """
        if pool.labeled_ids is None:
            raise ValueError("a distance cache needs the ids of the labeled images, which this pool does not hold")
        if not np.isin(self._labeled_ids, pool.labeled_ids).all():
            self._forget()  # a label was withdrawn: what was near to it is farther now
        place = np.searchsorted(self._image_ids, pool.image_ids).clip(0, max(0, len(self._image_ids) - 1))
        known = np.zeros(len(pool), bool)
        if len(self._image_ids):
            known = self._image_ids[place] == pool.image_ids
        fresh = ~np.isin(pool.labeled_ids, self._labeled_ids)
        labeled = float32(pool.labeled_embeddings)

        nearest = np.empty(len(pool), np.float32)
        for rows, labels in ((known, fresh), (~known, np.ones(len(fresh), bool))):
            part = Embedded(features.rows[like(features.rows, np.flatnonzero(rows), "int64")])
            nearest[rows] = to_numpy(part.to_nearest(labeled[like(labeled, np.flatnonzero(labels), "int64")]))
        nearest[known] = np.minimum(nearest[known], self._nearest[place[known]])

        self._image_ids, self._nearest, self._labeled_ids = pool.image_ids, nearest, pool.labeled_ids
        self._save()
        return like(features.rows, nearest.copy())

    def _forget(self) -> None:
        self._image_ids, self._nearest = self._image_ids[:0], self._nearest[:0]
        self._labeled_ids = self._labeled_ids[:0]

    def _save(self) -> None:
        if self.file is None:
            return
        self.file.parent.mkdir(parents=True, exist_ok=True)
        # renamed into place: another process reads the old file or the new one, never half of it
        with tempfile.TemporaryDirectory(dir=self.file.parent) as folder:  # goes, too, where the disk is full
            part = Path(folder) / self.file.name
            np.savez(
                part,
                encoder=np.array(self.encoder),
                image_ids=self._image_ids,
                nearest=self._nearest,
                labeled_ids=self._labeled_ids,
            )
            part.replace(self.file)

    def _load(self, file: Path) -> None:
        try:
            with file.open("rb") as opened, np.load(opened, allow_pickle=False) as stored:
                if str(stored["encoder"]) != self.encoder:
                    return
                self._image_ids, self._nearest = stored["image_ids"], stored["nearest"]
                self._labeled_ids = stored["labeled_ids"]
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
            self._forget()  # a cache that cannot be read is computed again
