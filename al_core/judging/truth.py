"""Truth by hash: whether an image may judge or may teach is decided at first sight, by its content, for ever.

A share of all images is *reserved* for judging. No strategy is offered a reserved image, so what is drawn from them
uniformly (the control slice, the judging part of the seed round) stays an unbiased sample of all images, in a finite
pool, too: a slice of what a strategy left over flatters the model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl

from al_core.errors import InvalidInput
from al_core.records import image_keys

MODULUS = 2**31 - 1  # a prime; products of two residues fit into 63 bits, in every engine
UNIFORM_REASONS = ("seed", "control")  # drawn uniformly from the reserved images: unbiased truth
DUEL = "duel"  # drawn uniformly from those on which two models disagree: they judge these two, never an accuracy


@dataclass(frozen=True)
class Reserve:
    """Which images may judge: those whose key falls below `share` after an affine map modulo a prime.

    The map is salted, and shuffles the keys: a random draw is a window of keys, and a window of the keys themselves
    would be reserved as a whole or not at all. It is plain arithmetic on one integer column, so a store decides it
    where the rows lie. With the same salt a larger share holds all images of a smaller one.

    Raises:
        InvalidInput: the share is not between 0 and 1.
    """

    share: float
    salt: str = "truth"

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise InvalidInput(f"a reserve of {self.share} of all images; expected a share from 0 to below 1")

    @cached_property
    def multiplier(self) -> int:
        """From 1 to `MODULUS` - 1."""
        return 1 + self._word(0) % (MODULUS - 1)

    @cached_property
    def offset(self) -> int:
        """From 0 to `MODULUS` - 1."""
        return self._word(1) % MODULUS

    @property
    def limit(self) -> int:
        """A key is reserved where it is mapped below this."""
        return round(self.share * MODULUS)

    def holds(self, image_id: str) -> bool:
        """Whether the image may judge."""
        return bool(self.mask(image_keys([image_id]))[0])

    def among(self, image_ids: Sequence[str]) -> list[str]:
        """Those that may judge, in their order."""
        reserved = self.mask(image_keys(image_ids))
        return [image_id for image_id, one in zip(image_ids, reserved, strict=True) if one]

    def mask(self, keys: np.ndarray) -> np.ndarray:
        """Shape (N,), bool, for image keys (N,)."""
        return (keys % MODULUS * self.multiplier + self.offset) % MODULUS < self.limit

    def _word(self, number: int) -> int:
        digest = hashlib.blake2b(self.salt.encode(), digest_size=16).digest()
        return int.from_bytes(digest[8 * number : 8 * number + 8], "big")


@dataclass(frozen=True)
class Part:
    """The images that may judge, or the others, which may teach: what a query of the prediction log is about."""

    reserve: Reserve
    judging: bool

    @property
    def share(self) -> float:
        """Of all images."""
        return self.reserve.share if self.judging else 1 - self.reserve.share

    def filter(self, key: pl.Expr) -> pl.Expr:
        """The same decision in Polars, for a column of keys."""
        reserve = self.reserve
        below = (key % MODULUS * reserve.multiplier + reserve.offset) % MODULUS < reserve.limit
        return below if self.judging else ~below
