"""The image store: raw images once, by content."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from al_core.images import BadImage, content_id
from al_core.records import image_keys
from al_resources.blobs import BlobStore
from al_resources.image_store import ImageStore


def picture(number: int, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 4), number, np.uint8)).save(buffer, kind)
    return buffer.getvalue()


def test_an_image_is_stored_once_under_its_content_id(blobs: BlobStore) -> None:
    images = ImageStore(blobs)
    first, second = images.put(picture(1)), images.put(picture(1))
    assert (first.new, second.new) == (True, False)
    assert first.image_id == second.image_id == content_id(picture(1))
    assert first.uri == second.uri == blobs.url(images.path_of(first.image_id))
    assert images.path_of(first.image_id) == f"images/{first.image_id[:2]}/{first.image_id}.png"
    assert images.count() == 1


def test_the_suffix_is_that_of_the_content(blobs: BlobStore) -> None:
    images = ImageStore(blobs)
    assert images.put(picture(1, "JPEG")).uri.endswith(".jpg")
    with pytest.raises(BadImage):
        images.put(b"no image")


def test_an_image_is_read_by_its_address_even_after_the_store_has_moved(blobs: BlobStore) -> None:
    images = ImageStore(blobs)
    stored = images.put(picture(2))
    elsewhere = f"abfs://other@account/images/{stored.image_id[:2]}/{stored.image_id}.png"
    assert images.read(stored.uri) == images.read(elsewhere) == picture(2)


@pytest.mark.parametrize("uri", ["file:///etc/passwd", "images/../secret", "images/ab/cd.png", "http://host/x.png", ""])
def test_an_address_outside_the_store_is_never_read(blobs: BlobStore, uri: str) -> None:
    with pytest.raises(FileNotFoundError, match="no address"):
        ImageStore(blobs).read(uri)


@pytest.mark.parametrize("image_id", ["0" * 32, "../../x", "", "A" * 32])
def test_an_unknown_image_does_not_exist(blobs: BlobStore, image_id: str) -> None:
    assert not ImageStore(blobs).exists(image_id)
    with pytest.raises(FileNotFoundError, match="not in the image store"):
        ImageStore(blobs).path_of(image_id)


def test_images_come_in_the_order_of_ids_from_any_key_on_and_each_once(blobs: BlobStore) -> None:
    images = ImageStore(blobs)
    assert images.is_empty()
    ids = sorted(images.put(picture(number)).image_id for number in range(20))
    blobs.write("images/00/thumbs.db", b"")
    assert list(images.ids()) == ids
    assert images.count() == 20
    keys = [int(key) for key in image_keys(ids)]
    for start in (keys[9], keys[-1], keys[3] + 1, (1 << 60) - 1):
        around = sorted(ids, key=lambda i: (image_keys([i])[0] < start, i))
        assert list(images.ids(start)) == around


def test_a_sample_holds_distinct_images_and_no_more_than_there_are(blobs: BlobStore) -> None:
    images = ImageStore(blobs)
    for number in range(6):
        images.put(picture(number))
    sample = images.sample(4, np.random.default_rng(0))
    assert len({image_id for image_id, _ in sample}) == 4
    assert all(images.read(uri) for _, uri in sample)
    assert len(images.sample(99, np.random.default_rng(0))) == 6
