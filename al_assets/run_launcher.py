"""Dagster's run launcher for one machine: its runs begin warm, and it notices when a run's process is gone.

The default launcher starts each run in an interpreter of its own, which imports Dagster, SciPy and torch again:
some five seconds of processor before the first line of an asset. Here runs are forked from a process that has
imported them, and nothing else: our own packages are read anew by each run, so that what somebody changes holds
from the next run on.

Nor can the default launcher be asked for the health of a run, so that run monitoring leaves the run of a worker
that was killed (out of memory, power cut) started for ever, and its retry never comes.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from threading import Thread
from typing import TYPE_CHECKING

import psutil
from dagster import DagsterEventType, DagsterRun, DagsterRunStatus
from dagster._core.events import EngineEventData
from dagster._core.launcher.base import CheckRunHealthResult, LaunchRunContext, WorkerStatus
from dagster._core.launcher.default_run_launcher import DefaultRunLauncher
from dagster._core.storage.tags import GRPC_INFO_TAG

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext
    from multiprocessing.process import BaseProcess

    from dagster._core.origin import JobPythonOrigin

CLOCK_SLACK = 5.0  # seconds between a process' start and what the log says of it
# slow to import, and without a thread of their own afterwards: not Polars, Arrow and Delta, which cannot be forked
IMPORTED = (
    "dagster._cli.api",
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "scipy.optimize",
    "scipy.stats",
    "torch",
    "torchvision",
)
WATCH = "end of run "  # name of the thread that waits for it
HERE = ("localhost", "127.0.0.1", "")


class WatchfulRunLauncher(DefaultRunLauncher):
    """`DefaultRunLauncher` whose runs begin warm and can be watched; all processes live on this machine."""

    def launch_run(self, context: LaunchRunContext) -> None:
        """Start the run's process: forked where the code location is this interpreter's, else as Dagster does."""
        origin = _forkable(context)
        if origin is None:
            super().launch_run(context)
            return
        from dagster._grpc.types import ExecuteRunArgs

        run = context.dagster_run
        arguments = ExecuteRunArgs(origin, run.run_id, self._instance.get_ref()).get_command_args()
        process = _warm().Process(target=_execute, args=(arguments,))
        process.start()
        self._instance.report_engine_event(
            "The run's process was forked.", run, EngineEventData.in_process(process.pid or 0), self.__class__
        )
        self._run_ids.add(run.run_id)
        watch = Thread(
            target=self._notice_its_end, args=(process, run.run_id), name=f"{WATCH}{run.run_id}", daemon=True
        )
        watch.start()

    def _notice_its_end(self, process: BaseProcess, run_id: str) -> None:
        """A process that ends before its run has failed it. Run monitoring would see that at its next poll; of a run
        that was only starting, after `start_timeout_seconds`."""
        process.join()
        run = self._instance.get_run_by_id(run_id)
        if run is not None and run.status in (DagsterRunStatus.STARTING, DagsterRunStatus.STARTED):
            self._instance.report_run_failed(
                run, f"the run's process {process.pid} is gone, exit code {process.exitcode}"
            )

    def terminate(self, run_id: str) -> bool:
        """Interrupt the run's process. False where there is none that could be."""
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        if GRPC_INFO_TAG in run.tags:
            return bool(super().terminate(run_id))  # type: ignore[no-untyped-call]
        self._instance.report_run_canceling(run)
        worker = self._worker(run)
        if worker is None or not _is_alive(*worker):
            return False
        with suppress(ProcessLookupError):
            os.kill(worker[0], signal.SIGTERM)
        return True

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Run monitoring may ask."""
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Whether the run's process is alive, by the process id that the run logged when it started."""
        worker = self._worker(run)
        if worker is None:
            return CheckRunHealthResult(WorkerStatus.RUNNING)  # launched, but not so far as to log its id
        pid, logged_at = worker
        if _is_alive(pid, logged_at):
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return CheckRunHealthResult(WorkerStatus.FAILED, f"the run's process {pid} is gone")

    def _worker(self, run: DagsterRun) -> tuple[int, float] | None:
        """Process id and time of the newest start event."""
        for entry in reversed(self._instance.all_logs(run.run_id, of_type=DagsterEventType.ENGINE_EVENT)):
            event = entry.dagster_event
            metadata = event.engine_event_data.metadata if event is not None else {}
            if "pid" in metadata:
                return int(str(metadata["pid"].value)), entry.timestamp
        return None


def _forkable(context: LaunchRunContext) -> JobPythonOrigin | None:
    """Where the run's code is, if it is run by this interpreter on this machine; macOS cannot fork what it loaded."""
    origin, asked_of = context.job_code_origin, context.dagster_run.remote_job_origin
    if sys.platform != "linux" or origin is None or asked_of is None:
        return None
    host = getattr(asked_of.repository_origin.code_location_origin, "host", "") or ""
    repository = origin.repository_origin
    ours = repository.executable_path in (None, sys.executable) and repository.container_image is None
    return origin if ours and host in HERE else None


def _warm() -> ForkServerContext:
    """What forks a process that has imported the libraries; it is started with the first run."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(IMPORTED))
    return context


def _execute(arguments: Sequence[str]) -> None:
    """What the launchers of containers run, too: `dagster api execute_run`, in a session of its own."""
    os.setsid()  # a Ctrl-C ends what asked for the run; the run is ended by it, or goes on
    from dagster._cli.api import execute_run_command

    execute_run_command.main([arguments[-1]], standalone_mode=False)


def _is_alive(pid: int, logged_at: float) -> bool:
    """A process that began after the run logged its id only inherited the number."""
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and process.create_time() <= logged_at + CLOCK_SLACK
    except psutil.NoSuchProcess:
        return False
