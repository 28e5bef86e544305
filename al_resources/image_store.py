"""The image store: raw production images in the blob store, each once, named by its content."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from al_resources.blobs import BlobStore

IMAGES = "images"
SHARDS = 256  # folders, by the first two digits of the id
_ADDRESS = re.compile(r"(?:^|/)(images/([0-9a-f]{2})/(\2[0-9a-f]{30})\.[a-z]{3,4})$")


@dataclass(frozen=True)
class StoredImage:
    """Where an image lies; `new` says whether it was stored just now."""

    image_id: str
    uri: str
    new: bool


def image_path(uri: str) -> str:
    """Where in a blob store the image behind an `image_uri` lies, wherever the store lay when that was written.

    Raises:
        FileNotFoundError: the address is none of an image store's.
    """
    match = _ADDRESS.search(uri)
    if match is None:
        raise FileNotFoundError(f"{uri!r} is no address in the image store (.../images/ab/ab....png)")
    return match[1]


class ImageStore:
    """Images as `images/<id[:2]>/<id>.<suffix>`; the same bytes under two names are one image."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs

    def put(self, data: bytes) -> StoredImage:
        """Store an image file as it is, if it is not there yet. Raises `BadImage` for what is none."""
        from al_core.images import content_id, image_suffix

        image_id = content_id(data)
        # the suffix follows from the content as well, so one id never has two paths
        path = f"{IMAGES}/{image_id[:2]}/{image_id}{image_suffix(data)}"
        return StoredImage(image_id, self._blobs.url(path), self._blobs.write(path, data, if_absent=True))

    def read(self, uri: str) -> bytes:
        """The file behind an `image_uri` of this store, wherever the store lay when that was written.

        Raises:
            FileNotFoundError: the image is gone, or the address is none of this store's.
        """
        return self._blobs.read(image_path(uri))

    def path_of(self, image_id: str) -> str:
        """Where in the blob store an image lies. Raises `FileNotFoundError`."""
        from al_core.images import STORED_SUFFIXES

        if re.fullmatch("[0-9a-f]{32}", image_id):
            for suffix in STORED_SUFFIXES:
                path = f"{IMAGES}/{image_id[:2]}/{image_id}{suffix}"
                if self._blobs.exists(path):
                    return path
        raise FileNotFoundError(f"image {image_id!r} is not in the image store")

    def exists(self, image_id: str) -> bool:
        """Whether the image is there."""
        try:
            self.path_of(image_id)
        except FileNotFoundError:
            return False
        return True

    def erase(self, image_id: str) -> bool:
        """Delete an image for good, for `al forget` alone; whether it was there."""
        try:
            self._blobs.delete(self.path_of(image_id))
        except FileNotFoundError:
            return False
        return True

    def places(self, start_key: int = 0) -> Iterator[tuple[str, str]]:
        """(image id, path in the blob store) of every image, in the order of ids, beginning at a key and going round.

        Ids are hashes, so the first n from a random key on are a random sample, and only the folders that
        hold these are listed. From key 0 on they are all of one listing. `start_key` is of 60 bits, as
        `al_core.records.image_keys` makes them.
        """
        if start_key == 0:
            return self._below(IMAGES)
        first = f"{start_key:015x}"
        shard = int(first[:2], 16)
        folders = [f"{IMAGES}/{number % SHARDS:02x}" for number in range(shard, shard + SHARDS)]
        return chain(
            (place for place in self._below(folders[0]) if place[0] >= first),
            chain.from_iterable(map(self._below, folders[1:])),
            (place for place in self._below(folders[0]) if place[0] < first),
        )

    def uri_of(self, path: str) -> str:
        """The address of an image by its path, which costs a look at the file system."""
        return self._blobs.url(path)

    def items(self, start_key: int = 0) -> Iterator[tuple[str, str]]:
        """(image id, uri) of `places`."""
        return ((image_id, self.uri_of(path)) for image_id, path in self.places(start_key))

    def ids(self, start_key: int = 0) -> Iterator[str]:
        """The ids of `places`."""
        return (image_id for image_id, _ in self.places(start_key))

    def sample(self, count: int, generator: np.random.Generator) -> list[tuple[str, str]]:
        """(image id, uri) of up to `count` images: a stretch of the ring of ids, from a random place on."""
        images = self.items(int(generator.integers(0, 1 << 60)))
        return [item for item, _ in zip(images, range(count), strict=False)]

    def count(self) -> int:
        """How many images there are; lists them all."""
        return sum(1 for blob in self._blobs.list(IMAGES) if _ADDRESS.search(blob.path))

    def is_empty(self) -> bool:
        """Whether there is no image at all."""
        return not any(_ADDRESS.search(blob.path) for blob in self._blobs.list(IMAGES))

    def _below(self, folder: str) -> Iterator[tuple[str, str]]:
        for blob in self._blobs.list(folder):
            if match := _ADDRESS.search(blob.path):  # a stray file is no image
                yield match[3], blob.path
