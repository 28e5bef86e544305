"""Images: reading them safely, naming them by content, telling near-duplicates, showing many at once."""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from typing import Literal

import numpy as np
from PIL import Image, ImageOps

from al_core.errors import ActiveLearningError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})
MAX_PIXELS = 50_000_000
# only these decoders are let near a stranger's bytes: one of Pillow's others calls an external program (EPS)
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
# what Pillow's decoders raise on broken files; there is no common base
_DECODING_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    EOFError,
    MemoryError,
    NotImplementedError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


class BadImage(ActiveLearningError, ValueError):
    """A file that cannot be used as an image; the message names it and the way out."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name = name
        self.reason = reason


class TooManyPixels(BadImage):
    """More than may be decoded."""

    def __init__(self, name: str, width: int, height: int, most: int) -> None:
        super().__init__(name, too_many_pixels(width, height, most))
        self.width, self.height = width, height

    @property
    def pixels(self) -> int:
        """How many."""
        return self.width * self.height


def content_id(data: bytes) -> str:
    """The image's name everywhere: BLAKE2b of the file's bytes, 128 bits as 32 hex digits (RFC 7693)."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def image_suffix(data: bytes, *, name: str = "image") -> str:
    """The file extension that the first bytes call for, whatever the file is called: ".jpg", ".png", ...

    Raises:
        BadImage: they are the beginning of no image format that is read here.
    """
    for magic, suffix in (
        (b"\xff\xd8\xff", ".jpg"),
        (b"\x89PNG\r\n\x1a\n", ".png"),
        (b"GIF8", ".gif"),
        (b"BM", ".bmp"),
        (b"II*\0", ".tif"),
        (b"MM\0*", ".tif"),
    ):
        if data.startswith(magic):
            return suffix
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return ".webp"
    raise BadImage(name, _not_an_image(data))


def decode_image(
    data: bytes, *, name: str = "image", channels: Literal[1, 3] = 3, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """The picture as people see it: upright, 8 bits, mode "RGB" (3 channels) or "L" (1 channel).

    EXIF orientation is applied, 16-bit grey is scaled to 8 bits, CMYK and palettes become RGB, transparency
    lies on white, and of an animation the first frame counts.

    Raises:
        BadImage: empty, truncated or no image at all; larger than `max_pixels` (`TooManyPixels`); or of a pixel
            format that has no defined brightness (32-bit grey). The size is checked before any pixel is decoded.
    """
    suffix = image_suffix(data, name=name)
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise TooManyPixels(name, width, height, max_pixels)
            image.load()
            return _to_channels(ImageOps.exif_transpose(image), channels, name)
    except BadImage:
        raise
    except Image.DecompressionBombError as error:
        raise BadImage(name, f"{error}; scale the image down to {max_pixels:,} pixels") from error
    except _DECODING_ERRORS as error:
        raise BadImage(
            name, f"broken {suffix[1:]} file of {len(data):,} bytes ({error}); send the complete file again"
        ) from error


def _to_channels(image: Image.Image, channels: Literal[1, 3], name: str) -> Image.Image:
    if image.mode.startswith("I;16"):
        image = Image.fromarray(((np.asarray(image, np.uint32) + 128) // 257).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise BadImage(name, "32-bit grey values have no defined white; convert the image to 8 or 16 bits per channel")
    if image.has_transparency_data:
        colours = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", colours.size, "white"), colours)
    elif image.mode not in ("L", "RGB"):
        image = image.convert("RGB")
    return image.convert("L" if channels == 1 else "RGB")


def too_many_pixels(width: int, height: int, max_pixels: int) -> str:
    """Why an image is refused before it is decoded."""
    return (
        f"{width} x {height} = {width * height:,} pixels, at most {max_pixels:,} are accepted; scale it "
        "down, or raise the limit on image pixels in the settings"
    )


def _not_an_image(data: bytes) -> str:
    """The bytes themselves are not told: a client may name a file that it cannot read."""
    if not data:
        return "the file is empty (0 bytes); send it again"
    formats = ", ".join(sorted(suffix[1:] for suffix in IMAGE_SUFFIXES))
    return f"no image: the {len(data):,} bytes begin like none of {formats}; send one of these"
