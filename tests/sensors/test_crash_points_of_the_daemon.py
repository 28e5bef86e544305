"""Dagster's own points at which its daemon can be made to die: whatever a sensor asked for is begun, and begun once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import dagster as dg
import pytest
from digits_project import digits_toml, oracle

from al_cli.dagster_process import write_dagster_home
from al_cli.digits import store_digits
from al_cli.oracle import answer_waiting
from al_loop.selecting import Wishes, choose, stage
from al_resources.platform import Platform
from al_resources.settings import load_settings

pytestmark = [pytest.mark.slow, pytest.mark.live, pytest.mark.timeout(300)]

POINTS = ("TICK_CREATED", "TICK_HELD", "RUN_CREATED", "RUN_LAUNCHED")
ASKED_FOR = {"next_round_sensor": "selection", "labeling_export_sensor": "training_deployment"}
LOOK = """
import logging, signal, sys, time
from dagster import DagsterInstance
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import ModuleTarget
from dagster._daemon.sensor import execute_sensor_iteration

name, point = sys.argv[1:]
target = ModuleTarget("al_assets.definitions", None, working_directory=None, location_name="active_learning")
with DagsterInstance.get() as instance, WorkspaceProcessContext(instance, target) as context:
    location = context.create_request_context().get_code_location("active_learning")
    (repository,) = location.get_repositories().values()
    instance.start_sensor(repository.get_sensor(name))
    crash = {name: {point: signal.SIGKILL}} if point else None
    after = 0
    while after < 3:  # the looks after it began a run begin nothing once more
        list(execute_sensor_iteration(context, logging.getLogger(), None, None, debug_crash_flags=crash))
        after += bool(instance.get_runs(limit=1))
        time.sleep(1.1)
"""


def look(home: Path, sensor: str, point: str = "") -> int:
    """The daemon's look at its sensors, which dies at that point; without one it looks until nothing is left to do."""
    environment = os.environ | {"DAGSTER_HOME": str(home), "AL_CONFIG": str(home / "al.toml")}
    with (home / "look.log").open("w") as log:  # a pipe would stay open until the code server of the dead gives up
        process = subprocess.Popen(
            [sys.executable, "-c", LOOK, sensor, point], env=environment, stdout=log, stderr=log, start_new_session=True
        )
        ended = process.wait(200)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    assert ended in (0, -signal.SIGKILL), (home / "look.log").read_text()[-3000:]
    return ended


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pictures are in the store; no round is begun."""
    sensors = {"export_interval_seconds": 1, "round_interval_seconds": 1}
    project = digits_toml(labeling=oracle(tmp_path), selection={"initial_budget": 20}, sensors=sensors)
    (tmp_path / "al.toml").write_text(project)
    monkeypatch.setenv("AL_CONFIG", str(tmp_path / "al.toml"))
    platform = Platform(load_settings())
    write_dagster_home(tmp_path, platform.settings)
    store_digits(platform)
    return tmp_path


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("sensor", ASKED_FOR)
def test_a_daemon_that_dies_between_two_steps_of_a_look_begins_each_run_once(
    home: Path, sensor: str, point: str
) -> None:
    if sensor == "labeling_export_sensor":
        platform = Platform(load_settings())
        chosen, _ = choose(platform, 0, Wishes(), print)
        stage(platform, 0, chosen, print)
        assert answer_waiting(platform)
    assert look(home, sensor, point) == -signal.SIGKILL, "the point was passed"
    assert look(home, sensor) == 0
    with dg.DagsterInstance.from_config(str(home)) as instance:
        begun = [(run.job_name, run.tags["dagster/partition"]) for run in instance.get_runs()]
        assert instance.get_dynamic_partitions("round") == ["0000"]
    assert begun == [(ASKED_FOR[sensor], "0000")]
