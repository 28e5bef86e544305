"""A look at the inbox: which exports are new, complete and worth a run. What both sensors do at a tick.

New is what the ledger of exports does not know in this content: no clock is asked, so none that jumps can hide an
export. Completeness is a fact: a JSON document that parses has its end. One that does not parse is left alone until it
has neither changed nor been young for `labeling.settle_seconds`; only then is it broken.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from pydantic import BaseModel, ValidationError

from al_resources.blobs import BlobInfo
from al_resources.labeling.exports import BrokenExport
from al_resources.labeling.merge import Merge, Plan, note_gone, plan_merge, put_on_record, refuse
from al_resources.ledgers import ReadOnce

if TYPE_CHECKING:
    from al_resources.labeling.inbox import Inbox
    from al_resources.settings import LabelingSettings

LOOK_SECONDS = 20.0  # for reading, and as long again for putting refusals on record: Dagster gives a tick 60 s


class InboxCursor(BaseModel):
    """What was found and is on no record yet; losing it costs a second look and changes nothing."""

    requested: dict[str, str] = {}  # path -> etag, of what was ready and is not merged yet
    waiting: dict[str, str] = {}  # path -> etag, of what did not parse at the last look
    turn: int = 0  # which of the exports on record are looked at again, see `Inbox.unmerged`

    @classmethod
    def parse(cls, text: str | None) -> InboxCursor:
        """A cursor that cannot be read is a cursor at the beginning."""
        try:
            return cls.model_validate_json(text) if text else cls()
        except ValidationError:
            return cls()


@dataclass
class Look:
    """What one look at some exports found."""

    ready: list[Plan] = field(default_factory=list)
    nothing_new: list[Merge] = field(default_factory=list)
    refused: list[Merge] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    behind: list[str] = field(default_factory=list)  # what it brings shows when those that came before it are merged
    left: list[str] = field(default_factory=list)  # for the next look: no time, enough are ready, or behind others
    unfit: dict[str, str] = field(default_factory=dict)  # what lies there and no store can read: path -> why
    cursor: InboxCursor = field(default_factory=InboxCursor)


def look(
    inbox: Inbox,
    cursor: InboxCursor,
    *,
    limit: int,
    now: datetime,
    again: Collection[str] = (),
    seconds: float = LOOK_SECONDS,
) -> Look:
    """Look at what is new, oldest first, until `limit` exports are ready. Refusals and repeats are put on record here.

    `again`: paths that were ready before and come to nothing by themselves any more. What `seconds` do not suffice
    for comes at the next look; a good export is found first, however many broken ones lie before it.
    """
    unfit: dict[str, str] = {}
    unmerged = inbox.unmerged(cursor.turn, watched=[*cursor.requested, *cursor.waiting], unfit=unfit)
    asked = {path: etag for path, etag in cursor.requested.items() if path not in again}
    new = [blob for blob in unmerged if asked.get(blob.path) != blob.etag]
    new.sort(key=lambda blob: (blob.modified_at, blob.path))
    still = {blob.path: blob.etag for blob in unmerged}
    asked = {path: etag for path, etag in asked.items() if still.get(path) == etag}
    found = consider(inbox, new, cursor.waiting, now, limit=limit, seconds=seconds, merging=bool(asked))
    found.unfit |= unfit
    found.cursor.requested |= asked
    found.cursor.turn = cursor.turn + (not found.left)  # what is left must be found again
    return found


def consider(
    inbox: Inbox,
    exports: Sequence[BlobInfo],
    waiting: Mapping[str, str],
    now: datetime,
    *,
    limit: int | None = None,
    seconds: float = LOOK_SECONDS,
    merging: bool = False,
) -> Look:
    """Which of these exports, none on record yet, are worth a run. Refusals and repeats are put on record here.

    `waiting`: path -> etag of what did not parse last time; `limit`: as many may be ready; `merging`: others were
    found ready before and are not merged yet. What brings nothing as long as these are not merged may bring much
    afterwards: a correction back to what the ledger still says. So it is looked at again then.
    """
    found = Look()
    nothing_new: list[Plan] = []
    behind: list[BlobInfo] = []
    broken: list[tuple[BlobInfo, BrokenExport]] = []
    once = ReadOnce(inbox.ledgers)  # reading an export must not cost another look at all labels
    deadline = time.monotonic() + seconds
    looked_at = 0
    for blob in exports:
        if len(found.ready) == limit or (looked_at and time.monotonic() > deadline):
            break
        looked_at += 1
        try:
            plan = plan_merge(inbox, blob, now=now, ledgers=once)
            if plan.rows.height:
                found.ready.append(plan)
            elif merging or _answers_about(plan, found.ready):
                behind.append(blob)
            else:
                nothing_new.append(plan)
        except FileNotFoundError:  # deleted between listing and reading
            note_gone(inbox, blob.path)
            found.gone.append(blob.path)
        except PermissionError as error:  # it may be opened by the next look
            found.unfit[blob.path] = f"{error.strerror}; let whoever runs this read it"
        except BrokenExport as error:
            if error.incomplete and not _is_settled(blob, waiting, inbox.settings, now):
                found.waiting.append(blob.path)
                found.cursor.waiting[blob.path] = blob.etag
            else:
                broken.append((blob, error))
    found.cursor.requested = {plan.export.path: plan.export.etag for plan in found.ready}
    found.nothing_new = put_on_record(inbox, nothing_new)
    found.refused = refuse(inbox, broken, seconds=seconds)
    found.behind = [blob.path for blob in behind]
    left = [*behind, *(blob for blob, _ in broken[len(found.refused) :]), *exports[looked_at:]]
    found.left = [blob.path for blob in left]
    found.cursor.waiting |= {blob.path: blob.etag for blob in left if waiting.get(blob.path) == blob.etag}
    return found


def _answers_about(plan: Plan, others: Sequence[Plan]) -> bool:
    """Whether one of the others brings an answer for an image that this one answers, too."""
    own = {label.image_id for label in plan.parsed.labels}
    return any(not own.isdisjoint(other.rows["image_id"]) for other in others)


def _is_settled(blob: BlobInfo, waiting: Mapping[str, str], settings: LabelingSettings, now: datetime) -> bool:
    """Whether it lay still between two looks and is old enough; a clock ahead makes no file young for ever."""
    unchanged = waiting.get(blob.path) == blob.etag
    return unchanged and abs(now - blob.modified_at) >= timedelta(seconds=settings.settle_seconds)
