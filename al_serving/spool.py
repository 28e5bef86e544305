"""The spool: rows on their way to the stores lie here as files until they have arrived.

A segment is one Arrow IPC file, written under a temporary name, synced and renamed, so that it is there as a
whole or not at all. Each process works in a numbered folder of its own, held by a lock that the operating
system releases when the process dies; what a dead process left behind is taken over by the next that starts.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

import pyarrow as pa
from filelock import FileLock, Timeout

from al_core.records import PREDICTIONS, REJECTED_IMAGES, fitted, new_ids
from al_resources.durable import make_folder, sync

Kind = Literal["predictions", "rejections"]

LOGGER = logging.getLogger(__name__)
UNREADABLE = ".unreadable"
# a prediction on its way: with its file, and what the client calls it
SEGMENT = PREDICTIONS.append(pa.field("image", pa.large_binary())).append(pa.field("name", pa.string()))


class Spool:
    """The segments of one process below `folder`, oldest first."""

    def __init__(self, folder: Path) -> None:
        make_folder(folder)
        self._lock = _claim_free_folder(folder)
        self.folder = Path(self._lock.lock_file).parent
        self._adopt_orphans(folder)

    def add(self, kind: Kind, rows: pa.Table) -> Path:
        """Keep `rows`; when this returns, they survive the end of the process and of the machine."""
        segment = self.folder / f"{new_ids(1)[0]}-{kind}.arrow"
        unfinished = segment.with_suffix(".part")
        try:
            with unfinished.open("wb") as file, pa.ipc.new_file(file, rows.schema) as writer:
                writer.write_table(rows)
            sync(unfinished)
            unfinished.replace(segment)
        except OSError:  # a full disk, mostly: half a segment would take what is freed
            unfinished.unlink(missing_ok=True)
            raise
        sync(self.folder)
        return segment

    def segments(self) -> list[Path]:
        """What waits, oldest first: the names begin with a time-ordered id."""
        return sorted(self.folder.glob("*.arrow"))

    def set_aside(self, segment: Path) -> Path:
        """Put a segment that no store will ever take out of the way, kept for a person to look at."""
        return segment.rename(segment.with_name(segment.name + UNREADABLE))

    def close(self) -> None:
        """Let go of the folder; what still waits is taken over by the next spool that opens here."""
        self._lock.release()

    def _adopt_orphans(self, folder: Path) -> None:
        for other in sorted(path for path in folder.iterdir() if path.is_dir() and path != self.folder):
            try:
                with FileLock(other / "lock").acquire(blocking=False):
                    for segment in other.glob("*.arrow"):
                        segment.rename(self.folder / segment.name)
                    for unfinished in other.glob("*.part"):
                        unfinished.unlink()
            except Timeout:
                continue  # its process is alive
        for unfinished in self.folder.glob("*.part"):
            unfinished.unlink()  # cut off while it was written: no whole segment, nothing to read
        if waiting := len(self.segments()):
            LOGGER.warning("%d segments of an earlier process wait in %s", waiting, self.folder)


def read_segment(segment: Path) -> pa.Table:
    """The rows of a segment, also of one that an earlier version left behind.

    Raises:
        pyarrow.ArrowInvalid: the file is damaged.
    """
    rows = pa.ipc.open_file(pa.py_buffer(segment.read_bytes())).read_all()
    return fitted(rows, REJECTED_IMAGES if kind_of(segment) == "rejections" else SEGMENT)


def names_in(rows: pa.Table) -> list[tuple[str, str]]:
    """(name, image id) of the rows of a segment whose image has a name, each once."""
    pairs = zip(rows["name"].to_pylist(), rows["image_id"].to_pylist(), strict=True)
    return [pair for pair in dict.fromkeys(pairs) if pair[0]]


def waiting(folder: Path) -> tuple[int, int]:
    """How many segments below a spool's folder wait for a store, and how many wait for a person."""
    return len(list(folder.glob("*/*.arrow"))), len(list(folder.glob(f"*/*.arrow{UNREADABLE}")))


def kind_of(segment: Path) -> Kind:
    """What a segment holds, as its name says."""
    return "rejections" if segment.stem.endswith("-rejections") else "predictions"


def _claim_free_folder(folder: Path) -> FileLock:
    """The lock of the first numbered folder nobody works in."""
    number = 0
    while True:
        make_folder(folder / str(number))
        lock = FileLock(folder / str(number) / "lock", thread_local=False)  # closed by another thread, maybe
        try:
            lock.acquire(blocking=False)
        except Timeout:
            number += 1
        else:
            return lock
