"""The pictures of a round, by names that tell nothing, in formats that every browser shows."""

from __future__ import annotations

import hashlib
import hmac
import io
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

    from al_resources.blobs import BlobStore
    from al_resources.labeling import StagedImage

SHOWN_AS_THEY_ARE = {".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".png": "image/png", ".webp": "image/webp"}
LARGEST = 1_500_000  # bytes; a larger file is scaled down before it travels
SIDE = 1_600  # pixels, of what is scaled down
THUMBNAIL = 192


class Pictures:
    """Looked up in the manifest by an id that is signed: no path comes from a request."""

    def __init__(self, blobs: BlobStore, folder: str, images: Iterable[StagedImage], secret: bytes) -> None:
        self._blobs = blobs
        self._folder = folder
        self._secret = secret
        self._images = {self.opaque(image.image_id): image for image in images}

    def opaque(self, image_id: str) -> str:
        """The name of a picture on the page; the same on every page with the same secret."""
        return hmac.new(self._secret, f"{self._folder}/{image_id}".encode(), hashlib.sha256).hexdigest()[:32]

    def image_of(self, opaque: str) -> StagedImage | None:
        """What the manifest says of it; None for a name that is none of this round's."""
        return self._images.get(opaque)

    def show(self, image: StagedImage, *, small: bool = False) -> tuple[bytes, str]:
        """The picture and its media type; as it is where a browser can show that, else as WebP.

        Raises:
            BadImage: it cannot be decoded.
            FileNotFoundError: it is gone from the staged round.
        """
        from al_core.images import decode_stored_image

        data = self._blobs.read(f"{self._folder}/{image.file_name}")
        picture = decode_stored_image(
            data, name=image.image_id
        )  # browsers show half a file without a word; training does not
        kind = SHOWN_AS_THEY_ARE.get(PurePosixPath(image.file_name).suffix.lower())
        if kind is not None and not small and len(data) <= LARGEST:
            return data, kind
        return _scaled(picture, THUMBNAIL if small else SIDE), "image/webp"


def _scaled(picture: Image, side: int) -> bytes:
    picture.thumbnail((side, side))
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=90, lossless=max(picture.size) <= 64)
    return buffer.getvalue()
