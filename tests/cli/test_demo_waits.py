"""How long the demo waits for the others, and what it says when that was not enough."""

from __future__ import annotations

import socket
from contextlib import closing
from pathlib import Path

import pytest

from al_cli import demo
from al_cli.dagster_api import DagsterError
from al_cli.dagster_process import Children
from al_cli.demo import Demo
from al_cli.emulators import EmulatedAzure
from al_resources.platform import Platform
from al_resources.settings import load_settings
from al_resources.settings.azure_data import AzureDataSettings
from al_resources.settings.azure_ml import AzureMLSettings


@pytest.mark.parametrize(
    ("emulated", "limit"), [(False, "LONGEST_WAIT_SECONDS"), (True, "LONGEST_EMULATED_WAIT_SECONDS")]
)
def test_it_gives_up_after_its_own_time_and_names_the_logs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, emulated: bool, limit: str
) -> None:
    monkeypatch.setattr(demo, limit, 0.05)
    azure = EmulatedAzure(AzureDataSettings(), AzureMLSettings(), lambda _: None) if emulated else None
    with closing(socket.socket()) as listener, Children() as children:
        waiting = Demo(tmp_path, Platform(load_settings(home=tmp_path)), 1, 1, listener, azure)
        waiting.children = children
        with pytest.raises(DagsterError, match=rf"the sensor took longer than 0 s; .* is in {tmp_path / 'log'}"):
            waiting._wait("the sensor", lambda: None)
