"""Images: reading them safely, naming them by content, telling near-duplicates, showing many at once."""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})
MAX_PIXELS = 50_000_000
HASH_BITS = 128
_MIXER = np.uint64(0x9E3779B97F4A7C15)  # any odd number with bits everywhere

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


class BadImage(ValueError):
    """A file that cannot be used as an image; the message names it and the way out."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name = name
        self.reason = reason


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
        BadImage: empty, truncated or no image at all; larger than `max_pixels`; or of a pixel format that has
            no defined brightness (32-bit grey). The size is checked before any pixel is decoded.
    """
    suffix = image_suffix(data, name=name)
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise BadImage(name, _too_large(width, height, max_pixels))
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


def near_duplicate_hash(image: Image.Image) -> str:
    """What the picture looks like in 128 bits, as 32 hex digits: close pictures differ in few bits.

    Difference hash: is each of 8 x 8 pixels darker than its right neighbour, and than the one below? It
    survives scaling, recompression and brightness; pictures without any gradient all hash to zero.
    Source: N. Krawetz (2013), "Kind of Like That", hackerfactor.com.
    """
    grey = image if image.mode == "L" else image.convert("L")
    right = np.asarray(grey.resize((9, 8), Image.Resampling.BILINEAR))
    below = np.asarray(grey.resize((8, 9), Image.Resampling.BILINEAR))
    bits = np.concatenate([(right[:, 1:] > right[:, :-1]).ravel(), (below[1:] > below[:-1]).ravel()])
    return np.packbits(bits).tobytes().hex()


def hamming_distance(one: str, other: str) -> int:
    """In how many of their 128 bits two near-duplicate hashes differ."""
    return (_bits(one) ^ _bits(other)).bit_count()


class NearDuplicates:
    """Near-duplicate hashes met so far, searchable for one within `distance` bits of another.

    The bits are dealt out to `distance` + 1 bands: two hashes within the distance agree in at least one band
    entirely, so only images that share a band are compared (multi-index hashing, Norouzi et al. 2012). Large
    distances leave too few bits per band to tell images apart, and are searched by one vectorised scan.

    A distance below 0 finds nothing.
    """

    _MOST_BANDS = 13  # 9 bits and more per band

    def __init__(self, distance: int) -> None:
        self.distance = distance
        self._names: list[str] = []
        self._hashes: list[int] = []
        self._words = np.empty((0, 2), np.uint64)
        bands = distance + 1 if distance < self._MOST_BANDS else 0
        # every bands-th bit, not neighbouring ones: flat regions of a picture are long runs of equal bits
        self._masks = [sum(1 << bit for bit in range(band, HASH_BITS, bands)) for band in range(bands)]
        self._buckets: list[dict[int, list[int]]] = [{} for _ in self._masks]

    def __len__(self) -> int:
        return len(self._names)

    @property
    def hashes(self) -> list[str]:
        """Of all images added, in their order."""
        return [f"{value:032x}" for value in self._hashes]

    def add(self, name: str, image_hash: str) -> None:
        """Remember an image."""
        value, row = _bits(image_hash), len(self._names)
        self._names.append(name)
        self._hashes.append(value)
        for mask, bucket in zip(self._masks, self._buckets, strict=True):
            bucket.setdefault(value & mask, []).append(row)
        if self.distance >= self._MOST_BANDS:
            if row == len(self._words):
                self._words = np.resize(self._words, (max(64, 2 * row), 2))
            self._words[row] = _words(value)

    def find(self, image_hash: str) -> str | None:
        """The first added image within the distance, or None."""
        if self.distance < 0:
            return None
        value = _bits(image_hash)
        row = self._scan(value) if self.distance >= self._MOST_BANDS else self._look_up(value)
        return None if row is None else self._names[row]

    def _look_up(self, value: int) -> int | None:
        first = None
        for mask, bucket in zip(self._masks, self._buckets, strict=True):
            for row in bucket.get(value & mask, ()):
                if first is not None and row >= first:
                    break
                if (self._hashes[row] ^ value).bit_count() <= self.distance:
                    first = row
                    break
        return first

    def _scan(self, value: int) -> int | None:
        words = self._words[: len(self)]
        near = np.bitwise_count(words ^ _words(value)).sum(axis=1) <= self.distance
        return int(near.argmax()) if near.any() else None


def may_have_near_duplicates(hashes: Sequence[str], distance: int) -> np.ndarray:
    """Which of the hashes share a band with another one, shape (N,), bool; the others have no near-duplicate here.

    Bands as in `NearDuplicates`, all hashes at once: O(N log N) a band. Where the distance is too large for
    bands, every hash may have one.
    """
    bands = distance + 1
    if bands > NearDuplicates._MOST_BANDS or bands < 1:
        return np.full(len(hashes), bands > 0)
    for odd in (one for one in hashes if len(one) != HASH_BITS // 4):
        _bits(odd)  # says what is wrong with it
    bits = np.frombuffer(bytes.fromhex("".join(hashes)), np.uint64).reshape(-1, 2)
    shared = np.zeros(len(hashes), bool)
    for band in range(bands):
        mask = sum(1 << bit for bit in range(band, HASH_BITS, bands))
        low, high = (bits & _words(mask)).T
        keys = low ^ (high * _MIXER)  # two bands that mix to one key are only looked at in vain
        order = np.argsort(keys)
        same = keys[order[1:]] == keys[order[:-1]]
        shared[order[1:][same]] = True
        shared[order[:-1][same]] = True
    return shared


@dataclass(frozen=True)
class SheetItem:
    """One picture of a contact sheet and up to two short lines below it."""

    image: Image.Image
    lines: tuple[str, ...] = ()


def contact_sheet(items: Sequence[SheetItem], *, columns: int = 10, edge: int = 96, max_bytes: int = 150_000) -> bytes:
    """Thumbnails in rows, captions below, as one PNG of at most `max_bytes` where 60 or fewer are shown.

    Small images are enlarged without smoothing, so that their pixels stay what they are. Colours, then size
    are given up until the sheet fits.

    Raises:
        ValueError: there is nothing to show.
    """
    if not items:
        raise ValueError("a contact sheet needs at least one image")
    sheet = b""
    for colours, scale in ((256, 1.0), (64, 1.0), (64, 0.75), (32, 0.5), (8, 0.5)):
        drawn = _draw_sheet(items, min(columns, len(items)), round(edge * scale))
        buffer = io.BytesIO()
        drawn.quantize(colours, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
        sheet = buffer.getvalue()
        if len(sheet) <= max_bytes:
            break
    return sheet


def _draw_sheet(items: Sequence[SheetItem], columns: int, edge: int) -> Image.Image:
    gap, line = 6, 12
    caption = line * max(len(item.lines) for item in items)
    rows = -(-len(items) // columns)
    cell = (edge + gap, edge + caption + gap)
    sheet = Image.new("RGB", (columns * cell[0] + gap, rows * cell[1] + gap), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(10)
    for position, item in enumerate(items):
        left = gap + position % columns * cell[0]
        top = gap + position // columns * cell[1]
        thumbnail = _thumbnail(item.image, edge)
        sheet.paste(thumbnail, (left + (edge - thumbnail.width) // 2, top + (edge - thumbnail.height) // 2))
        for number, text in enumerate(item.lines):
            place = (left, top + edge + number * line)
            draw.text(place, _shortened(text, edge, draw, font), "black", font)
    return sheet


def _thumbnail(image: Image.Image, edge: int) -> Image.Image:
    scale = edge / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    smoothing = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    return image.convert("RGB").resize(size, smoothing, reducing_gap=2.0 if scale < 1 else None)


def _shortened(
    text: str, width: int, draw: ImageDraw.ImageDraw, font: ImageFont.ImageFont | ImageFont.FreeTypeFont
) -> str:
    if draw.textlength(text, font) <= width:
        return text
    while text and draw.textlength(text + "…", font) > width:
        text = text[:-1]
    return text + "…"


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


def _too_large(width: int, height: int, max_pixels: int) -> str:
    return (
        f"{width} x {height} = {width * height:,} pixels, at most {max_pixels:,} are accepted; scale it "
        "down, or raise the limit on image pixels in the settings"
    )


def _not_an_image(data: bytes) -> str:
    if not data:
        return "the file is empty (0 bytes); send it again"
    formats = ", ".join(sorted(suffix[1:] for suffix in IMAGE_SUFFIXES))
    return f"no image: it begins with {data[:8]!r}; expected one of {formats}"


def _bits(image_hash: str) -> int:
    if len(image_hash) != HASH_BITS // 4:
        raise ValueError(f"near-duplicate hash {image_hash!r} has {len(image_hash)} hex digits; expected 32")
    return int(image_hash, 16)


def _words(value: int) -> np.ndarray:
    return np.frombuffer(value.to_bytes(16, "big"), np.uint64)
