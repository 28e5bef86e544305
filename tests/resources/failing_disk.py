"""A disk that fails at the n-th operation: an error, a kill, or a kill that loses or tears what was not synced yet."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import deltalake
import pytest


class Killed(BaseException):
    """No handler of the code under test may stop it."""


class FailingDisk:
    """Lets `at - 1` operations through."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int, mode: str) -> None:
        self.at, self.mode, self.count = at, mode, 0
        self._unsynced: dict[Path, bytes | None] = {}  # a name -> what it was before
        self._commits: set[Path] = set()  # tables whose newest commit is not synced
        real = {name: getattr(os, name) for name in ("fsync", "replace", "link")}
        write = deltalake.write_deltalake

        def fsync(handle: int) -> None:
            self._operation()
            path = Path(f"/proc/self/fd/{handle}").readlink()
            real["fsync"](handle)
            self._unsynced = {name: was for name, was in self._unsynced.items() if name.parent != path}
            self._commits.discard(path.parent if path.name == "_delta_log" else path)

        def naming(name: str) -> Any:
            def named(source: Any, target: Any, **options: Any) -> None:
                self._operation()
                path = Path(target)
                was = path.read_bytes() if path.exists() else None
                real[name](source, target, **options)
                self._unsynced.setdefault(path, was)

            return named

        def commit(table: Any, *arguments: Any, **options: Any) -> None:
            self._operation()
            write(table, *arguments, **options)
            self._commits.add(Path(table.table_uri.removeprefix("file://")))
            self._operation()

        monkeypatch.setattr(os, "fsync", fsync)
        monkeypatch.setattr(os, "replace", naming("replace"))
        monkeypatch.setattr(os, "link", naming("link"))
        monkeypatch.setattr(deltalake, "write_deltalake", commit)

    def _operation(self) -> None:
        self.count += 1
        if self.count == self.at and self.mode == "error":
            raise OSError(28, "No space left on device")
        if self.count >= self.at and self.mode != "error":
            raise Killed

    def cut_the_power(self) -> None:
        """What was not synced is lost, or torn."""
        if self.mode == "lost":
            for name, was in self._unsynced.items():
                name.unlink(missing_ok=True) if was is None else name.write_bytes(was)
        for table in self._commits if self.mode in ("lost", "torn") else ():
            newest = max((table / "_delta_log").glob("*.json"))
            newest.unlink() if self.mode == "lost" else newest.write_bytes(b"")
