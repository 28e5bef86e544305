"""Which images of the store an encoder has seen by now, so that a run asks the table about those that are new alone.

It is written down beside how many rows the encoder had in the table, and until when. Rows only ever come in later;
where the table holds another number of rows of that time, some got lost or were erased, nothing of it is believed, and
every image is asked about. So no write that was lost, here or in the table, can make an image pass for embedded.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np

from al_core.records import image_keys

if TYPE_CHECKING:
    from al_resources.blobs import BlobStore
    from al_resources.embedding_store import EmbeddingStore

FOLDER = "embeddings/known"  # in the blob store: a file for the encoder that was filled for last
PAGE = 4_096  # images compared at once
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class EmbeddedBefore:
    """The images of one encoder, by their keys: eight bytes an image."""

    def __init__(self, blobs: BlobStore, embeddings: EmbeddingStore, encoder: str) -> None:
        """Reads what is written down, and whether the table still agrees."""
        self._blobs, self._embeddings, self._encoder = blobs, embeddings, encoder
        self._path = f"{FOLDER}/{encoder}.npz"
        self._found = list[np.ndarray]()
        self._noted, rows, newest = _read(blobs, self._path)
        agrees = newest is not None and embeddings.extent(encoder, newest).rows == rows
        self._keys = self._noted if agrees else np.empty(0, np.int64)
        self._lost: list[str] = []

    @property
    def lost(self) -> list[str]:
        """Images, among those `missing` was told of, that had an embedding when it was written down."""
        return self._lost

    def new_among(self, items: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
        """Those (image id, path) that are not known to be embedded."""
        for page in _pages(items):
            seen = _among(self._keys, image_keys([image_id for image_id, _ in page]))
            yield from (item for item, is_seen in zip(page, seen, strict=True) if not is_seen)

    def add(self, image_ids: list[str]) -> None:
        """Images that the table was found to have, or that were added to it."""
        self._found.append(image_keys(image_ids))

    def missing(self, image_ids: list[str]) -> None:
        """Images that the table was found not to have."""
        was_there = _among(self._noted, image_keys(image_ids))
        self._lost += [image_id for image_id, was in zip(image_ids, was_there, strict=True) if was]

    def write_down(self) -> None:
        """For the next run; another process that does so as well writes what is as true."""
        keys = np.unique(np.concatenate([self._keys, *self._found]))
        if np.array_equal(keys, self._noted) and len(self._keys) == len(keys):
            return
        extent = self._embeddings.extent(self._encoder)
        if extent.newest is None:
            return
        data = io.BytesIO()
        newest = (extent.newest - _EPOCH) // _MICROSECOND
        np.savez(data, keys=keys, rows=np.int64(extent.rows), newest=np.int64(newest))
        self._blobs.write(self._path, data.getvalue())
        for other in [blob.path for blob in self._blobs.list(FOLDER) if blob.path != self._path]:
            self._blobs.delete(other)


def _read(blobs: BlobStore, path: str) -> tuple[np.ndarray, int, datetime | None]:
    """Keys, how many rows the table had, and until when; nothing where it is not there or cannot be read."""
    try:
        with np.load(io.BytesIO(blobs.read(path)), allow_pickle=False) as noted:
            newest = _EPOCH + int(noted["newest"]) * _MICROSECOND
            return noted["keys"].astype(np.int64), int(noted["rows"]), newest
    except (FileNotFoundError, KeyError, ValueError, EOFError, zipfile.BadZipFile):
        return np.empty(0, np.int64), 0, None


def _among(known: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Which of the keys are among some sorted ones, (N,) bool."""
    if not len(known):
        return np.zeros(len(keys), bool)
    place = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    return np.asarray(known[place] == keys)


def _pages(items: Iterable[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    from itertools import islice

    stream = iter(items)
    while page := list(islice(stream, PAGE)):
        yield page
