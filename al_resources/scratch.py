"""Folders for what a process needs while it works: below the home, and gone when the process is, killed or not."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def scratch_folder(below: Path, prefix: str) -> Iterator[Path]:
    """A folder `<prefix>...` of our own; those whose process has died without removing theirs are removed first.

    Which they are is told by a lock that the operating system lets go of, not by a clock.
    """
    below.mkdir(parents=True, exist_ok=True)
    with FileLock(below / f".{prefix}.lock"):  # nobody takes a folder for left behind before it is locked
        for left_behind in below.glob(f"{prefix}*"):
            _remove_if_free(left_behind)
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=below))
        ours = FileLock(folder / "lock", thread_local=False)
        ours.acquire()
    try:
        yield folder
    finally:
        ours.release()
        shutil.rmtree(folder, ignore_errors=True)


def _remove_if_free(folder: Path) -> None:
    try:
        with FileLock(folder / "lock").acquire(blocking=False):
            shutil.rmtree(folder, ignore_errors=True)
    except (Timeout, OSError):  # its process is alive, or the folder is gone by now
        return
