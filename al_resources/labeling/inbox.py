"""The inbox: which exports are new, complete and worth a run. The polling sensor's eyes, and what both sensors do.

Completeness is a fact: a JSON document that parses has its end. One that does not parse is left alone until it
has neither changed nor been young for `labeling.settle_seconds`; only then is it broken.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

from pydantic import BaseModel, ValidationError

from al_resources.blobs import BlobInfo
from al_resources.labeling.exports import BrokenExport
from al_resources.labeling.merge import INBOX, Merge, Plan, carry_out, is_export, note_gone, plan_merge, refuse_export
from al_resources.settings import LabelingSettings

if TYPE_CHECKING:
    from al_resources.blobs import BlobStore
    from al_resources.image_store import ImageStore
    from al_resources.ledgers import Ledgers

OVERLAP = timedelta(minutes=10)  # clocks differ, and a listing may lag behind a write


class InboxCursor(BaseModel):
    """How far the inbox was read; losing it costs a second look at everything and changes nothing."""

    watermark: datetime = datetime.fromtimestamp(0, timezone.utc)
    seen: dict[str, str] = {}  # path -> etag, of what lies within the overlap
    waiting: dict[str, str] = {}  # path -> etag, of what did not parse at the last look

    @classmethod
    def parse(cls, text: str | None) -> InboxCursor:
        """A cursor that cannot be read is a cursor at the beginning."""
        try:
            return cls.model_validate_json(text) if text else cls()
        except ValidationError:
            return cls()

    def is_new(self, blob: BlobInfo) -> bool:
        """Whether this content was not handled yet, as far as the cursor knows."""
        if blob.path in self.waiting:
            return True
        return blob.modified_at >= self.watermark - OVERLAP and self.seen.get(blob.path) != blob.etag


@dataclass
class Look:
    """What one look at some exports found."""

    ready: list[Plan] = field(default_factory=list)
    nothing_new: list[Merge] = field(default_factory=list)
    refused: list[Merge] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    left_for_later: int = 0
    cursor: InboxCursor = field(default_factory=InboxCursor)


def look(
    blobs: BlobStore,
    ledgers: Ledgers,
    images: ImageStore,
    settings: LabelingSettings,
    cursor: InboxCursor,
    *,
    limit: int,
    now: datetime,
) -> Look:
    """Look at what is new, oldest first, at most `limit` exports. Refusals and repeats are put on record here."""
    inbox = [blob for blob in blobs.list(INBOX) if is_export(blob.path)]
    new = sorted(filter(cursor.is_new, inbox), key=lambda blob: (blob.modified_at, blob.path))
    recorded = set(ledgers.read("exports").select("path", "etag").iter_rows()) if new else set()
    found = consider(blobs, ledgers, images, settings, new[:limit], recorded, cursor.waiting, now)
    found.left_for_later = max(0, len(new) - limit)
    handled = [blob for blob in new[:limit] if blob.path not in {*found.waiting, *found.gone}]
    later = {blob.path for blob in new[limit:]}
    found.cursor.waiting |= {path: etag for path, etag in cursor.waiting.items() if path in later}
    _advance(found.cursor, cursor, inbox, handled, now)
    return found


def consider(
    blobs: BlobStore,
    ledgers: Ledgers,
    images: ImageStore,
    settings: LabelingSettings,
    exports: Sequence[BlobInfo],
    recorded: Collection[tuple[str, str]],
    waiting: Mapping[str, str],
    now: datetime,
) -> Look:
    """Which of these exports are worth a run. Refusals and repeats are put on record here.

    `recorded`: (path, etag) of what is on record already; `waiting`: path -> etag of what did not parse last time.
    """
    found = Look()
    for blob in exports:
        if (blob.path, blob.etag) in recorded:
            continue
        try:
            _sort(blobs, ledgers, plan_merge(blobs, ledgers, images, settings, blob), found)
        except FileNotFoundError:  # deleted between listing and reading
            note_gone(ledgers, blob.path)
            found.gone.append(blob.path)
        except BrokenExport as error:
            if error.incomplete and not _is_settled(blob, waiting, settings, now):
                found.waiting.append(blob.path)
                found.cursor.waiting[blob.path] = blob.etag
            else:
                found.refused.append(refuse_export(blobs, ledgers, blob, error))
    return found


def _sort(blobs: BlobStore, ledgers: Ledgers, plan: Plan, found: Look) -> None:
    if plan.rows.height:
        found.ready.append(plan)
    else:
        found.nothing_new.append(carry_out(blobs, ledgers, plan))


def _is_settled(blob: BlobInfo, waiting: Mapping[str, str], settings: LabelingSettings, now: datetime) -> bool:
    unchanged = waiting.get(blob.path) == blob.etag
    return unchanged and now - blob.modified_at >= timedelta(seconds=settings.settle_seconds)


def _advance(
    after: InboxCursor, before: InboxCursor, inbox: list[BlobInfo], handled: list[BlobInfo], now: datetime
) -> None:
    """Move the watermark to the newest handled export and forget what lies before the overlap.

    Never beyond the present: one file from a clock that is ahead would hide all that come after it.
    """
    newest = max((blob.modified_at for blob in handled), default=before.watermark)
    after.watermark = max(before.watermark, min(newest, now))
    done = before.seen | {blob.path: blob.etag for blob in handled}
    after.seen = {
        blob.path: blob.etag
        for blob in inbox
        if blob.modified_at >= after.watermark - OVERLAP and done.get(blob.path) == blob.etag
    }
