"""The work queue of one round: who is given which picture next, what was answered, how far people have come."""

from __future__ import annotations

import heapq
import statistics
import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from al_core.records import utc_now
from al_labeling.leases import LeaseBook
from al_resources.labeling import StagedImage
from al_resources.labeling.answers import Answer, AnswerLog, standing_answers

if TYPE_CHECKING:
    from al_resources.blobs import BlobStore

RECENT = 50  # answers that the time left is estimated from
REFRESH_SECONDS = 5.0  # how long what other pages wrote may stay unseen; the leases keep the order meanwhile
PATIENCE = 20  # a look may cost at most one part in so many of the time: large rounds are looked at less often

Overlap = Literal["always", "model_disagrees"]


@dataclass(frozen=True)
class Progress:
    """How far a round has come, in images."""

    total: int
    settled: int  # with all the answers they need
    labeled: int
    unsure: int
    bad: int
    mine: int  # answered by whoever asks
    open_to_me: int
    seconds_left: float | None  # of whoever asks, at their own pace; None before there is one


class WorkQueue:
    """Thread-safe. `predicted`: image id -> the model's class, asked for where an overlap depends on it."""

    def __init__(
        self,
        blobs: BlobStore,
        round_: int,
        images: Sequence[StagedImage],
        *,
        lease: timedelta,
        overlap: int = 1,
        overlap_when: Overlap = "always",
        predicted: Callable[[], Mapping[str, str]] = dict,
        labeled_elsewhere: Callable[[], Mapping[str, Collection[str]]] = dict,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self.round = round_
        self.images = {image.image_id: image for image in sorted(images, key=lambda image: image.rank)}
        self.log = AnswerLog(blobs, round_)
        self._leases = LeaseBook(blobs, round_, lease)
        self._overlap = overlap
        self._overlap_when = overlap_when
        self._predicted = predicted
        self._elsewhere: Mapping[str, Collection[str]] = {}  # image id -> annotators whose label came another way
        self._read_elsewhere = labeled_elsewhere
        self._now = now
        self._lock = threading.RLock()
        self._of_image: dict[str, list[Answer]] = defaultdict(list)
        self._standing: dict[str, dict[str, Answer]] = {}  # image id -> annotator -> what stands
        # kept up to date with every answer: a look at all pictures of a large round would take longer than the answer
        self._settled: set[str] = set()
        self._mine: dict[str, set[str]] = defaultdict(set)  # annotator -> images with an answer of theirs that stands
        self._looked: datetime | None = None
        self._next_look = self._now()

    def refresh(self, *, force: bool = False) -> None:
        """Read what other pages and other tools brought since."""
        with self._lock:
            begun = self._now()
            if begun < self._next_look and not force:
                return
            if self._looked is None:
                self._leases.load()
            for answer in self.log.refresh():
                self._take_in(answer)
            before, self._elsewhere = self._elsewhere, self._read_elsewhere()
            for image_id in self.images.keys() & {*before, *self._elsewhere}:
                self._settle(image_id)
            self._looked = self._now()
            pause = max(REFRESH_SECONDS, PATIENCE * (self._looked - begun).total_seconds())
            self._next_look = self._looked + timedelta(seconds=pause)

    def next(self, annotator: str, tab: str, want: int, have: Collection[str] = ()) -> list[StagedImage]:
        """Up to `want` more pictures for one tab of one person, which has `have` of them in hand.

        In the order of the selection. A picture that the same person holds in another tab comes last: that tab
        may be gone for good.
        """
        self.refresh()
        with self._lock:
            found: list[StagedImage] = []
            for mine_elsewhere in (False, True):
                for image_id in self.images:
                    if len(found) == want:
                        return found
                    if image_id in have or any(image.image_id == image_id for image in found):
                        continue
                    if self._is_free(image_id, annotator, tab, mine_elsewhere) and self._take(image_id, annotator, tab):
                        found.append(self.images[image_id])
            return found

    def take(self, annotator: str, tab: str, image_ids: Sequence[str]) -> list[StagedImage]:
        """Of these pictures those that are free, now held by this tab."""
        with self._lock:
            return [
                self.images[image_id]
                for image_id in image_ids
                if self._is_free(image_id, annotator, tab, mine_elsewhere=True) and self._take(image_id, annotator, tab)
            ]

    def open_to(self, annotator: str, tab: str) -> list[str]:
        """Image ids that this tab could be given now, in the order of the selection."""
        self.refresh()
        with self._lock:
            return [image_id for image_id in self.images if self._is_free(image_id, annotator, tab, True)]

    def hand_back(self, annotator: str, tab: str, image_ids: Collection[str]) -> None:
        """A page that is closed leaves its pictures to others at once."""
        with self._lock:
            for image_id in image_ids:
                if image_id in self.images:
                    self._leases.hand_back(image_id, annotator, tab, self._now())

    def record(self, answer: Answer) -> bool:
        """Keep an answer, however late it comes; durable when this returns. False: it was known already."""
        with self._lock:
            known = self.log.find(answer.event_id) is not None
            written = self.log.append(answer)
            if not known:
                kept = self.log.find(answer.event_id)
                assert kept is not None
                self._take_in(kept)
            if written and answer.kind != "undo":
                self._leases.forget(answer.image_id, answer.annotator, self._now())
            return written

    def is_settled(self, image_id: str) -> bool:
        """Whether a picture has all the answers that it needs."""
        with self._lock:
            return image_id in self._settled

    def is_done(self) -> bool:
        """Whether every picture is settled."""
        with self._lock:
            return len(self._settled) == len(self.images)

    def progress(self, annotator: str) -> Progress:
        """How far the round has come, and this person in it."""
        with self._lock:
            kinds = {image_id: {one.kind for one in by.values()} for image_id, by in self._standing.items() if by}
            labeled = {image_id for image_id, kind in kinds.items() if "label" in kind}
            labeled |= {image_id for image_id in self._elsewhere if image_id in self.images and self._others(image_id)}
            mine = self._mine[annotator]
            open_to_me = len(self.images) - len(self._settled | mine)
            pace = self._pace(annotator)
            return Progress(
                total=len(self.images),
                settled=len(self._settled),
                labeled=len(labeled),
                unsure=sum("unsure" in kind for image_id, kind in kinds.items() if image_id not in labeled),
                bad=sum("bad_image" in kind for image_id, kind in kinds.items() if image_id not in labeled),
                mine=len(mine),
                open_to_me=open_to_me,
                seconds_left=None if pace is None else pace * open_to_me,
            )

    def facts(self, annotator: str) -> dict[str, Any]:
        """`progress` as plain values."""
        return asdict(self.progress(annotator))

    # ------------------------------------------------------------------ inner workings, under the lock
    def _take_in(self, answer: Answer) -> None:
        if answer.image_id not in self.images:
            return  # of a picture that is staged no more; the log keeps it
        self._of_image[answer.image_id].append(answer)
        standing = standing_answers(self._of_image[answer.image_id])
        self._standing[answer.image_id] = {annotator: one for (_, annotator), one in standing.items()}
        stands = answer.annotator in self._standing[answer.image_id]
        (self._mine[answer.annotator].add if stands else self._mine[answer.annotator].discard)(answer.image_id)
        self._settle(answer.image_id)

    def _settle(self, image_id: str) -> None:
        """Look again whether a picture has all the answers that it needs."""
        (self._settled.add if self._is_settled(image_id) else self._settled.discard)(image_id)

    def _take(self, image_id: str, annotator: str, tab: str) -> bool:
        """A picture that is held by this tab already (its page was loaded again) needs no new lease."""
        now = self._now()
        if any((one.annotator, one.tab) == (annotator, tab) for one in self._leases.holders(image_id, now)):
            return True
        return self._leases.take(image_id, annotator, tab, now)

    def _is_free(self, image_id: str, annotator: str, tab: str, mine_elsewhere: bool) -> bool:
        if image_id not in self.images or image_id in self._settled or image_id in self._mine[annotator]:
            return False
        holders = self._leases.holders(image_id, self._now())
        if any(one.annotator == annotator and one.tab != tab for one in holders) and not mine_elsewhere:
            return False
        others = {one.annotator for one in holders if one.annotator != annotator}
        return len(self._voices(image_id) | others) < self._needed(image_id)

    def _voices(self, image_id: str) -> set[str]:
        return {*self._standing.get(image_id, {}), *self._others(image_id)}

    def _others(self, image_id: str) -> Collection[str]:
        """Who labeled it with another tool; a picture under review is asked about again all the same."""
        return () if self.images[image_id].reason == "review" else self._elsewhere.get(image_id, ())

    def _needed(self, image_id: str) -> int:
        """How many people are to answer: one, or `overlap` of them where that is asked for."""
        if self._overlap == 1:
            return 1
        if self._overlap_when == "always":
            return self._overlap
        standing = self._standing.get(image_id, {})
        predicted = self._predicted().get(image_id)
        agreed = standing and all(one.kind == "label" and one.label == predicted for one in standing.values())
        return 1 if agreed or not standing else self._overlap

    def _is_settled(self, image_id: str) -> bool:
        standing = self._standing.get(image_id, {})
        if any(answer.kind == "bad_image" for answer in standing.values()):
            return True  # one look is enough to see that a picture is broken
        return len(self._voices(image_id)) >= self._needed(image_id)

    def _pace(self, annotator: str) -> float | None:
        """Seconds from answer to answer of a person, the median of the last ones: what they read counts, too."""
        mine = (self._standing[image_id][annotator] for image_id in self._mine[annotator])
        recent = heapq.nlargest(RECENT, (one for one in mine if one.milliseconds), key=lambda one: one.at)
        return statistics.median(one.milliseconds / 1000 for one in recent) if recent else None
