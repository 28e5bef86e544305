"""What the live tests ask Dagster, and nobody else."""

from __future__ import annotations

from typing import Any

from al_cli.dagster_api import LOCATION, REPOSITORY
from al_cli.dagster_process import Dagster


def active_runs(dagster: Dagster) -> list[str]:
    """Ids of the runs that wait or work."""
    runs = dagster.query(
        """query($f: RunsFilter!) { runsOrError(filter: $f) { ... on Runs { results { runId } } } }""",
        f={"statuses": ["QUEUED", "NOT_STARTED", "STARTING", "STARTED", "CANCELING"]},
    )["runsOrError"]["results"]
    return [run["runId"] for run in runs]


def sensor_ticks(dagster: Dagster, name: str) -> list[dict[str, Any]]:
    """The last ticks of a sensor, newest first."""
    selector = {"repositoryLocationName": LOCATION, "repositoryName": REPOSITORY, "sensorName": name}
    return dagster.query(
        """query($s: SensorSelector!) { sensorOrError(sensorSelector: $s) { ... on Sensor { sensorState {
          ticks(limit: 30) { timestamp status skipReason error { message } } } } } }""",
        s=selector,
    )["sensorOrError"]["sensorState"]["ticks"]


def automation_status(dagster: Dagster, kind: str, name: str) -> str:
    """RUNNING or STOPPED, of `schedules` or `sensors` by name."""
    where = {"repositoryLocationName": LOCATION, "repositoryName": REPOSITORY}
    if kind == "schedules":
        answer = dagster.query(
            "query($s: ScheduleSelector!) { scheduleOrError(scheduleSelector: $s) "
            "{ ... on Schedule { scheduleState { status } } } }",
            s={**where, "scheduleName": name},
        )
        return str(answer["scheduleOrError"]["scheduleState"]["status"])
    answer = dagster.query(
        "query($s: SensorSelector!) { sensorOrError(sensorSelector: $s) { ... on Sensor { sensorState { status } } } }",
        s={**where, "sensorName": name},
    )
    return str(answer["sensorOrError"]["sensorState"]["status"])
