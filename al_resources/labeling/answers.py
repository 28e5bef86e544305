"""Answers: what people said on the labeling page. One small blob an answer, written once, never changed.

An answer carries the name its sender gave it (a UUID), and a blob is create-only: sent again after a crash or a lost
response it is the same answer. Taking one back is an answer, too. What stands follows from all of them together, so
several pages on the same store need no other agreement.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

if TYPE_CHECKING:
    from al_resources.blobs import BlobStore

ANSWERS = "labeling/answers"
READERS = 8  # blobs read at once: a container answers each in tens of milliseconds
EVENT_ID = r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"
LONGEST_MS = 3_600_000  # an hour on one picture is no time of labeling

Kind = Literal["label", "unsure", "bad_image", "undo"]
Mode = Literal["single", "grid"]


class Answer(BaseModel):
    """One thing that one person said of one picture."""

    model_config = ConfigDict(frozen=True)

    event_id: str = Field(pattern=EVENT_ID)
    round: int = Field(ge=0)
    image_id: str
    annotator: str = Field(min_length=1, max_length=200)
    kind: Kind
    label: str | None = None  # of kind "label"
    undoes: str | None = None  # of kind "undo": the event that is taken back
    note: str = Field("", max_length=2_000)
    at: datetime  # of the server
    milliseconds: int = Field(0, ge=0, le=LONGEST_MS)  # from the picture drawn to the key
    mode: Mode = "single"
    prediction_seen: bool = False  # whoever asks to see the prediction is anchored by it


class AnswerLog:
    """The answers of one round, as far as they were read."""

    def __init__(self, blobs: BlobStore, round_: int) -> None:
        self._blobs = blobs
        self._folder = f"{ANSWERS}/{round_:04d}"
        self._known: dict[str, Answer] = {}
        self.unreadable: list[str] = []  # paths of blobs that are no answers: named, and passed over

    def append(self, answer: Answer) -> bool:
        """Keep an answer; it is durable when this returns. False: it was there already."""
        written = self._blobs.write(self.path_of(answer.event_id), answer.model_dump_json().encode(), if_absent=True)
        if not written and answer.event_id not in self._known:
            self._read([self.path_of(answer.event_id)])
        self._known.setdefault(answer.event_id, answer)
        return written

    def refresh(self) -> list[Answer]:
        """Read what others wrote since; returns it."""
        known = {*map(self.path_of, self._known), *self.unreadable}
        return self._read([blob.path for blob in self._blobs.list(self._folder) if blob.path not in known])

    def find(self, event_id: str) -> Answer | None:
        """One answer, where it is known."""
        return self._known.get(event_id)

    def __iter__(self) -> Iterator[Answer]:
        """Oldest first."""
        return iter(sorted(self._known.values(), key=lambda answer: (answer.at, answer.event_id)))

    def path_of(self, event_id: str) -> str:
        """Where an answer lies."""
        return f"{self._folder}/{event_id}.json"

    def _read(self, paths: list[str]) -> list[Answer]:
        found = []
        with ThreadPoolExecutor(READERS) as pool:
            for path, answer in zip(paths, pool.map(self._read_one, paths), strict=True):
                if answer is None:
                    self.unreadable.append(path)
                else:
                    self._known[answer.event_id] = answer
                    found.append(answer)
        return found

    def _read_one(self, path: str) -> Answer | None:
        try:
            return Answer.model_validate_json(self._blobs.read(path))
        except (ValidationError, FileNotFoundError):
            return None


def erase_answers(blobs: BlobStore, image_ids: Collection[str]) -> int:
    """Delete what people said on the page of some images; how many answers there were."""
    erased = 0
    for round_ in rounds_with_answers(blobs):
        log = AnswerLog(blobs, round_)
        for answer in log.refresh():
            if answer.image_id in image_ids:
                blobs.delete(log.path_of(answer.event_id))
                erased += 1
    return erased


def rounds_with_answers(blobs: BlobStore) -> list[int]:
    """The rounds that somebody answered in, newest first."""
    found = {match[1] for blob in blobs.list(ANSWERS) if (match := re.match(rf"{ANSWERS}/(\d+)/", blob.path))}
    return sorted(map(int, found), reverse=True)


def standing_answers(answers: Iterable[Answer]) -> Mapping[tuple[str, str], Answer]:
    """(image id, annotator) -> what that person says of that picture now: the last answer not taken back."""
    answers = list(answers)
    taken_back = {answer.undoes for answer in answers if answer.kind == "undo"}
    return {
        (answer.image_id, answer.annotator): answer
        for answer in sorted(answers, key=lambda answer: (answer.at, answer.event_id))
        if answer.kind != "undo" and answer.event_id not in taken_back
    }
