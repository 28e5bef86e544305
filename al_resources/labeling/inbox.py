"""The inbox: where exports arrive, and what reading them needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from al_core.picture_files import is_left_behind

if TYPE_CHECKING:
    from al_resources.blobs import BlobInfo, BlobStore
    from al_resources.image_store import ImageStore
    from al_resources.ledgers import Ledgers
    from al_resources.settings import LabelingSettings

INBOX = "labeling/exports"
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

    def unmerged(self) -> list[BlobInfo]:
        """The exports, in this content, that nothing has become of yet. Lists the inbox, reads one ledger."""
        known = set(self.ledgers.read("exports").select("path", "etag").iter_rows())
        new = (blob for blob in self.blobs.list(INBOX) if (blob.path, blob.etag) not in known)
        return [blob for blob in new if is_export(blob.path)]


def is_export(path: str) -> bool:
    """Whether a file of the inbox is meant as an export; what no tool reads is refused by name, not passed over."""
    return not is_left_behind(path.removeprefix(f"{INBOX}/"))
