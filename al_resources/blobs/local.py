"""The blob store: raw images, staged batches, exports, datasets, models. A local folder or an Azure container."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

from al_core.picture_files import printable
from al_resources.blobs import TEMPORARY, BlobInfo, checked_path, is_fit, warn_of_unfit
from al_resources.durable import beside, sync

LOGGER = logging.getLogger(__name__)


class FsspecBlobStore:
    """`BlobStore` on fsspec: a local folder, or an object store by its URL. Azure's is in `azure_blobs`.

    Object stores write whole objects by themselves. In a local folder a blob is written beside its place, synced and
    moved there, so that it survives a power cut; creating only works through a hard link, so the file system has to
    know these.
    """

    def __init__(self, root: Path | str, **options: Any) -> None:
        """`options` go to the file system: credentials, account, host."""
        from fsspec.core import url_to_fs

        # Others write to the same store: what a listing said a moment ago must not be remembered.
        self._fs: AbstractFileSystem
        self._fs, self._root = url_to_fs(str(root), use_listings_cache=False, **options)
        self._local = "file" in self._fs.protocol
        self._real_root = os.path.realpath(self._root) if self._local else ""

    def read(self, path: str) -> bytes:
        """The blob's bytes. Raises `FileNotFoundError`."""
        with _missing_is_missing(path):
            return bytes(self._fs.cat_file(self._found(path)))

    def write(self, path: str, data: bytes, *, if_absent: bool = False) -> bool:
        """Write atomically; False: the blob was there already (`if_absent`), and stays as it was."""
        full = self._full(path)
        if if_absent and self.exists(path):
            return False  # known already: the bytes need not travel
        if self._local:
            with beside(Path(full)) as temporary:
                temporary.write_bytes(data)
                return _move(temporary, Path(full), if_absent=if_absent)
        try:
            self._fs.pipe_file(full, data, mode="create" if if_absent else "overwrite")
        except FileExistsError:
            return False
        return True

    def exists(self, path: str) -> bool:
        """Whether the blob is there."""
        with suppress(FileNotFoundError):
            return bool(self._fs.isfile(self._found(path)))
        return False

    def info(self, path: str) -> BlobInfo:
        """Raises `FileNotFoundError`."""
        with _missing_is_missing(path):
            full = self._found(path)
            if self._local:
                return _local_info(path, Path(full).stat())
            details = self._fs.info(full)
        if details["type"] != "file":
            raise FileNotFoundError(f"there is no blob {path!r}")
        return self._object_info(path, details)

    def list(
        self, prefix: str, *, but: Set[str] = frozenset(), unfit: Callable[[str, str], None] = warn_of_unfit
    ) -> Iterator[BlobInfo]:
        """All blobs below a folder, in the order of their paths; of those in `but` a local folder asks nothing."""
        folder = self._full(prefix) if prefix else self._root
        if self._local:
            return _local_list(folder, f"{prefix}/" if prefix else "", self._real_root, but, unfit)
        found = self._fs.find(folder, detail=True)
        return (
            self._object_info(full[len(self._root) :].lstrip("/"), found[full])
            for full in sorted(found)
            if full != folder and is_fit(full, unfit)
        )

    def folders(self, prefix: str) -> Sequence[str]:
        """The names of the folders right below a folder, in order; one that was emptied is told, too."""
        folder = self._full(prefix) if prefix else self._root
        if self._local:
            return _local_folders(folder)
        found = self._fs.ls(folder, detail=True) if self._fs.isdir(folder) else []
        return sorted(one["name"].rstrip("/").rpartition("/")[2] for one in found if one["type"] == "directory")

    def delete(self, path: str) -> None:
        """Remove a blob; one that is missing is no error."""
        with suppress(FileNotFoundError):
            self._fs.rm_file(self._full(path))

    def copy(self, source: str, target: str) -> None:
        """Copy within the store. Raises `FileNotFoundError`."""
        origin, full = self._found(source), self._full(target)
        if not self.exists(source):
            raise FileNotFoundError(f"there is no blob {source!r}")
        with _missing_is_missing(source):
            if not self._local:
                self._fs.cp_file(origin, full)
                return
            with beside(Path(full)) as temporary:
                shutil.copyfile(origin, temporary)
                _move(temporary, Path(full), if_absent=False)

    def url(self, path: str) -> str:
        """The address to show to people and to store as `image_uri`."""
        full = self._full(path)
        return Path(full).as_uri() if self._local else str(self._fs.unstrip_protocol(full))

    def _full(self, path: str) -> str:
        full = f"{self._root.rstrip('/')}/{checked_path(path)}"
        if self._local and not _is_inside(full.rpartition("/")[0], self._real_root):
            raise ValueError(f"blob path {path!r} leads out of the store through a link; put the folder itself there")
        return full

    def _found(self, path: str) -> str:
        """Where a blob lies. Raises `FileNotFoundError` where a link leads out of the store: others put it there."""
        full = f"{self._root.rstrip('/')}/{checked_path(path)}"
        if self._local and not _is_inside(full, self._real_root):
            raise FileNotFoundError(f"there is no blob {path!r}: a link there leads out of the store")
        return full

    def _object_info(self, path: str, details: dict[str, Any]) -> BlobInfo:
        full = details["name"]
        etag = details.get("etag")
        if etag is None:  # a store that names no version: its content does
            etag = hashlib.blake2b(self._fs.cat_file(full), digest_size=8).hexdigest()
        modified = details.get("last_modified") or self._fs.modified(full)
        return BlobInfo(path, etag.strip('"'), details["size"], modified.astimezone(UTC))


@contextmanager
def _missing_is_missing(path: str) -> Iterator[None]:
    """A folder is no blob, and neither is anything below a file."""
    try:
        yield
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise FileNotFoundError(f"there is no blob {path!r}") from error
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        raise FileNotFoundError(f"there is no blob {path[:50]!r}...: no file has a name that long") from error


# ---------------------------------------------------------------------- a local folder
def _move(temporary: Path, target: Path, *, if_absent: bool) -> bool:
    """Give the synced file its name, for good. Its time is set, and later than that of what it replaces.

    The system's own time stamps stand still for milliseconds: two writes within would have the same etag.
    """
    now = time.time_ns()
    with suppress(FileNotFoundError):
        now = max(now, target.stat().st_mtime_ns + 1)
    os.utime(temporary, ns=(now, now))
    sync(temporary)
    if not if_absent:
        temporary.replace(target)
    else:
        try:
            os.link(temporary, target)
        except FileExistsError:
            return False
    sync(target.parent)
    return True


def _local_info(path: str, status: os.stat_result) -> BlobInfo:
    if not stat.S_ISREG(status.st_mode):
        raise FileNotFoundError(f"there is no blob {path!r}")
    # A file that was moved or copied here with its old time is new all the same: that is its change time. One that
    # took the place of another of the same size and time is another file, or was changed later.
    modified = max(status.st_mtime, status.st_ctime)
    return BlobInfo(
        path=path,
        etag=f"{status.st_mtime_ns:x}-{status.st_size:x}-{status.st_ino:x}-{status.st_ctime_ns:x}",
        size=status.st_size,
        modified_at=datetime.fromtimestamp(modified, UTC),
    )


def _is_inside(path: str, root: str) -> bool:
    """Whether a path leads into the store when links are followed; `root` follows none."""
    real = os.path.realpath(path)
    return real == root or real.startswith(root.rstrip("/") + "/")


def _local_list(
    folder: str, prefix: str, root: str, but: Set[str], unfit: Callable[[str, str], None]
) -> Iterator[BlobInfo]:
    try:
        with os.scandir(folder) as scan:
            # "a-b/x" comes before "a/x": folders are sorted as their blobs' paths go on
            wanted = (entry for entry in scan if prefix + entry.name not in but) if but else scan
            entries = sorted((entry.name + ("/" if _is_folder(entry) else ""), entry) for entry in wanted)
    except (FileNotFoundError, NotADirectoryError):
        return
    except PermissionError as error:
        unfit(printable(prefix), f"a folder that cannot be read: {error.strerror}")
        return
    for name, entry in entries:
        if name.endswith("/"):
            yield from _local_list(entry.path, prefix + name, root, but, unfit)
        elif entry.is_symlink() and not _is_inside(entry.path, root):
            unfit(printable(prefix + name), "a link that leads out of the store; put the file itself there")
        elif not TEMPORARY.fullmatch(name) and is_fit(prefix + name, unfit):
            try:
                status = entry.stat()
            except FileNotFoundError:
                continue  # deleted since
            if stat.S_ISREG(status.st_mode):
                yield _local_info(prefix + name, status)
            else:
                unfit(prefix + name, "no regular file: a pipe, a socket, a device, or a link to a folder")


def _local_folders(folder: str) -> Sequence[str]:
    try:
        with os.scandir(folder) as scan:
            return sorted(entry.name for entry in scan if _is_folder(entry) and is_fit(entry.path))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir(follow_symlinks=False)
