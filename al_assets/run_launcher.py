"""Dagster's run launcher for one machine, which also notices when a run's process is gone.

The default launcher cannot be asked for the health of a run, so run monitoring leaves the run of a worker that
was killed (out of memory, power cut) started for ever, and its retry never comes.
"""

from __future__ import annotations

import psutil
from dagster import DagsterEventType, DagsterRun
from dagster._core.launcher.base import CheckRunHealthResult, WorkerStatus
from dagster._core.launcher.default_run_launcher import DefaultRunLauncher

CLOCK_SLACK = 5.0  # seconds between a process' start and what the log says of it


class WatchfulRunLauncher(DefaultRunLauncher):
    """`DefaultRunLauncher` whose runs can be watched; all processes live on this machine."""

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


def _is_alive(pid: int, logged_at: float) -> bool:
    """A process that began after the run logged its id only inherited the number."""
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and process.create_time() <= logged_at + CLOCK_SLACK
    except psutil.NoSuchProcess:
        return False
