"""Embeddings by (encoder, image), kept from one round to the next in half precision."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from al_core.records import half_precision
from al_resources.durable import beside

ENCODERS = 2  # kept: the champion's and the one a rollback would bring back


class EmbeddingCache:
    """One file per encoder, replaced as a whole. What cannot be read is computed again; nothing depends on it."""

    def __init__(self, folder: Path, encoder: str, dimension: int) -> None:
        self._folder = folder
        self._file = folder / f"{encoder}.npz"
        self._dimension = dimension

    def read(self, image_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which of the images (N,) are known, and embeddings (N, d) float32, zero where they are not."""
        ids, rows = self._load()
        place = np.searchsorted(ids, image_ids)
        known = np.zeros(len(image_ids), bool)
        inside = place < len(ids)
        known[inside] = ids[place[inside]] == image_ids[inside]
        found = np.zeros((len(image_ids), self._dimension), np.float32)
        found[known] = rows[place[known]]
        return known, found

    def add(self, image_ids: np.ndarray, embeddings: np.ndarray) -> None:
        """Remember these embeddings (N, d); those known already stay."""
        if not len(image_ids):
            return
        ids, rows = self._load()
        halves = half_precision(embeddings).astype(np.float16)
        both, first = np.unique(np.concatenate([ids, image_ids]), return_index=True)
        self._save(both, np.concatenate([rows, halves])[first])

    def _load(self) -> tuple[np.ndarray, np.ndarray]:
        try:
            with self._file.open("rb") as opened, np.load(opened, allow_pickle=False) as stored:
                ids, rows = stored["image_ids"], stored["embeddings"]
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
            ids, rows = np.empty(0, "<U32"), np.empty((0, self._dimension), np.float16)
        if rows.shape != (len(ids), self._dimension):
            return ids[:0], np.empty((0, self._dimension), np.float16)
        return ids, rows

    def _save(self, image_ids: np.ndarray, embeddings: np.ndarray) -> None:
        # renamed into place: another process reads the old file or the new one, never half of it
        with beside(self._file) as part:
            with part.open("wb") as file:
                np.savez(file, image_ids=image_ids, embeddings=embeddings)
            part.replace(self._file)
        newest_first = sorted(self._folder.glob("*.npz"), key=lambda file: file.stat().st_mtime, reverse=True)
        for old in newest_first[ENCODERS:]:
            old.unlink(missing_ok=True)
