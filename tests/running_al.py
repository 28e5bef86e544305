"""The `al` command as tests run it, in a process of its own or in theirs."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import traceback
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


@dataclass(frozen=True)
class FinishedDemo:
    """A demo that ran to its end, and what it printed."""

    home: Path
    result: dict[str, Any]

    @property
    def config(self) -> Path:
        return self.home / "al.toml"


def run_al(*arguments: str, config: Path | None = None, timeout: float = 1500) -> subprocess.CompletedProcess[str]:
    """The `al` command in a process of its own, as a person runs it."""
    return subprocess.run(
        [sys.executable, "-m", "al_cli.main", *_typed(arguments, config)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def call_al(*arguments: str, config: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The same in this process, which has imported everything already; what it changes of it is put back."""
    from al_cli.console import console
    from al_cli.main import main

    streams = [io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2)]
    environment, quiet = dict(os.environ), console.quiet
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(streams[0]), redirect_stderr(streams[1]):
        patch.setattr(sys, "argv", ["al", *_typed(arguments, config)])
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except Exception:  # noqa: BLE001 - as the interpreter does with what nobody caught
            traceback.print_exc()
            code = 1
        finally:
            os.environ.clear()
            os.environ.update(environment)
            console.quiet = quiet
    out, error = (stream.buffer.getvalue().decode() for stream in streams)  # type: ignore[attr-defined]
    return subprocess.CompletedProcess(["al", *arguments], code, out, error)


def _typed(arguments: Sequence[str], config: Path | None) -> list[str]:
    return [*(["--config", str(config)] if config else []), *arguments]
