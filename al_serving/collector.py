"""The collector: every answer ends up in the log, its image in the image store, and nobody waits for it.

A request appends to a queue in memory. One thread turns the queue into segments of the spool (see
`al_serving.spool`), another delivers segments to the stores, oldest first, as often as it takes.

With durability "answer" nobody is answered before a segment on the disk holds the answer: whatever waits while one
segment is synced goes into the next one together (group commit). With "interval" a process that is killed loses the
answers of its last `flush_seconds`, which no segment held yet. Whatever reached a segment survives the process, a power
cut, a store that is away, and a store that failed after it had written: before anything is sent a second time the log
is asked which predictions it has already. Where the spool cannot be written, or the disk is nearly full, nothing more
is taken: better no answer than one that no log will know.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from al_core.records import (
    PREDICTIONS,
    REJECTED_IMAGES,
    UTC_MICROSECONDS,
    Source,
    prediction_table,
    table_of,
    utc_now,
)
from al_resources.forgotten import without_forgotten
from al_resources.image_names import record_names
from al_serving.handed_over import hand_over
from al_serving.spool import SEGMENT, Spool, kind_of, names_in, read_segment

if TYPE_CHECKING:
    from typing import Self

    from al_resources.blobs import BlobStore
    from al_resources.image_store import ImageStore
    from al_resources.ledgers import Ledgers
    from al_resources.platform import Platform
    from al_resources.prediction_store import PredictionStore

LOGGER = logging.getLogger(__name__)
SERVICE = "service"  # where the names came from, in their ledger
IMAGE_WRITERS = 32  # images written at once: a container answers each in tens of milliseconds
DELIVERED_ROWS, DELIVERED_BYTES = 5_000, 64_000_000  # at once, when so much waits: what was slow catches up
FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS = 0.5, 30.0
LONGEST_REASON = 500  # characters, in the ledger
LEAST_FREE_BYTES = 64 << 20  # on the spool's disk, for what was promised and its way into the stores
LOOK_AT_DISK_SECONDS = 0.5


class CollectorFull(Exception):
    """Neither memory nor the spool has room: answer 503 instead of an answer that no log will know."""


@dataclass(frozen=True)
class Prediction:
    """One answer on its way to the log."""

    image: bytes  # the file as it came
    image_id: str
    image_hash: str | None
    model_name: str
    model_version: int
    classes: tuple[str, ...]
    probs: np.ndarray  # (C,) float32
    source: Source
    embedding: np.ndarray | None = None  # (d,) float32
    latency_ms: float | None = None
    answered_at: datetime = field(default_factory=utc_now)
    prediction_id: str | None = None  # of a batch that may be done again; None: a new one
    name: str | None = None  # under which the client knows it


@dataclass(frozen=True)
class Rejection:
    """One image that could not be scored."""

    name: str
    reason: str
    source: Source
    rejected_at: datetime = field(default_factory=utc_now)


@dataclass(frozen=True)
class CollectorCounts:
    """What the collector did since it started."""

    queued: int  # in memory now
    spooled: int  # rows in segments now
    written: int  # rows that arrived in the stores
    failures: int  # attempts that failed and are repeated
    set_aside: int  # segments no store takes; they lie in the spool for a person


class Collector:
    """Logs predictions and rejected images in the background; `close` it to hand over what waits."""

    def __init__(
        self,
        predictions: PredictionStore,
        images: ImageStore,
        ledgers: Ledgers,
        spool: Path,
        *,
        flush_rows: int = 500,
        flush_seconds: float = 2.0,
        queue_rows: int = 20_000,
        queue_bytes: int = 512_000_000,
        spool_bytes: int = 10_000_000_000,
        lasting: BlobStore | None = None,
        durability: Literal["answer", "interval"] = "interval",
        least_free_bytes: int = LEAST_FREE_BYTES,
    ) -> None:
        self._predictions = predictions
        self._images = images
        self._ledgers = ledgers
        self._spool = Spool(spool)
        self._flush_rows = flush_rows
        self._flush_seconds = flush_seconds
        self._queue_rows = queue_rows
        self._queue_bytes = queue_bytes
        self._spool_bytes = spool_bytes
        self._lasting = lasting  # takes segments that the log does not take, where this disk goes with the container
        self._durability = durability
        self._least_free_bytes = least_free_bytes
        self._trouble: str | None = None  # why the spool could not be written at the last attempt
        self._low_disk: str | None = None
        self._looked_at_disk = float("-inf")

        self._changed = threading.Condition()
        self._queue: deque[tuple[float, Prediction | Rejection]] = deque()
        self._bytes = 0
        self._spooling = 0  # rows taken from the queue that no segment holds yet
        self._hurry = False  # flush() waits: do not let the rows grow old first
        self._closing = False
        self._offered = self._kept = 0  # rows so far, and how many of them the spool holds or held
        self._waiters: deque[tuple[int, Future[None]]] = deque()  # who is told when so many rows are kept
        self._segments = {path: _rows_in(path) for path in self._spool.segments()}
        self._sizes = {path: _bytes_in(path) for path in self._segments}
        self._oldest = dict.fromkeys(self._segments, float("-inf"))  # when the first row of a segment was offered
        self._tried = set(self._segments)  # may be in the stores already
        self._written = self._failures = self._set_aside = 0

        self._writers = ThreadPoolExecutor(IMAGE_WRITERS, "al-images")
        self._spooler = threading.Thread(target=self._spool_forever, name="al-spooler", daemon=True)
        self._deliverer = threading.Thread(target=self._deliver_forever, name="al-deliverer", daemon=True)
        self._spooler.start()
        self._deliverer.start()

    @classmethod
    def of(cls, platform: Platform) -> Collector:
        """The collector of this process, writing to the platform's stores."""
        settings = platform.settings.serving
        return cls(
            platform.predictions,
            platform.images,
            platform.ledgers,
            platform.settings.home / "spool",
            flush_rows=settings.flush_rows,
            flush_seconds=settings.flush_seconds,
            queue_rows=settings.queue_rows,
            spool_bytes=settings.spool_bytes,
            lasting=None if platform.profile.disk_lasts else platform.blobs,
            durability=settings.durability,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close(timeout=60.0)

    @property
    def full(self) -> bool:
        """Whether another row would be refused."""
        return self._no_room() or self.trouble is not None

    @property
    def trouble(self) -> str | None:
        """Why nothing can be promised now: the disk of the spool, in words; None where all is well."""
        if time.monotonic() - self._looked_at_disk > LOOK_AT_DISK_SECONDS:
            self._looked_at_disk = time.monotonic()
            free = shutil.disk_usage(self._spool.folder).free
            self._low_disk = (
                f"only {free / 1e6:.0f} MB are free at {self._spool.folder}, at least "
                f"{self._least_free_bytes / 1e6:.0f} MB are kept for what was promised; make room"
                if free < self._least_free_bytes
                else None
            )
        return self._trouble or self._low_disk or self._spool_is_full()

    def _spool_is_full(self) -> str | None:
        waiting = sum(list(self._sizes.values()))  # a copy: other threads put segments in and take them out
        if waiting < self._spool_bytes:
            return None
        return (
            f"{len(self._sizes)} segments of {waiting / 1e6:.1f} MB wait in {self._spool.folder} for the stores, and "
            f"serving.spool_bytes allows {self._spool_bytes / 1e6:.1f} MB; are the stores away?"
        )

    def _no_room(self) -> bool:
        return len(self._queue) >= self._queue_rows or self._bytes >= self._queue_bytes

    def offer(self, predictions: Sequence[Prediction]) -> None:
        """Take answers over; never waits for a store or a disk. Raises `CollectorFull`."""
        self._take(predictions)

    def kept(self) -> Future[None]:
        """Done when the answers offered so far are safe, as far as `durability` promises it.

        Its exception is `CollectorFull` where the spool cannot be written: do not answer then.
        """
        safe: Future[None] = Future()
        with self._changed:
            if self._durability == "answer" and self._kept < self._offered:
                self._waiters.append((self._offered, safe))
                self._changed.notify_all()
                return safe
        safe.set_result(None)
        return safe

    def reject(self, rejection: Rejection) -> None:
        """Take over an image that could not be scored. Raises `CollectorFull`."""
        self._take([rejection])

    def wait_for_room(self, timeout: float) -> bool:
        """For callers that can wait, unlike a request: whether there is room again."""
        with self._changed:
            return self._changed.wait_for(lambda: not self.full, timeout)

    def flush(self, timeout: float = 30.0) -> bool:
        """Wait until all rows offered so far are in the stores; false where that took longer."""
        with self._changed:
            self._hurry = True
            self._changed.notify_all()
            arrived = self._changed.wait_for(
                lambda: not self._queue and not self._spooling and not self._segments, timeout
            )
            self._hurry = False
            return arrived

    def close(self, timeout: float = 10.0) -> None:
        """Deliver what waits; what does not arrive in time stays in the spool for the next start."""
        self.flush(timeout)
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._spooler.join()
        with self._changed:
            self._changed.notify_all()  # the deliverer waits for the spooler's end
        self._deliverer.join(timeout)
        if left := sorted(self._segments):  # a deliverer that hangs in a store may still send them: known by their ids
            self._hand_over(left, forget=not self._deliverer.is_alive())
        self._writers.shutdown(wait=False, cancel_futures=True)
        if not self._deliverer.is_alive():  # else a store hangs: the lock is held until the process ends
            self._spool.close()
        if counts := self.counts().spooled:
            LOGGER.warning("%d rows wait in %s for the next start", counts, self._spool.folder)

    def counts(self) -> CollectorCounts:
        """How things stand, for the metrics."""
        with self._changed:
            return CollectorCounts(
                queued=len(self._queue) + self._spooling,
                spooled=sum(self._segments.values()),
                written=self._written,
                failures=self._failures,
                set_aside=self._set_aside,
            )

    # ------------------------------------------------------------------ memory -> spool

    def _take(self, rows: Sequence[Prediction | Rejection]) -> None:
        now = time.monotonic()
        with self._changed:
            if self.full or self._closing:
                waiting = f"{len(self._queue)} rows ({self._bytes / 1e6:.0f} MB) wait for {self._spool.folder}"
                raise CollectorFull(waiting if (trouble := self.trouble) is None else f"{waiting}: {trouble}")
            self._queue.extend((now, row) for row in rows)
            self._offered += len(rows)
            self._bytes += sum(len(row.image) for row in rows if isinstance(row, Prediction))
            if len(self._queue) == len(rows) or len(self._queue) >= self._flush_rows:
                self._changed.notify_all()

    def _spool_forever(self) -> None:
        while (taken := self._next_rows()) is not None:
            oldest, rows = taken
            try:
                segments = self._write_segments(rows)
                sizes = {segment: _bytes_in(segment) for segment in segments}
            except OSError as error:
                LOGGER.exception(
                    "The spool %s cannot be written; %d rows stay in memory", self._spool.folder, len(rows)
                )
                self._give_back(oldest, rows, error)
                if self._closing:
                    return
                time.sleep(FIRST_RETRY_SECONDS)
                continue
            with self._changed:
                self._trouble = None
                self._segments.update(segments)
                self._sizes.update(sizes)
                self._oldest |= dict.fromkeys(segments, oldest)
                self._spooling = 0
                self._kept += len(rows)
                safe = self._waiters_up_to(self._kept)
                self._changed.notify_all()
            for waiter in safe:
                waiter.set_result(None)

    def _waiters_up_to(self, rows: int) -> list[Future[None]]:
        waiters = []
        while self._waiters and self._waiters[0][0] <= rows:
            waiters.append(self._waiters.popleft()[1])
        return waiters

    def _next_rows(self) -> tuple[float, list[Prediction | Rejection]] | None:
        """The next rows to spool and since when the oldest waits; None at the end.

        As soon as somebody waits for them, there are enough, or the oldest is old enough.
        """
        with self._changed:
            while not (self._queue and (self._waiters or self._hurry)) and not (
                self._closing or len(self._queue) >= self._flush_rows
            ):
                wait = None
                if self._queue:
                    wait = self._queue[0][0] + self._flush_seconds - time.monotonic()
                    if wait <= 0:
                        break
                self._changed.wait(wait)
            if not self._queue:
                return None
            oldest = self._queue[0][0]
            rows = [self._queue.popleft()[1] for _ in range(min(self._flush_rows, len(self._queue)))]
            self._bytes -= sum(len(row.image) for row in rows if isinstance(row, Prediction))
            self._spooling = len(rows)
            return oldest, rows

    def _write_segments(self, rows: list[Prediction | Rejection]) -> dict[Path, int]:
        predictions = [row for row in rows if isinstance(row, Prediction)]
        rejections = [row for row in rows if isinstance(row, Rejection)]
        segments = {}
        if predictions:
            segments[self._spool.add("predictions", _segment_table(predictions))] = len(predictions)
        if rejections:
            segments[self._spool.add("rejections", _rejection_table(rejections))] = len(rejections)
        return segments

    def _give_back(self, oldest: float, rows: list[Prediction | Rejection], error: OSError) -> None:
        with self._changed:
            self._queue.extendleft((oldest, row) for row in reversed(rows))
            self._bytes += sum(len(row.image) for row in rows if isinstance(row, Prediction))
            self._spooling = 0
            self._failures += 1
            self._trouble = f"the spool {self._spool.folder} cannot be written: {error}"
            refused = self._waiters_up_to(self._offered)
        for waiter in refused:
            waiter.set_exception(CollectorFull(self._trouble))

    # ------------------------------------------------------------------ spool -> stores

    def _deliver_forever(self) -> None:
        pause = FIRST_RETRY_SECONDS
        together = True
        while (segments := self._next_segments(together)) is not None:
            try:
                self._deliver(segments)
            except (
                pa.ArrowInvalid,
                ValueError,
                TypeError,
            ) as error:  # the rows themselves: repeating is no use
                self._tried.update(segments)
                if len(segments) == 1:
                    self._set_segment_aside(segments[0], error)
                together = len(segments) == 1  # find the bad one
            except Exception:  # whatever an adapter raises, the rows are kept and sent again
                LOGGER.exception("%d segments could not be delivered; again in %.1f s", len(segments), pause)
                self._tried.update(segments)
                if self._hand_over(segments):
                    continue
                with self._changed:
                    self._failures += 1
                    self._changed.wait_for(lambda: self._closing, pause)
                    if self._closing:
                        return
                pause = min(2 * pause, LAST_RETRY_SECONDS)
            else:
                pause = FIRST_RETRY_SECONDS
                together = True
                self._forget(segments, arrived=True)

    def _next_segments(self, together: bool) -> list[Path] | None:
        """The oldest segments of one kind, as many as may go together; None when closing with nothing left."""
        with self._changed:
            while not self._is_time_to_deliver():
                self._changed.wait(self._flush_seconds if self._segments else None)
            if not self._segments:
                return None
            waiting = sorted(self._segments)
            _, same_kind = next(groupby(waiting, kind_of))
            chosen: list[Path] = []
            rows = size = 0
            for segment in same_kind:
                rows += self._segments[segment]
                size += _bytes_in(segment)
                if chosen and (not together or rows > DELIVERED_ROWS or size > DELIVERED_BYTES):
                    break
                chosen.append(segment)
            return chosen

    def _is_time_to_deliver(self) -> bool:
        """Segments that were written early, because somebody waited for them, go to the stores together."""
        if not self._segments:
            return self._closing and not self._spooler.is_alive()
        old = time.monotonic() - min(self._oldest.values()) >= self._flush_seconds
        return old or self._closing or self._hurry or sum(self._segments.values()) >= self._flush_rows

    def _deliver(self, segments: list[Path]) -> None:
        rows = pa.concat_tables([read_segment(segment) for segment in segments])
        if kind_of(segments[0]) == "rejections":
            self._ledgers.insert_new("rejected_images", rows, on=["name", "reason", "source"])
            return
        rows = without_forgotten(rows, self._ledgers)  # answered, but neither its picture nor its prediction is kept
        names = names_in(rows)  # of all rows: the log may have them from an attempt that ended before their names
        if not self._tried.isdisjoint(segments):
            rows = self._unknown_to_the_log(rows)
        if rows.num_rows:
            self._predictions.append(self._with_stored_images(rows))
        record_names(self._ledgers, names, SERVICE)

    def _unknown_to_the_log(self, rows: pa.Table) -> pa.Table:
        known = self._predictions.rows_of(rows["image_id"].unique().to_pylist(), ["prediction_id"])
        return rows.filter(pc.invert(pc.is_in(rows["prediction_id"], known["prediction_id"].combine_chunks())))

    def _with_stored_images(self, rows: pa.Table) -> pa.Table:
        """Store each image once and write its address into its rows."""
        files = list(dict(zip(rows["image_id"].to_pylist(), rows["image"].to_pylist(), strict=True)).items())
        # A task per writer, not per image: in a local folder handing out tasks takes longer than doing them.
        shares = (files[writer::IMAGE_WRITERS] for writer in range(IMAGE_WRITERS))
        uris = {image_id: uri for stored in self._writers.map(self._store_images, shares) for image_id, uri in stored}
        addresses = pa.array([uris[image_id] for image_id in rows["image_id"].to_pylist()], pa.string())
        rows = rows.drop_columns(["image", "name"])
        return rows.set_column(rows.schema.get_field_index("image_uri"), PREDICTIONS.field("image_uri"), addresses)

    def _store_images(self, files: list[tuple[str, bytes]]) -> list[tuple[str, str]]:
        return [(image_id, self._images.put(data).uri) for image_id, data in files]

    def _hand_over(self, segments: list[Path], *, forget: bool = True) -> bool:
        """Into the blob store, from where `prediction_log` delivers them; false where that is away as well."""
        if self._lasting is None:
            return False
        try:
            for segment in segments:
                hand_over(self._lasting, segment)
        except Exception:  # whatever an adapter raises, the segments are here and sent again
            LOGGER.exception("%d segments could not be handed over to the blob store", len(segments))
            return False
        LOGGER.warning("%d segments were handed over to the blob store, for prediction_log to deliver", len(segments))
        with self._changed:
            self._failures += 1
        if forget:
            self._forget(segments, arrived=False)
        return True

    def _set_segment_aside(self, segment: Path, error: Exception) -> None:
        LOGGER.error("%s", f"No store takes {self._spool.set_aside(segment)}: {error}")
        with self._changed:
            self._set_aside += 1
        self._forget([segment], arrived=False)

    def _forget(self, segments: list[Path], *, arrived: bool) -> None:
        for segment in segments:
            segment.unlink(missing_ok=True)
        with self._changed:
            for segment in segments:
                rows = self._segments.pop(segment)
                del self._oldest[segment], self._sizes[segment]
                self._written += rows if arrived else 0
            self._changed.notify_all()
        self._tried.difference_update(segments)


def _rows_in(segment: Path) -> int:
    """How many rows a segment holds; 0 where it cannot be read, which its delivery will find out."""
    try:
        return read_segment(segment).num_rows
    except pa.ArrowInvalid:
        return 0


def _bytes_in(segment: Path) -> int:
    """Its size; 0 where it is gone, which its delivery will find out."""
    return segment.stat().st_size if segment.is_file() else 0


def _segment_table(predictions: Sequence[Prediction]) -> pa.Table:
    """Rows of `SEGMENT`; what one model answered is built together."""

    def model_of(row: Prediction) -> tuple[Any, ...]:
        named = row.prediction_id is not None
        return row.model_name, row.model_version, row.classes, row.source, row.embedding is None, named

    tables = []
    for _, group in groupby(sorted(predictions, key=model_of), model_of):
        rows = list(group)
        first = rows[0]
        table = prediction_table(
            image_ids=[row.image_id for row in rows],
            image_uris=[""] * len(rows),  # known when the image is stored
            image_hashes=[row.image_hash for row in rows],
            model_name=first.model_name,
            model_version=first.model_version,
            classes=first.classes,
            probs=np.stack([row.probs for row in rows]),
            source=first.source,
            embeddings=None if first.embedding is None else np.stack([_embedding(row) for row in rows]),
            latency_ms=[row.latency_ms for row in rows],
        )
        if all(row.prediction_id is not None for row in rows):
            own = pa.array([row.prediction_id for row in rows], pa.string())
            table = table.set_column(0, PREDICTIONS.field("prediction_id"), own)
        answered_at = pa.array([row.answered_at for row in rows], UTC_MICROSECONDS)
        table = table.set_column(table.schema.get_field_index("logged_at"), PREDICTIONS.field("logged_at"), answered_at)
        table = table.append_column(SEGMENT.field("image"), pa.array([row.image for row in rows], pa.large_binary()))
        tables.append(table.append_column(SEGMENT.field("name"), pa.array([row.name for row in rows], pa.string())))
    return pa.concat_tables(tables)


def _embedding(row: Prediction) -> np.ndarray:
    assert row.embedding is not None
    return row.embedding


def _rejection_table(rejections: Sequence[Rejection]) -> pa.Table:
    return table_of(
        REJECTED_IMAGES,
        [
            {
                "name": row.name,
                "reason": row.reason[:LONGEST_REASON],
                "source": row.source,
                "rejected_at": row.rejected_at,
            }
            for row in rejections
        ],
    )
