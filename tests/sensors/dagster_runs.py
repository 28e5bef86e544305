"""The runs that Dagster keeps of the requests of a sensor."""

from __future__ import annotations

import dagster as dg
from dagster._core.test_utils import create_run_for_test


def record_run(instance: dg.DagsterInstance, request: dg.RunRequest, status: dg.DagsterRunStatus, **tags: str) -> str:
    """What Dagster keeps of a run that this request led to; returns its id."""
    tags = {**request.tags, "dagster/run_key": str(request.run_key), **tags}
    return create_run_for_test(instance, job_name="training_deployment", tags=tags, status=status).run_id


def start_runs(instance: dg.DagsterInstance, result: dg.SensorResult) -> None:
    """Start a run a request, as the daemon does: none under a key that it knows."""
    for request in result.run_requests or []:
        if not instance.get_runs(dg.RunsFilter(tags={"dagster/run_key": str(request.run_key)}), limit=1):
            record_run(instance, request, dg.DagsterRunStatus.STARTED)
