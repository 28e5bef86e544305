"""Near-duplicates: what a picture looks like in 128 bits, and which pictures look the same."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from PIL import Image

HASH_BITS = 128

_EVEN = 12  # grey levels: a picture that differs by no more from an evenly lit surface, an 8th by an 8th, is one
_COLOUR_STEP = 12  # levels of a channel's mean that make another bit
_FINE = 32  # an even picture is searched for a mark in so many parts each way
_MARK = 6, 8  # a mark stands out by so many grey levels, and by so many standard deviations of the noise
_MIXER = np.uint64(0x9E3779B97F4A7C15)  # any odd number with bits everywhere


def near_duplicate_hash(image: Image.Image) -> str:
    """What the picture looks like in 128 bits, as 32 hex digits: close pictures differ in few bits.

    Difference hash: is each of 8 x 8 pixels darker than its right neighbour, and than the one below? It
    survives scaling, recompression and brightness. Source: N. Krawetz (2013), "Kind of Like That", hackerfactor.com.

    An even surface has no gradients but its lighting, and all of them would be one picture. Their hashes are changed by
    what tells them apart: a bit every 12 levels of the mean colour, and many bits by where the strongest mark lies. So
    surfaces that differ by noise alone still are one picture; a scratch that is copied with a shift may be another.
    """
    grey = image if image.mode == "L" else image.convert("L")
    right = np.asarray(grey.resize((9, 8), Image.Resampling.BILINEAR))
    below = np.asarray(grey.resize((8, 9), Image.Resampling.BILINEAR))
    bits = np.concatenate([(right[:, 1:] > right[:, :-1]).ravel(), (below[1:] > below[:-1]).ravel()])
    code = np.packbits(bits)
    if np.ptp(_uneven(right)) <= _EVEN:
        code ^= np.packbits(_colour_bits(image)) ^ _mark_code(grey)
    return code.tobytes().hex()


def _uneven(grey: np.ndarray) -> np.ndarray:
    """What is left of grey values, shape (H, W), without an evenly lit surface: the plane of least squares."""
    height, width = grey.shape
    down, across = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    values = grey - grey.mean()
    # the three terms of the plane are orthogonal on a regular grid
    for slope in (down, across):
        values = values - slope * ((values * slope).sum() / (slope * slope).sum())
    return values


def _colour_bits(image: Image.Image) -> np.ndarray:
    """A thermometer a channel, `HASH_BITS` bits: close colours differ in few of them."""
    means = np.asarray(image.convert("RGB").resize((8, 8), Image.Resampling.BILINEAR), float).mean(axis=(0, 1))
    bits = means[:, None] > np.arange(1, 255 // _COLOUR_STEP + 1) * _COLOUR_STEP
    return np.pad(bits.ravel(), (0, HASH_BITS - bits.size))


def _mark_code(grey: Image.Image) -> np.ndarray:
    """16 bytes that say where the strongest mark lies, of 16 x 16 places; zero where nothing stands out."""
    fine = _uneven(np.asarray(grey.resize((_FINE, _FINE), Image.Resampling.BOX), float))
    noise = 1.4826 * np.median(np.abs(fine))  # the standard deviation, if a mark is small
    row, column = divmod(int(np.abs(fine).argmax()), _FINE)
    if abs(fine[row, column]) <= max(_MARK[0], _MARK[1] * noise):
        return np.zeros(HASH_BITS // 8, np.uint8)
    place = f"{row // 2} {column // 2} {fine[row, column] > 0}"
    return np.frombuffer(hashlib.blake2b(place.encode(), digest_size=HASH_BITS // 8).digest(), np.uint8)


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


def _bits(image_hash: str) -> int:
    if len(image_hash) != HASH_BITS // 4:
        raise ValueError(f"near-duplicate hash {image_hash!r} has {len(image_hash)} hex digits; expected 32")
    return int(image_hash, 16)


def _words(value: int) -> np.ndarray:
    return np.frombuffer(value.to_bytes(16, "big"), np.uint64)
