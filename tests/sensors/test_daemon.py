"""Dagster's daemon looks after its sensors as often as the settings want it."""

from __future__ import annotations

import logging
from pathlib import Path
from threading import Event

import dagster as dg
import pytest
from dagster._core.test_utils import create_test_daemon_workspace_context
from dagster._core.workspace.load_target import EmptyWorkspaceTarget
from dagster._daemon import sensor

from al_cli.dagster_daemon import rest_seconds


@pytest.mark.parametrize(("interval", "rest"), [(1, 1), (3, 3), (30, 5)])
def test_it_rests_no_longer_than_the_most_eager_sensor_and_never_above_dagsters_five_seconds(
    interval: int, rest: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "al.toml").write_text(f"[sensors]\nexport_interval_seconds = {interval}\n")
    monkeypatch.setenv("AL_CONFIG", str(tmp_path / "al.toml"))
    assert rest_seconds() == rest


def test_of_several_loops_it_rests_as_dagster_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AL_CONFIG", raising=False)
    assert rest_seconds() == sensor.MIN_INTERVAL_LOOP_TIME


def test_dagsters_loop_rests_for_what_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Rest(Event):
        def wait(self, timeout: float | None = None) -> bool:
            assert timeout is not None
            rests.append(timeout)
            return True

    rests = list[float]()
    monkeypatch.setattr(sensor, "MIN_INTERVAL_LOOP_TIME", 1)
    with (
        dg.instance_for_test() as instance,
        create_test_daemon_workspace_context(EmptyWorkspaceTarget(), instance) as context,
    ):
        loop = sensor.execute_sensor_iteration_loop(context, logging.getLogger("daemon"), Rest())
        while not rests:
            next(loop)
    assert 0 < rests[0] <= 1
