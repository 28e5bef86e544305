"""What lies in the inbox: exports, as people and tools put them there. Knows no format, so that it is quick to ask."""

from __future__ import annotations

from typing import TYPE_CHECKING

from al_core.picture_files import is_left_behind

if TYPE_CHECKING:
    from al_resources.blobs import BlobStore
    from al_resources.ledgers import LedgerReader

INBOX = "labeling/exports"


def unmerged_exports(blobs: BlobStore, ledgers: LedgerReader) -> list[str]:
    """The exports in the inbox, in this content, that nothing has become of yet."""
    known = set(ledgers.read("exports").select("path", "etag").iter_rows())
    return [blob.path for blob in blobs.list(INBOX) if is_export(blob.path) and (blob.path, blob.etag) not in known]


def is_export(path: str) -> bool:
    """Whether a file of the inbox is meant as an export; what no tool reads is refused by name, not passed over."""
    return not is_left_behind(path.removeprefix(f"{INBOX}/"))
