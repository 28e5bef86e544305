"""A Dagster of a test's own: webserver, daemon and code location on a home that exists."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from al_cli.dagster_process import Dagster, listener_of_ui, start_dagster
from al_cli.processes import Children


@contextmanager
def running_dagster(home: Path, config: Path) -> Iterator[Dagster]:
    """Up and answering, on a free port; everything that was started ends with the block."""
    with Children() as children, listener_of_ui(0) as listener:
        dagster = start_dagster(children, home, config, listener)
        try:
            yield dagster
        finally:
            dagster.close()


def kill_run_workers(home: Path) -> None:
    """Those of this instance. They have a process group of their own; a machine that loses power takes them too."""
    of_this_instance = f"DAGSTER_HOME={home}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            environment = (process / "environ").read_bytes().split(b"\0")
            if of_this_instance in environment and b"execute_run" in (process / "cmdline").read_bytes():
                os.kill(int(process.name), signal.SIGKILL)


def wait_for(what: str, ready: Callable[[], Any], timeout: float = 120) -> None:
    """Until it is true; the test fails where that takes longer."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if ready():
            return
        time.sleep(0.1)
    pytest.fail(f"{what} did not come within {timeout} s")
