"""Truth by hash: whether an image may judge or may teach is decided at first sight, by its content, for ever.

A share of all images is *reserved* for judging. No strategy is offered a reserved image, so what is drawn from them
uniformly (the control slice, the judging part of the seed round) stays an unbiased sample of all images, in a finite
pool, too: a slice of what a strategy left over flatters the model.

For the same reason a quarter of the reserve *measures* accuracies and only the rest is for *duels*: images on which two
models disagree are the hard ones, and what they leave over would flatter, too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import polars as pl

from al_core.errors import InvalidInput
from al_core.records import image_keys

MODULUS = 2**31 - 1  # a prime; products of two residues fit into 63 bits, in every engine
# labels that were there before any round: of images that people declared a random sample, or of all that there were
SAMPLE, CENSUS = LABELED_BEFORE = ("sample", "census")
UNIFORM_REASONS = ("seed", "control", *LABELED_BEFORE)  # drawn uniformly: unbiased truth
MEASURING = 1 / 4  # of the reserve; the rest is for duels
DUEL = "duel"  # drawn from the duelling part, where two models disagree: these judge the two, never an accuracy

Role = Literal["teach", "judge", "measure", "duel"]  # judge: measure and duel together


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

    def part(self, role: Role) -> Part:
        """The images of a role."""
        return Part(self, role)

    def holds(self, image_id: str, role: Role = "judge") -> bool:
        """Whether the image has that role."""
        return bool(self.part(role).mask(image_keys([image_id]))[0])

    def among(self, image_ids: Sequence[str], role: Role = "judge") -> list[str]:
        """Those of that role, in their order."""
        chosen = self.part(role).mask(image_keys(image_ids))
        return [image_id for image_id, one in zip(image_ids, chosen, strict=True) if one]

    def _word(self, number: int) -> int:
        digest = hashlib.blake2b(self.salt.encode(), digest_size=16).digest()
        return int.from_bytes(digest[8 * number : 8 * number + 8], "big")


@dataclass(frozen=True)
class Part:
    """The images of one role: those whose key is mapped into a range. What a query of the prediction log is about."""

    reserve: Reserve
    role: Role

    @property
    def bounds(self) -> tuple[int, int]:
        """From (inclusive) and to (exclusive): measures first, then duels, then those that teach."""
        quarter, limit = round(MEASURING * self.reserve.share * MODULUS), round(self.reserve.share * MODULUS)
        ranges = {"measure": (0, quarter), "duel": (quarter, limit), "judge": (0, limit), "teach": (limit, MODULUS)}
        return ranges[self.role]

    @property
    def share(self) -> float:
        """Of all images."""
        low, high = self.bounds
        return (high - low) / MODULUS

    def mask(self, keys: np.ndarray) -> np.ndarray:
        """Shape (N,), bool, for image keys (N,)."""
        low, high = self.bounds
        mapped = (keys % MODULUS * self.reserve.multiplier + self.reserve.offset) % MODULUS
        return (mapped >= low) & (mapped < high)

    def filter(self, key: pl.Expr) -> pl.Expr:
        """The same decision in Polars, for a column of keys."""
        low, high = self.bounds
        mapped = (key % MODULUS * self.reserve.multiplier + self.reserve.offset) % MODULUS
        return (mapped >= low) & (mapped < high)
