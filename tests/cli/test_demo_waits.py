"""How long the demo waits for the others, what it says meanwhile, and when that was not enough."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from al_cli import demo, processes
from al_cli.dagster_api import DagsterError
from al_cli.demo import Demo
from al_cli.emulators import EmulatedAzure, Emulators
from al_cli.processes import Children
from al_resources.platform import Platform
from al_resources.settings import load_settings
from al_resources.settings.azure_data import AzureDataSettings
from al_resources.settings.azure_ml import AzureMLSettings


@pytest.fixture
def waiting(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Demo]:
    """A demo that has nothing beside it; with the parameter True one on emulators."""
    emulated = getattr(request, "param", False)
    with (
        closing(socket.socket()) as listener,
        Children() as children,
        subprocess.Popen(
            [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as process,
    ):
        emulators = Emulators(process, tmp_path / "log" / "emulators.log", {})
        azure = EmulatedAzure(AzureDataSettings(), AzureMLSettings(), emulators) if emulated else None
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


@pytest.mark.parametrize("waiting", [True], indirect=True)
def test_emulators_that_end_are_told_with_their_log(waiting: Demo) -> None:
    assert waiting.azure is not None
    process = waiting.azure.emulators._process
    process.kill()
    process.wait()
    with pytest.raises(DagsterError, match=rf"the emulators ended with exit code -9; {waiting.home / 'log'}/emulators"):
        waiting._wait("the sensor", lambda: None)


def test_who_refuses_traffic_is_told_with_the_logs(waiting: Demo, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> None:
        httpx.Response(424, request=httpx.Request("POST", "http://127.0.0.1/score")).raise_for_status()

    monkeypatch.setattr(waiting, "_run", refused)
    with pytest.raises(DagsterError, match=rf"424.*; what everything printed is in {waiting.home / 'log'}"):
        waiting.run()


def test_a_home_whose_addresses_are_taken_says_by_which_port(al: Callable[..., Any], tmp_path: Path) -> None:
    pytest.importorskip("duckdb_kql", reason="the emulated Data Explorer: pip install 'duckdb-kql[all]'")
    (tmp_path / "al.toml").write_text("home = 'data'\n")
    (tmp_path / processes.MARKER).write_text(processes.EMULATED)
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as other:
        ports = {"blob": taken.getsockname()[1], "queue": 1, "kusto": other.getsockname()[1]}
        (tmp_path / "azure").mkdir()
        (tmp_path / "azure" / "ports.json").write_text(json.dumps(ports))
        done = al("ui", "--home", str(tmp_path), "--port", "0")
    assert done.returncode == 1
    assert f"port {ports['blob']}, which the settings of this home name for blob, is taken" in done.stderr
