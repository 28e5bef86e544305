"""The blob store: raw images, staged batches, exports, datasets, models. A local folder or an Azure container."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem


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

    def list(self, prefix: str) -> Iterator[BlobInfo]:
        """All blobs below a folder, in the order of their paths; nothing where the folder is missing."""

    def delete(self, path: str) -> None:
        """Remove a blob; one that is missing is no error."""

    def copy(self, source: str, target: str) -> None:
        """Copy within the store."""

    def url(self, path: str) -> str:
        """The address to show to people and to store as `image_uri`."""
