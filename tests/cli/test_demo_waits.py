"""How long the demo waits for the others, and what it says when that was not enough."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from al_cli import demo, processes
from al_cli.dagster_api import DagsterError
from al_cli.demo import Demo
from al_cli.emulators import EmulatedAzure
from al_cli.processes import Children
from al_resources.platform import Platform
from al_resources.settings import load_settings
from al_resources.settings.azure_data import AzureDataSettings
from al_resources.settings.azure_ml import AzureMLSettings


@pytest.fixture
def waiting(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Demo]:
    """A demo that has nothing beside it; with the parameter True one on emulators."""
    emulated = getattr(request, "param", False)
    azure = EmulatedAzure(AzureDataSettings(), AzureMLSettings(), lambda _: None) if emulated else None
    with closing(socket.socket()) as listener, Children() as children:
        made = Demo(tmp_path, Platform(load_settings(home=tmp_path)), 1, 1, listener, azure)
        made.children = children
        yield made


@pytest.mark.parametrize(
    ("waiting", "limit"), [(False, "PATIENCE_SECONDS"), (True, "EMULATED_PATIENCE_SECONDS")], indirect=["waiting"]
)
def test_it_gives_up_where_nothing_goes_on_and_names_the_logs(
    waiting: Demo, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(demo, limit, 0.05)
    told = rf"the sensor took \d+ s, the last 0 s without any sign of work; .* is in {waiting.home / 'log'}"
    with pytest.raises(DagsterError, match=told):
        waiting._wait("the sensor", lambda: None)


def test_it_waits_as_long_as_work_goes_on_and_says_for_what(
    waiting: Demo, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "PATIENCE_SECONDS", 0.3)
    monkeypatch.setattr(demo, "TELL_SECONDS", 0.3)
    turns = iter(range(8))  # 1.4 s
    assert waiting._wait("the training run", lambda: next(turns) == 7, sign=time.monotonic)
    assert "the training run: " in capsys.readouterr().out


def test_the_home_of_an_emulated_demo_says_that_its_azure_is_gone(al: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "al.toml").write_text("home = 'data'\n")
    (tmp_path / processes.MARKER).write_text(processes.EMULATED)
    done = al("ui", "--home", str(tmp_path))
    assert done.returncode == 1
    assert "ended with the demo" in done.stderr
