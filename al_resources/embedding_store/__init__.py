"""The table of embeddings: what an encoder made of an image, kept so that it is never made again."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import numpy as np
import polars as pl
import pyarrow as pa

from al_core.errors import InvalidInput
from al_core.learning.known_embeddings import Embedded, KnownEmbeddings
from al_core.records import embedding_table


@dataclass(frozen=True)
class Extent:
    """What an encoder has in the table; an image that two processes added at the same moment has two rows."""

    rows: int
    newest: datetime | None  # when the last of them was added


class EmbeddingStore(KnownEmbeddings, Protocol):
    """What every embedding store can do. All of it is made from pictures: what is lost is computed again."""

    def known(self, encoder: str, image_ids: Sequence[str]) -> np.ndarray:
        """Which of these images have an embedding of this encoder, (N,) bool; reads no embedding."""

    def stream(self, encoder: str, image_ids: Collection[str]) -> Iterator[tuple[pl.Series, np.ndarray]]:
        """What this encoder made of these images, in no order and in parts of bounded size.

        Of each part the ids (K,) and the embeddings (K, d), float32. An image that was added by two processes at the
        same moment may come twice.
        """

    def counts(self) -> dict[str, int]:
        """How many embeddings there are, by encoder."""

    def extent(self, encoder: str, until: datetime | None = None) -> Extent:
        """How many rows an encoder has, of those that were added until a moment (None: of all), from narrow columns.

        Adding changes no count up to a moment that is past; whatever is lost does.
        """

    def rows_of(self, image_ids: Collection[str]) -> int:
        """How many rows there are of some images, of whatever encoder."""

    def erase(self, image_ids: Collection[str]) -> int:
        """Erase what every encoder made of some images, for `al forget` alone; how many rows there were."""

    def compact(self, keep: Collection[str] = ()) -> dict[str, int]:
        """Tidy up; says what it did. Readers and writers go on undisturbed, and no encoder of `keep` is forgotten."""


def check_embeddings(image_ids: Sequence[str], embeddings: np.ndarray) -> None:
    """Raises `InvalidInput` where these are not one finite embedding for each of the images."""
    if embeddings.ndim != 2 or len(embeddings) != len(image_ids):
        raise InvalidInput(
            f"embeddings of shape {embeddings.shape} for {len(image_ids)} images; expected ({len(image_ids)}, d)"
        )
    finite = np.isfinite(embeddings).all(axis=1)
    if not finite.all():
        first = image_ids[int(np.argmin(finite))]
        raise InvalidInput(f"the embedding of image {first} is not finite; the weights of its encoder are broken")


def first_unknown(image_ids: Sequence[str], known: np.ndarray) -> np.ndarray:
    """The positions of images that are not among the `known`, (N,) bool, each image once."""
    first = np.zeros(len(image_ids), bool)
    first[np.unique(np.array(image_ids, str), return_index=True)[1]] = True
    return np.flatnonzero(first & ~known)


def rows_at(
    places: np.ndarray,
    encoder: str,
    image_ids: Sequence[str],
    embeddings: np.ndarray,
    image_hashes: Sequence[str | None] | None,
) -> pa.Table:
    """Rows of `EMBEDDINGS` for some of the images."""
    hashes = None if image_hashes is None else [image_hashes[place] for place in places]
    return embedding_table(encoder, [image_ids[place] for place in places], embeddings[places], hashes)


def in_order(image_ids: Sequence[str], found: pl.DataFrame, embeddings: np.ndarray) -> Embedded:
    """Rows of `image_id` and `image_hash`, each image once, and their (K, d) embeddings in the order of `image_ids`."""
    asked = pl.DataFrame({"image_id": pl.Series(list(image_ids), dtype=pl.String)})
    here = found.select("image_id", "image_hash").with_row_index("at")
    placed = asked.join(here, on="image_id", how="left", maintain_order="left")
    known = placed["at"].is_not_null()
    there = placed.filter(known)
    return Embedded(known.to_numpy(), embeddings[there["at"].to_numpy()], there["image_hash"].to_list())


def nothing_known(count: int) -> Embedded:
    """The answer of an empty table."""
    return Embedded(np.zeros(count, bool), np.empty((0, 0), np.float32), [])
