"""Images: reading them safely, naming them by content, telling near-duplicates, showing many at once."""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from typing import Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

from al_core.errors import ActiveLearningError

# ending by content, see `image_suffix` -> Pillow's decoder: only these are let near a stranger's bytes, for one of its
# others calls an external program (EPS)
_FORMATS = {
    ".jpg": "JPEG", ".png": "PNG", ".webp": "WEBP", ".gif": "GIF", ".bmp": "BMP", ".tif": "TIFF", ".heic": "HEIF",
    ".avif": "AVIF",
}  # fmt: skip
STORED_SUFFIXES = tuple(_FORMATS)
IMAGE_SUFFIXES = frozenset({*STORED_SUFFIXES, ".jpeg", ".jpe", ".jfif", ".dib", ".tiff", ".heif", ".hif", ".apng"})
MAX_PIXELS = 50_000_000
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")
_AVIF_BRANDS = (b"avif", b"avis")
# what sets a picture upright, by the value of EXIF's orientation
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION, _BITS_PER_SAMPLE = 0x0112, 258
_TEXT_OF_PNG = (b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf")
_TWELVE_BITS = 4095
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
)
# Pillow's own limit is off: `decode_image` asks for the size before any pixel is decoded, at the door of the settings
Image.MAX_IMAGE_PIXELS = None


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
        (b"II+\0", ".tif"),  # BigTIFF
        (b"MM\0+", ".tif"),
    ):
        if data.startswith(magic):
            return suffix
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return ".webp"
    if data[4:8] == b"ftyp":
        brands = {data[8:12], *(data[place : place + 4] for place in range(16, min(len(data), 64), 4))}
        if brands & {*_AVIF_BRANDS}:
            return ".avif"
        if brands & {*_HEIF_BRANDS}:
            return ".heic"
    raise BadImage(name, _not_an_image(data))


def decode_image(
    data: bytes, *, name: str = "image", channels: Literal[1, 3] = 3, max_pixels: int | None = MAX_PIXELS
) -> Image.Image:
    """The picture as people see it: upright, 8 bits, mode "RGB" (3 channels) or "L" (1 channel).

    EXIF orientation is applied, 16-bit grey is scaled to 8 bits (as 12 bits where no value needs more), CMYK and
    palettes become RGB, transparency lies on white, and of an animation the first frame counts.

    `max_pixels`: None for no limit, see `decode_stored_image`.

    Raises:
        BadImage: empty, truncated or no image at all; larger than `max_pixels` (`TooManyPixels`); or of a pixel
            format that has no defined brightness (32-bit grey). The size is checked before any pixel is decoded.
    """
    suffix = image_suffix(data, name=name)
    if suffix == ".heic":
        _know_heif()
    try:
        try:
            return _decode(data, suffix, name, channels, max_pixels)
        except _DECODING_ERRORS:
            if suffix != ".png" or (bare := _without_text(data)) == data:
                raise
            return _decode(bare, suffix, name, channels, max_pixels)  # odd text beside the pixels spoils no picture
    except BadImage:
        raise
    except _DECODING_ERRORS as error:
        raise BadImage(
            name, f"broken {suffix[1:]} file of {len(data):,} bytes ({_said(error)}); send the complete file again"
        ) from error


def _said(error: Exception) -> str:
    """What a decoder says of a file; where it knows no such file it would name our buffer's place in memory."""
    return "its decoder cannot read it" if isinstance(error, UnidentifiedImageError) else str(error)


def decode_stored_image(data: bytes, *, name: str = "image", channels: Literal[1, 3] = 3) -> Image.Image:
    """A picture of the image store: it passed the limit on pixels at the door, and no second one may differ.

    Raises:
        BadImage: as `decode_image`.
    """
    return decode_image(data, name=name, channels=channels, max_pixels=None)


def _decode(data: bytes, suffix: str, name: str, channels: Literal[1, 3], max_pixels: int | None) -> Image.Image:
    with Image.open(io.BytesIO(data), formats=[_FORMATS[suffix]]) as image:
        width, height = image.size
        if max_pixels is not None and width * height > max_pixels:
            raise TooManyPixels(name, width, height, max_pixels)
        image.load()
        if _has_deep_colours(image, data, suffix):
            _refuse_black(image, name)
        upright = _UPRIGHT.get(_orientation(image))
        return _to_channels(image if upright is None else image.transpose(upright), channels, name)


def _has_deep_colours(image: Image.Image, data: bytes, suffix: str) -> bool:
    """Whether the file has 16 bits a colour, of which Pillow takes the upper 8."""
    if suffix == ".png":
        return data[24:25] == b"\x10" and image.mode in ("RGB", "RGBA", "LA")
    bits = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, ())
    return suffix == ".tif" and len(bits) > 1 and set(bits) == {16}


def _refuse_black(image: Image.Image, name: str) -> None:
    """Raises `BadImage`: no value needs more than 12 of its 16 bits, so what is left of it would all but be black."""
    colours = image.getextrema()[: 1 if image.mode == "LA" else 3]
    brightest = max(high for _, high in colours)  # type: ignore[misc]
    if 0 < brightest <= _TWELVE_BITS >> 8:
        raise BadImage(
            name,
            f"16 bits a colour of which no value needs more than {8 + brightest.bit_length()}: it would be black here. "
            "Scale it, or convert it to 8 bits a colour",
        )


def _orientation(image: Image.Image) -> int:
    """Of EXIF; what cannot be read of it turns nothing. Never written again: not every camera's EXIF can be."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except _DECODING_ERRORS:
        return 1


def _without_text(png: bytes) -> bytes:
    """A PNG file without what stands beside its pixels."""
    parts, place = [png[:8]], 8
    while place + 8 <= len(png):
        length, kind = struct.unpack_from(">I4s", png, place)
        if kind not in _TEXT_OF_PNG:
            parts.append(png[place : place + length + 12])
        place += length + 12
    return b"".join(parts)


def _know_heif() -> None:
    """Let Pillow read what telephones take; the decoder is loaded when the first such picture comes."""
    import pillow_heif

    pillow_heif.register_heif_opener()


def _to_channels(image: Image.Image, channels: Literal[1, 3], name: str) -> Image.Image:
    if image.mode.startswith("I;16"):
        image = Image.fromarray(_eight_bits(np.asarray(image, np.uint32)))
    elif image.mode in ("I", "F"):
        raise BadImage(name, "32-bit grey values have no defined white; convert the image to 8 or 16 bits per channel")
    if image.has_transparency_data:
        colours = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", colours.size, "white"), colours)
    elif image.mode not in ("L", "RGB"):
        image = image.convert("RGB")
    return image.convert("L" if channels == 1 else "RGB")


def _eight_bits(values: np.ndarray) -> np.ndarray:
    """16-bit grey as 8 bits. Cameras, scanners and microscopes put 10 or 12 bits into 16: as 16 bits these would all be
    black, and the dark ones among the pictures of one camera must not be scaled in another way than the bright ones.
    """
    if values.max() <= _TWELVE_BITS:
        return ((values * 255 + _TWELVE_BITS // 2) // _TWELVE_BITS).astype(np.uint8)
    return ((values + 128) // 257).astype(np.uint8)


def too_many_pixels(width: int, height: int, max_pixels: int) -> str:
    """Why an image is refused before it is decoded."""
    return (
        f"{width} x {height} = {width * height:,} pixels, at most {max_pixels:,} are accepted; scale it "
        "down, or raise serving.max_image_pixels"
    )


def _not_an_image(data: bytes) -> str:
    """The bytes themselves are not told: a client may name a file that it cannot read."""
    if not data:
        return "the file is empty (0 bytes); send it again"
    formats = ", ".join(sorted(suffix[1:] for suffix in IMAGE_SUFFIXES))
    return f"no image: the {len(data):,} bytes begin like none of {formats}; send one of these"
