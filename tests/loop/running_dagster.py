"""A Dagster of a test's own: webserver, daemon and code location on a home that exists."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from al_cli.dagster_process import Dagster, listener_of_ui, start_dagster
from al_cli.processes import Children
from al_serving.guard import TOKEN_PARAMETER

if TYPE_CHECKING:
    from playwright.sync_api import Page


@contextmanager
def running_dagster(home: Path, config: Path) -> Iterator[Dagster]:
    """Up and answering, on a free port; everything that was started ends with the block."""
    with Children() as children, listener_of_ui(0) as listener:
        dagster = start_dagster(children, home, config, listener)
        try:
            yield dagster
        finally:
            dagster.close()


def let_in(page: Page, dagster: Dagster) -> None:
    """Open the link, and wait for the page that it goes on to: that would end the next navigation, too."""
    page.goto(dagster.link)
    page.wait_for_url(lambda url: f"{TOKEN_PARAMETER}=" not in url)


def kill_run_workers(home: Path) -> list[int]:
    """Those of this instance, told by their session of their own. A machine that loses power takes them too."""
    killed = []
    of_this_instance = f"DAGSTER_HOME={home}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            pid, environment = int(process.name), (process / "environ").read_bytes().split(b"\0")
            forked = b"multiprocessing.forkserver" in (process / "cmdline").read_bytes() and os.getsid(pid) == pid
            if forked and of_this_instance in environment:
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
    return killed


def wait_for(what: str, ready: Callable[[], Any], timeout: float = 120) -> None:
    """Until it is true; the test fails where that takes longer."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if ready():
            return
        time.sleep(0.1)
    pytest.fail(f"{what} did not come within {timeout} s")
