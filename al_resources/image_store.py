"""The raw images, by content: the same picture is stored once, under the hash of its bytes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from al_core.images import content_id, image_suffix

if TYPE_CHECKING:
    import numpy as np

    from al_resources.blob_store import BlobStore

FOLDER = "images"
SHARDS = 256  # by the first two hex digits of the content id


@dataclass(frozen=True)
class StoredImage:
    """An image in the store; `uri` is its path there. `new`: it was not there before."""

    image_id: str
    uri: str
    new: bool


class ImageStore:
    """Images below `images/<id[:2]>/<id>.<ext>` of a blob store."""

    def __init__(self, blobs: BlobStore) -> None:
        self.blobs = blobs

    def put(self, data: bytes) -> StoredImage:
        """Store an image file under its content id. Raises `BadImage` for bytes that begin like no image."""
        suffix = image_suffix(data)
        image_id = content_id(data)
        uri = f"{_shard(image_id)}/{image_id}{suffix}"
        return StoredImage(image_id, uri, self.blobs.write(uri, data, if_absent=True))

    def read(self, uri: str) -> bytes:
        """The file's bytes. Raises `FileNotFoundError`."""
        return self.blobs.read(uri)

    def uri_of(self, image_id: str) -> str:
        """Where an image lies. Raises `FileNotFoundError`."""
        for blob in self.blobs.list(_shard(image_id)):
            if PurePosixPath(blob.path).stem == image_id:
                return blob.path
        raise FileNotFoundError(f"image {image_id} is not in the store")

    def exists(self, image_id: str) -> bool:
        """Whether an image of that id is there; an id that is none is not."""
        if len(image_id) != 32 or set(image_id) - set("0123456789abcdef"):
            return False
        try:
            self.uri_of(image_id)
        except FileNotFoundError:
            return False
        return True

    def items(self, start: str = "") -> Iterator[tuple[str, str]]:
        """All images as (id, uri), shard by shard in the order of their ids: from `start` on, then from the beginning.

        Ids are hashes, so the first n from a random `start` are a uniform sample.
        """
        first = int(start[:2].ljust(2, "0"), 16) if start else 0
        before: list[tuple[str, str]] = []
        for number in range(first, first + SHARDS):
            for blob in self.blobs.list(f"{FOLDER}/{number % SHARDS:02x}"):
                item = (PurePosixPath(blob.path).stem, blob.path)
                if number == first and item[0] < start:
                    before.append(item)
                else:
                    yield item
        yield from before

    def sample(self, count: int, generator: np.random.Generator) -> list[tuple[str, str]]:
        """Up to `count` images as (id, uri), uniformly at random, without listing the whole store."""
        start = generator.bytes(16).hex()
        found = self.items(start)
        return [item for _, item in zip(range(count), found, strict=False)]

    def count(self) -> int:
        """How many images there are."""
        return sum(1 for _ in self.blobs.list(FOLDER))

    def is_empty(self) -> bool:
        """Whether there are none."""
        return next(iter(self.blobs.list(FOLDER)), None) is None


def _shard(image_id: str) -> str:
    return f"{FOLDER}/{image_id[:2]}"
