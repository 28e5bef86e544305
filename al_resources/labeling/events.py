"""Exports that announce themselves: blob events from a queue, read into paths to look at. The event sensor's ears.

An event is a hint and never a fact: what counts is the blob as it lies there when it is looked at. So an event that
comes twice, late, or for a blob that is gone does no harm, and one that is lost costs a day at most: once a day the
inbox is compared with the ledger.
Sources: Event Grid's schema for Blob Storage, and CloudEvents 1.0.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from al_resources.blobs import BlobInfo
from al_resources.labeling.inbox import INBOX, Inbox, is_export
from al_resources.labeling.look import Look, consider
from al_resources.labeling.merge import note_gone

if TYPE_CHECKING:
    from al_resources.blobs import BlobStore
    from al_resources.event_queue import EventQueue, Message
    from al_resources.ledgers import Ledgers

NEW_CONTENT = ("Microsoft.Storage.BlobCreated", "Microsoft.Storage.BlobRenamed")
ONLY_OPENED = ("CreateFile", "SftpCreate")  # a file of length 0; FlushWithClose or SftpCommit tell its real end
SUBJECT = re.compile(r"/blobServices/default/containers/([^/]+)/blobs/(.+)", re.DOTALL)
RECONCILE_EVERY = timedelta(days=1)
MESSAGES_PER_TICK = 320
LISTEN_SECONDS = 20  # where the queue is slow, what it still holds waits for the next tick: Dagster gives one 60 s
BACKLOG = 1_000  # missed exports that are remembered at once; the rest is found when they are through
POISON_AFTER = 5  # deliveries


class NoEvent(ValueError):
    """A message that is no blob event; the text says why."""


class EventCursor(BaseModel):
    """What the next tick has to know; losing it costs a reconciliation and a second look, and changes nothing."""

    receipts: list[tuple[str, str]] = []  # (message id, pop receipt) of what this tick has taken care of
    backlog: list[str] = []  # paths that are still to be looked at
    waiting: dict[str, str] = {}  # path -> etag, of what did not parse at the last look
    requested: dict[str, str] = {}  # path -> etag, of what was ready and is not merged yet
    reconciled_at: datetime | None = None

    @classmethod
    def parse(cls, text: str | None) -> EventCursor:
        """A cursor that cannot be read is a cursor at the beginning."""
        try:
            return cls.model_validate_json(text) if text else cls()
        except ValidationError:
            return cls()

    def is_to_reconcile(self, now: datetime) -> bool:
        """Whether a day has passed, or a clock was set back."""
        return self.reconciled_at is None or not timedelta() <= now - self.reconciled_at < RECONCILE_EVERY


@dataclass
class Heard:
    """What one tick made of the queue."""

    found: Look = field(default_factory=Look)
    cursor: EventCursor = field(default_factory=EventCursor)
    messages: int = 0
    unreadable: list[str] = field(default_factory=list)  # why; they come again
    poisoned: list[str] = field(default_factory=list)  # why; they lie in the poison queue


def listen(
    queue: EventQueue,
    inbox: Inbox,
    cursor: EventCursor,
    *,
    container: str,
    limit: int,
    now: datetime,
    again: Collection[str] = (),
) -> Heard:
    """Delete what the last tick took care of, read what is new, and look at up to `limit` exports.

    `again`: paths that were ready before and come to nothing by themselves any more.

    A message is deleted at the next tick only: by then the runs it led to are on record. A crash before that
    delivers it again, and the run key tells that it is nothing new.
    """
    deadline = time.monotonic() + LISTEN_SECONDS
    left = queue.delete(cursor.receipts, until=deadline)
    heard = Heard(cursor=EventCursor(receipts=left, reconciled_at=cursor.reconciled_at))
    paths = dict.fromkeys([*again, *cursor.waiting, *cursor.backlog])
    if not cursor.backlog and cursor.is_to_reconcile(now):
        missed = [blob.path for blob in inbox.unmerged() if blob.path not in paths]
        paths |= dict.fromkeys(missed[:BACKLOG])
        heard.cursor.reconciled_at = now if len(missed) <= BACKLOG else None
    while len(paths) < limit and heard.messages < MESSAGES_PER_TICK and time.monotonic() < deadline:
        if not (messages := queue.receive()):
            break
        heard.messages += len(messages)
        for message in messages:
            paths |= dict.fromkeys(_hear(message, container, queue, heard))
    chosen, heard.cursor.backlog = list(paths)[:limit], list(paths)[limit:]
    there, gone = _as_they_lie(inbox.blobs, chosen)
    recorded = {(path, etag) for path in chosen for etag in inbox.ledgers.read("exports", path=path)["etag"]}
    unmerged = [blob for blob in there if (blob.path, blob.etag) not in recorded]
    asked = _unmerged({path: etag for path, etag in cursor.requested.items() if path not in again}, inbox.ledgers)
    heard.found = consider(inbox, unmerged, cursor.waiting, now, merging=bool(asked))
    read = {path for path, _ in recorded}  # these may be deleted
    for path in gone:
        if path not in read:
            note_gone(inbox, path)
            heard.found.gone.append(path)
    later = cursor.waiting.keys() & set(heard.cursor.backlog)
    heard.cursor.waiting = heard.found.cursor.waiting | {path: cursor.waiting[path] for path in later}
    heard.cursor.backlog = [*heard.found.left, *heard.cursor.backlog]
    asked = {path: etag for path, etag in cursor.requested.items() if path not in heard.found.gone}
    heard.cursor.requested = _unmerged(asked, inbox.ledgers) | heard.found.cursor.requested
    return heard


def exports_named_by(text: str, container: str) -> list[str]:
    """Paths of exports that a queue message announces as complete; other blobs and other events are nothing to us.

    Raises:
        NoEvent: it is neither an Event Grid event nor a CloudEvent, plain or in base64.
    """
    named = []
    for event in _events(text):
        kind, subject = event.get("eventType") or event.get("type"), event.get("subject")
        if not isinstance(kind, str) or not isinstance(subject, str):
            raise NoEvent(f"neither Event Grid's schema nor CloudEvents: {_shortened(text)}")
        data = event.get("data")
        opened = isinstance(data, dict) and data.get("api") in ONLY_OPENED
        match = SUBJECT.fullmatch(subject)
        if kind not in NEW_CONTENT or opened or match is None or match[1] != container:
            continue
        if match[2].startswith(f"{INBOX}/") and is_export(match[2]):
            named.append(match[2])
    return named


def _hear(message: Message, container: str, queue: EventQueue, heard: Heard) -> list[str]:
    try:
        named = exports_named_by(message.text, container)
    except NoEvent as error:
        if message.deliveries >= POISON_AFTER:
            queue.poison(message)
            heard.poisoned.append(str(error))
        else:
            heard.unreadable.append(str(error))
        return []
    heard.cursor.receipts.append((message.id, message.receipt))
    return named


def _events(text: str) -> Iterator[dict[str, Any]]:
    """One event or several, plain or in base64."""
    try:
        plain = text if text.lstrip()[:1] in ("{", "[") else base64.b64decode(text, validate=True).decode()
        content = json.loads(plain)
    except (ValueError, binascii.Error, RecursionError) as error:
        raise NoEvent(f"no JSON, plain or in base64: {_shortened(text)}") from error
    for event in content if isinstance(content, list) else [content]:
        if not isinstance(event, dict):
            raise NoEvent(f"neither Event Grid's schema nor CloudEvents: {_shortened(text)}")
        yield event


def _unmerged(requested: dict[str, str], ledgers: Ledgers) -> dict[str, str]:
    """What of it is on no record in that content yet."""
    return {
        path: etag
        for path, etag in requested.items()
        if ledgers.read("exports", path=path).filter(etag=etag).is_empty()
    }


def _shortened(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")


def _as_they_lie(blobs: BlobStore, paths: list[str]) -> tuple[list[BlobInfo], list[str]]:
    there, gone = [], []
    for path in paths:
        try:
            there.append(blobs.info(path))
        except (FileNotFoundError, ValueError):  # deleted meanwhile, or a name that no blob of ours has
            gone.append(path)
    return there, gone
