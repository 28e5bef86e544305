"""The inbox: where exports arrive, and what reading them needs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from al_core.picture_files import is_left_behind

if TYPE_CHECKING:
    from al_resources.blobs import BlobInfo, BlobStore
    from al_resources.image_store import ImageStore
    from al_resources.ledgers import Ledgers
    from al_resources.settings import LabelingSettings

INBOX = "labeling/exports"
AGAIN = 500  # exports on record that a look checks for having been written anew; all of them, each tick would grow
RANDOM_SAMPLE = f"{INBOX}/random-sample"  # whoever puts labels here declares that their images are one


@dataclass(frozen=True)
class Inbox:
    """The exports, the ledgers that know what became of them, the images that they are about, and how to read them."""

    blobs: BlobStore
    ledgers: Ledgers
    images: ImageStore
    settings: LabelingSettings

    def exports(self) -> list[BlobInfo]:
        """All that lies there and is meant as an export."""
        return [blob for blob in self.blobs.list(INBOX) if is_export(blob.path)]

    def unfit(self) -> dict[str, str]:
        """Files that lie there and cannot be read: by what name, and why."""
        found: dict[str, str] = {}
        for _ in self.blobs.list(INBOX, unfit=found.__setitem__):
            pass
        return _meant(found)

    def unmerged(
        self, turn: int | None = None, watched: Iterable[str] = (), unfit: dict[str, str] | None = None
    ) -> list[BlobInfo]:
        """The exports, in this content, that nothing has become of yet. Lists the inbox, reads one ledger.

        With `turn`, of the files that are on record only `AGAIN` are looked at, whether they were written anew, and
        those `watched`: turn 0 takes the newest, the turns after it the others. Other names are seen in every turn.
        `unfit` takes up what cannot be read, see the method of that name.
        """
        recorded = self.ledgers.read("exports").select("path", "etag")
        passed_over = set[str]() if turn is None else _not_in_turn(recorded["path"], turn).difference(watched)
        unreadable: dict[str, str] = {}
        found = list(self.blobs.list(INBOX, but=passed_over, unfit=unreadable.__setitem__))
        if unfit is not None:
            unfit.update(_meant(unreadable))
        known = set(recorded.filter(pl.col("path").is_in([blob.path for blob in found])).iter_rows())
        return [blob for blob in found if (blob.path, blob.etag) not in known and is_export(blob.path)]


def _not_in_turn(recorded: pl.Series, turn: int) -> set[str]:
    """The paths on record that another turn looks at."""
    paths = recorded.reverse().unique(maintain_order=True)
    start = turn % max(-(-len(paths) // AGAIN), 1) * AGAIN
    return {*paths[:start], *paths[start + AGAIN :]}


def _meant(unfit: dict[str, str]) -> dict[str, str]:
    return {path: reason for path, reason in unfit.items() if is_export(path)}


def is_export(path: str) -> bool:
    """Whether a file of the inbox is meant as an export; what no tool reads is refused by name, not passed over."""
    return not is_left_behind(path.removeprefix(f"{INBOX}/"))
