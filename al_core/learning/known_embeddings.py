"""What encoders made of images before: the contract of what remembers it. Free of torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class Embedded:
    """What is known of some images, those that are not known left out."""

    known: np.ndarray  # (N,) bool, one for each image asked for
    embeddings: np.ndarray  # (K, d) float32 of the known ones, in the order in which they were asked for
    image_hashes: list[str | None]  # of the known ones: their near-duplicate hashes


class KnownEmbeddings(Protocol):
    """A memory by encoder, which is named by the content hash of all that makes an embedding."""

    def add(
        self,
        encoder: str,
        image_ids: Sequence[str],
        embeddings: np.ndarray,
        image_hashes: Sequence[str | None] | None = None,
    ) -> int:
        """Keep what the encoder made, (N, d), in half precision; how many were new.

        What is known stays as it is. Safe to call from many processes at once; all of it or an error.

        Raises:
            InvalidInput: the arrays do not fit together, or a value is not finite.
        """

    def read(self, encoder: str, image_ids: Sequence[str]) -> Embedded:
        """What this encoder made of these images."""
