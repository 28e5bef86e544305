"""A Dagster of a test's own: webserver, daemon and code location on a home that exists."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
