"""Leases: who has a picture on the screen until when, so that nobody else is given it.

The leases of a picture are a chain of numbered blobs, each create-only: of two pages that hand out the same picture at
the same moment, one is told that the other did. A lease that runs out, or is handed back, is followed by the next.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError

if TYPE_CHECKING:
    from al_resources.blobs import BlobStore

LEASES = "labeling/leases"


class Lease(BaseModel):
    """One turn of one picture."""

    model_config = ConfigDict(frozen=True)

    annotator: str
    tab: str  # of the browser: a second one is another holder
    until: datetime


class LeaseBook:
    """The leases of one round; what others wrote is read when it is run into."""

    def __init__(self, blobs: BlobStore, round_: int, length: timedelta) -> None:
        self._blobs = blobs
        self._folder = f"{LEASES}/{round_:04d}"
        self._length = length
        self._turns: dict[str, list[Lease]] = {}  # of each picture the turns that may still hold, and their number
        self._numbers: dict[str, int] = {}

    def load(self) -> None:
        """Read the newest turn of each picture: what a page before this one handed out still holds."""
        newest: dict[str, int] = {}
        for blob in self._blobs.list(self._folder):
            image_id, _, turn = blob.path.rsplit("/", 1)[-1].removesuffix(".json").partition(".")
            if turn.isdecimal():
                newest[image_id] = max(newest.get(image_id, 0), int(turn))
        for image_id, number in newest.items():
            first = self._numbers.get(image_id, max(0, number - 2))
            for missed in range(first + 1, number + 1):
                self._learn(image_id, missed)

    def holders(self, image_id: str, now: datetime) -> list[Lease]:
        """The leases that hold at this moment; several where several people are to answer."""
        return [lease for lease in self._turns.get(image_id, ()) if lease.until > now]

    def take(self, image_id: str, annotator: str, tab: str, now: datetime) -> bool:
        """Hold a picture. False: somebody else was faster; `holders` knows of it now."""
        lease = Lease(annotator=annotator, tab=tab, until=now + self._length)
        return self._write(image_id, lease)

    def hand_back(self, image_id: str, annotator: str, tab: str, now: datetime) -> None:
        """End a lease before its time: the page was closed, or the picture answered."""
        if any(lease.annotator == annotator and lease.tab == tab for lease in self.holders(image_id, now)):
            self._write(image_id, Lease(annotator=annotator, tab=tab, until=now))

    def forget(self, image_id: str, annotator: str, now: datetime) -> None:
        """An answered picture is no longer held by whoever answered; the answer itself tells the others."""
        self._turns[image_id] = [lease for lease in self.holders(image_id, now) if lease.annotator != annotator]

    def _write(self, image_id: str, lease: Lease) -> bool:
        number = self._numbers.get(image_id, 0) + 1
        if self._blobs.write(self._path(image_id, number), lease.model_dump_json().encode(), if_absent=True):
            self._keep(image_id, number, lease)
            return True
        while self._learn(image_id, number):
            number += 1
        return False

    def _learn(self, image_id: str, number: int) -> bool:
        try:
            lease = Lease.model_validate_json(self._blobs.read(self._path(image_id, number)))
        except FileNotFoundError:
            return False
        except ValidationError:  # not ours to read: it holds nothing
            self._numbers[image_id] = number
            return True
        self._keep(image_id, number, lease)
        return True

    def _keep(self, image_id: str, number: int, lease: Lease) -> None:
        """A holder's newer turn takes the place of the older one."""
        holder = (lease.annotator, lease.tab)
        others = [one for one in self._turns.get(image_id, ()) if (one.annotator, one.tab) != holder]
        self._turns[image_id] = [*others, lease]
        self._numbers[image_id] = number

    def _path(self, image_id: str, number: int) -> str:
        return f"{self._folder}/{image_id}.{number:04d}.json"
