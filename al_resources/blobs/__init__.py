"""The blob store: raw images, staged batches, exports, datasets, models. A local folder or an Azure container."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from al_core.picture_files import printable

LOGGER = logging.getLogger(__name__)
LONGEST_PATH = 1_024  # characters; what Azure takes, and local file systems with it
_UNFIT = re.compile(r"[\\\x00-\x1f\x7f]")  # backslashes and control characters


def warn_of_unfit(path: str, reason: str) -> None:
    """Log that a file is left out of a listing."""
    LOGGER.warning("left out of the listing: %r: %s", path, reason)


def is_fit(path: str, unfit: Callable[[str, str], None] = warn_of_unfit) -> bool:
    """Whether a file that others put into the store can be a blob; one that cannot must not stop a listing."""
    reason = _why_unfit(path)
    if reason is not None:
        unfit(printable(path), reason)
    return reason is None


def _why_unfit(path: str) -> str | None:
    if _UNFIT.search(path):
        return "its name holds a backslash or control character; rename it"
    try:
        path.encode()
    except UnicodeEncodeError:  # a file system may hold any bytes, a ledger only text
        return "its name is no UTF-8; rename it"
    return None


@dataclass(frozen=True)
class BlobInfo:
    """One blob as a listing shows it; `path@etag` names one content of it."""

    path: str  # relative to the store, with forward slashes
    etag: str
    size: int  # bytes
    modified_at: datetime


class BlobStore(Protocol):
    """What every blob store can do. Paths are relative, with forward slashes; `..` and absolute ones are refused."""

    def read(self, path: str) -> bytes:
        """The blob's bytes. Raises `FileNotFoundError`."""

    def write(self, path: str, data: bytes, *, if_absent: bool = False) -> bool:
        """Write atomically: a reader sees the old or the new blob, never half. False: it was there (if_absent)."""

    def exists(self, path: str) -> bool:
        """Whether the blob is there."""

    def info(self, path: str) -> BlobInfo:
        """Raises `FileNotFoundError`."""

    def list(
        self, prefix: str, *, but: Set[str] = frozenset(), unfit: Callable[[str, str], None] = warn_of_unfit
    ) -> Iterator[BlobInfo]:
        """All blobs below a folder, in the order of their paths; nothing where the folder is missing.

        `but`: paths that the caller can do without. A store that has to ask for each blob leaves them out.
        `unfit`: hears of each file that others put there and that is no blob: its path, and why.
        """

    def folders(self, prefix: str) -> Sequence[str]:
        """The names of the folders right below a folder, in order. A store may tell one that is empty."""

    def delete(self, path: str) -> None:
        """Remove a blob; one that is missing is no error."""

    def copy(self, source: str, target: str) -> None:
        """Copy within the store."""

    def url(self, path: str) -> str:
        """The address to show to people and to store as `image_uri`."""


TEMPORARY = re.compile(r"\.[0-9a-f]{16}\.tmp")  # files in the middle of being written; no blob is called so


def checked_path(path: str) -> str:
    """`path`, if it can only lead to a place inside the store."""
    segments = path.split("/")
    if len(path) > LONGEST_PATH:
        raise ValueError(
            f"blob path {path[:50]!r}... has {len(path):,} characters, at most {LONGEST_PATH:,} are possible"
        )
    if _UNFIT.search(path):
        raise ValueError(f"blob path {path!r} holds a backslash or control character; use forward slashes")
    if any(segment in ("", ".", "..") for segment in segments):
        raise ValueError(f"blob path {path!r} is not relative; expected names joined by '/', without '.' or '..'")
    if TEMPORARY.fullmatch(segments[-1]):
        raise ValueError(f"blob path {path!r} is named like a file in the middle of being written")
    return path
