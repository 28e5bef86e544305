"""Files that survive a power cut: written, synced, renamed, and their folder synced.

A rename alone is not enough: the file system may write the new name before the content, and after a cut there is a
file of 0 bytes under it. All files of the local stores that are published go through here.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_file(target: Path, data: bytes) -> None:
    """Put `data` in the place of `target`; when this returns, it is on the disk.

    Readers and crashes see the old file or the new one, never half. Raises `OSError`; nothing is left then.
    """
    with beside(target) as temporary:
        temporary.write_bytes(data)
        sync(temporary)
        temporary.replace(target)
        sync(target.parent)


@contextmanager
def beside(target: Path) -> Iterator[Path]:
    """A name in the folder of `target`, which is made where it is missing; what is left there in the end is removed."""
    make_folder(target.parent)
    temporary = target.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it that are missing, each noted on the disk."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync(folder.parent)


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's names, are on the disk."""
    if path.is_dir() and os.name != "posix":  # there folders cannot be opened, and renames are durable by themselves
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
