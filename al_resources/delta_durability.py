"""Delta tables on a local disk that survive a power cut.

deltalake renames what it wrote without syncing it: after a cut, the last commits may be files of 0 bytes, or name
data files that are, and then the whole table cannot be read. So whoever committed syncs, in this order, the data
files, the entries of the log and the folders, of its own commit and of all before that nobody synced, and only then
calls the rows written. `_synced` beside the log says up to which version that was done; it may lag behind, and then
more is synced than needed.

On the way back, what lies beyond that mark and is torn is set aside (`_torn/`) and told: nobody was promised those
rows. What is damaged before the mark was promised, so it is an error for a person.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from al_core.errors import ActiveLearningError
from al_resources.durable import make_folder, sync

LOGGER = logging.getLogger(__name__)
MARK = "_synced"
TORN = "_torn"
LOG = "_delta_log"
KEPT_SECONDS = 3600.0  # of the log
_COMMIT = re.compile(r"([0-9]{20})\.json")
_VERSIONED = re.compile(r"[0-9]{20}\.(json|checkpoint\.parquet)")
_POINTER = "_last_checkpoint"
_PARQUET = b"PAR1"  # the first and the last bytes of every Parquet file
_looked_at: set[Path] = set()  # tables that this process found whole, or mended


class DamagedTable(ActiveLearningError):
    """A table lacks rows that somebody was told are written; the message says which file."""


@dataclass(frozen=True)
class _Commit:
    version: int
    file: Path
    actions: list[dict[str, Any]]

    def added(self, table: Path) -> Iterator[tuple[Path, int]]:
        """The data files it brings, and their sizes in bytes."""
        for action in self.actions:
            if (add := action.get("add")) is not None:
                yield table / unquote(add["path"]), int(add["size"])


def sync_commits(table: Path) -> None:
    """Wait until every commit of the table is on the disk. Raises `OSError`: nothing may be promised."""
    marked = _mark(table)
    folders: dict[Path, None] = {}
    version = marked
    for version in _versions_after(table, marked):
        commit = _read(table, version)
        for file, _ in commit.added(table):
            if file.exists():  # else a later commit replaced it, and it was deleted since
                sync(file)
                folders |= dict.fromkeys(_up_to(file.parent, table))
        sync(commit.file)
        checkpoint = _checkpoint(table, version)
        if checkpoint.exists():
            sync(checkpoint)
            sync(table / LOG / _POINTER)
    if version == marked:
        return
    for folder in [*folders, table / LOG, table, table.parent]:
        sync(folder)
    (table / MARK).write_text(str(version))  # not synced: an older mark, or none, is right as well


def sync_checkpoint(table: Path) -> None:
    """Wait until the newest checkpoint is on the disk."""
    checkpoint = _checkpoint(table, _checkpointed(table))
    for file in (checkpoint, table / LOG / _POINTER):
        if file.exists():
            sync(file)
    sync(table / LOG)


def shorten_log(table: Path) -> int:
    """Delete commits and checkpoints that an older checkpoint on the disk holds, oldest first; returns how many.

    What is younger than an hour stays, and so does what was the newest checkpoint an hour ago, with all after it: no
    reader or writer that has seen the log as it was then is on its way for longer.
    """
    before = time.time() - KEPT_SECONDS
    versioned = sorted(file for file in (table / LOG).iterdir() if _VERSIONED.fullmatch(file.name))
    old = [file for file in versioned if file.suffix == ".parquet" and file.stat().st_mtime < before]
    if not old or int(old[-1].name[:20]) > _mark(table) or not _is_whole(old[-1], old[-1].stat().st_size):
        return 0
    sync(old[-1])
    sync(table / LOG)
    deleted = 0
    for file in versioned:
        if file.name[:20] == old[-1].name[:20] or file.stat().st_mtime > before:
            break
        file.unlink(missing_ok=True)
        deleted += 1
    return deleted


def set_torn_aside(table: Path) -> list[str]:
    """Undo what a power cut left half of the last commits; returns the names of what was set aside.

    Looks once per process and table.

    Raises:
        DamagedTable: what is damaged was promised.
    """
    if table in _looked_at or not (table / LOG).is_dir():
        return []
    from filelock import FileLock

    with FileLock(table / "_recovery.lock"):
        torn = _set_aside(table)
    _looked_at.add(table)
    if torn:
        LOGGER.warning(
            "%s: a crash left commits half written, which nobody was told are there: %s; they lie in %s",
            table, ", ".join(torn), table / TORN,
        )  # fmt: skip
    return torn


def _set_aside(table: Path) -> list[str]:
    marked = _mark(table)
    moved = [_move_aside(table, file) for file in _torn_checkpoints(table)]
    versions = list(_versions_after(table, marked))
    removed: set[Path] = set()
    broken: int | None = None
    for version in reversed(versions):
        problem = _problem_of(table, version, removed)
        broken = version if problem else broken
    listed = _listed(table)
    end = versions[-1] if versions else marked
    undone = [version for version in listed if version > end]  # of those in between not even the name is left
    if broken is not None:
        undone += [version for version in versions if version >= broken]
    moved += [_move_aside(table, _file(table, version)) for version in sorted(undone)]
    newest = max((version for version in listed if version not in undone), default=None)
    if newest is not None and newest <= marked and (problem := _problem_of(table, newest, set())):
        raise DamagedTable(
            f"{table}: {problem}, and its rows were written for good; restore the file from a backup, or move "
            f"{_file(table, newest)} away to go on without them"
        )
    return moved


def _problem_of(table: Path, version: int, removed: set[Path]) -> str | None:
    """What a crash did to this commit, or None; what later commits replaced may be gone (`removed` gains the rest)."""
    try:
        commit = _read(table, version)
    except (ValueError, KeyError):
        return f"{_file(table, version).name} is torn"
    for file, size in commit.added(table):
        if file not in removed and not _is_whole(file, size):
            return f"{file.relative_to(table)} is torn"
    removed |= {table / unquote(action["remove"]["path"]) for action in commit.actions if "remove" in action}
    return None


def _is_whole(file: Path, size: int) -> bool:
    try:
        with file.open("rb") as content:
            if file.stat().st_size != size or content.read(4) != _PARQUET:
                return False
            content.seek(-4, 2)
            return content.read(4) == _PARQUET
    except FileNotFoundError:
        return False


def _torn_checkpoints(table: Path) -> Iterator[Path]:
    """A checkpoint only saves reading the log: without it the table is the same."""
    whole = set()
    for checkpoint in sorted((table / LOG).glob("*.checkpoint.parquet")):
        if _is_whole(checkpoint, checkpoint.stat().st_size):
            whole.add(checkpoint.name.partition(".")[0])
        else:
            yield checkpoint
    pointer = table / LOG / _POINTER
    if pointer.exists():
        try:
            named = f"{int(json.loads(pointer.read_bytes())['version']):020d}"
        except (ValueError, KeyError, TypeError):
            named = ""
        if named not in whole:
            yield pointer


def _move_aside(table: Path, file: Path) -> str:
    make_folder(table / TORN)
    file.replace(table / TORN / file.name)
    sync(table / TORN)
    sync(file.parent)
    return file.name


def _mark(table: Path) -> int:
    """The version up to which the table is synced for certain; -1 where nothing is known."""
    try:
        return int((table / MARK).read_text())
    except (FileNotFoundError, ValueError):
        return -1


def _versions_after(table: Path, marked: int) -> Iterator[int]:
    """Ascending, up to the first that is missing. What a checkpoint holds may be missing: it was cleaned up."""
    version = marked + 1
    while _file(table, version).exists():
        yield version
        version += 1
    held = _checkpointed(table)
    if version > max(held, 0):
        return
    for listed in sorted(one for one in _listed(table) if one >= version):
        if listed > max(version, held + 1) and version > 0:
            return
        yield listed
        version = listed + 1


def _checkpointed(table: Path) -> int:
    """The version that the newest checkpoint holds; -1 where there is none."""
    with suppress(FileNotFoundError, ValueError, KeyError, TypeError):
        return int(json.loads((table / LOG / _POINTER).read_bytes())["version"])
    names = (file.name.partition(".")[0] for file in (table / LOG).glob("*.checkpoint.parquet"))
    return max((int(name) for name in names if name.isdigit()), default=-1)


def _listed(table: Path) -> list[int]:
    names = (_COMMIT.fullmatch(file.name) for file in (table / LOG).iterdir())
    return [int(name[1]) for name in names if name]


def _file(table: Path, version: int) -> Path:
    return table / LOG / f"{version:020d}.json"


def _checkpoint(table: Path, version: int) -> Path:
    return table / LOG / f"{version:020d}.checkpoint.parquet"


def _read(table: Path, version: int) -> _Commit:
    """Raises `ValueError`: it is torn."""
    file = _file(table, version)
    actions = [json.loads(line) for line in file.read_bytes().splitlines() if line.strip()]
    if not actions or not all(isinstance(action, dict) for action in actions):
        raise ValueError(f"{file} holds no actions")
    return _Commit(version, file, actions)


def _up_to(folder: Path, table: Path) -> Iterator[Path]:
    while folder != table:
        yield folder
        folder = folder.parent
