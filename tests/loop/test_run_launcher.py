"""Runs on one machine: forked from what is imported already, cancelled when asked, and missed when they are gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import psutil
import pytest
from click.testing import CliRunner
from dagster._cli.job import job_launch_command
from dagster._core.launcher.base import WorkerStatus
from running_dagster import wait_for

from al_assets.run_launcher import IMPORTED, WATCH, WatchfulRunLauncher
from al_cli.dagster_process import write_dagster_home

pytestmark = [pytest.mark.live, pytest.mark.skipif(sys.platform != "linux", reason="elsewhere runs are not forked")]

JOBS = """
import multiprocessing
import sys
import time
from pathlib import Path

import dagster as dg

if multiprocessing.parent_process() is not None and Path(__file__).with_name("slowly").exists():
    time.sleep(600)  # in the run's own process, which loads this anew


@dg.op
def begins_warm():
    assert {"torch", "torchvision", "scipy.stats"} <= sys.modules.keys()
    assert not {"polars", "pyarrow", "deltalake"} & sys.modules.keys()


@dg.op
def takes_long():
    time.sleep(600)


@dg.job(executor_def=dg.in_process_executor)
def warm():
    begins_warm()


@dg.job(executor_def=dg.in_process_executor)
def long():
    takes_long()


definitions = dg.Definitions(jobs=[warm, long])
"""


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    """A home as `al init` makes it, but that what is launched is not queued: no daemon is needed."""
    write_dagster_home(tmp_path)
    home = tmp_path / "dagster.yaml"
    queued = "  module: dagster.core.run_coordinator\n  class: QueuedRunCoordinator\n"
    direct = "  module: dagster.core.run_coordinator\n  class: DefaultRunCoordinator\n"
    before, _, after = home.read_text().partition(queued)
    assert after
    home.write_text(before + direct + after.replace("  config:\n    dequeue_interval_seconds: 1\n", ""))
    (tmp_path / "jobs.py").write_text(JOBS)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    with dg.DagsterInstance.get() as instance:
        yield instance
        for watch in (thread for thread in threading.enumerate() if thread.name.startswith(WATCH)):
            watch.join(60)


def launched(instance: dg.DagsterInstance, job: str) -> str:
    file = Path(instance.root_directory) / "jobs.py"
    done = CliRunner().invoke(job_launch_command, ["-f", str(file), "-j", job], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    (run,) = instance.get_runs()
    return run.run_id


def status(instance: dg.DagsterInstance, run_id: str) -> dg.DagsterRunStatus:
    run = instance.get_run_by_id(run_id)
    assert run is not None
    return run.status


def worker(instance: dg.DagsterInstance, run_id: str) -> int:
    """The process of a run that is at its step."""
    wait_for("the step", lambda: any(event.step_key for event in instance.all_logs(run_id)))
    run = instance.get_run_by_id(run_id)
    assert run is not None
    assert isinstance(instance.run_launcher, WatchfulRunLauncher)
    found = instance.run_launcher._worker(run)
    assert found is not None
    return found[0]


def test_a_run_begins_in_a_process_that_has_imported_what_takes_long(instance: dg.DagsterInstance) -> None:
    run_id = launched(instance, "warm")
    wait_for("the run", lambda: status(instance, run_id).name in ("SUCCESS", "FAILURE"))
    assert status(instance, run_id) == dg.DagsterRunStatus.SUCCESS


def test_what_runs_are_forked_from_has_a_single_thread() -> None:
    """A thread of a library would be gone in the fork, with whatever it had locked."""
    count = f"import {', '.join(IMPORTED)}; import os; print(len(os.listdir('/proc/self/task')))"
    environment = os.environ | {"OMP_NUM_THREADS": "8", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", count], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"


def test_a_run_that_is_cancelled_ends(instance: dg.DagsterInstance) -> None:
    run_id = launched(instance, "long")
    pid = worker(instance, run_id)
    assert instance.run_launcher.terminate(run_id)
    wait_for("its end", lambda: status(instance, run_id).name == "CANCELED" and not psutil.pid_exists(pid))
    assert not instance.run_launcher.terminate(run_id), "it has ended"


def test_a_run_whose_process_was_killed_is_missed(instance: dg.DagsterInstance) -> None:
    run_id = launched(instance, "long")
    pid = worker(instance, run_id)
    run = instance.get_run_by_id(run_id)
    assert run is not None
    assert instance.run_launcher.check_run_worker_health(run).status == WorkerStatus.RUNNING
    os.kill(pid, signal.SIGKILL)
    wait_for("its end", lambda: not psutil.pid_exists(pid))
    health = instance.run_launcher.check_run_worker_health(run)
    assert (health.status, health.msg) == (WorkerStatus.FAILED, f"the run's process {pid} is gone")
    wait_for("its failure", lambda: status(instance, run_id) == dg.DagsterRunStatus.FAILURE, timeout=20)


def test_a_run_whose_process_was_killed_before_it_began_has_failed_at_once(instance: dg.DagsterInstance) -> None:
    (Path(instance.root_directory) / "slowly").touch()
    run_id = launched(instance, "warm")
    assert status(instance, run_id) == dg.DagsterRunStatus.STARTING
    run = instance.get_run_by_id(run_id)
    assert run is not None
    assert isinstance(instance.run_launcher, WatchfulRunLauncher)
    found = instance.run_launcher._worker(run)
    assert found is not None
    os.kill(found[0], signal.SIGKILL)
    wait_for("its failure", lambda: status(instance, run_id) == dg.DagsterRunStatus.FAILURE, timeout=20)
