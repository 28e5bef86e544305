"""The sensor that says in one readable line what failed and what to do about it."""

from __future__ import annotations

import dagster as dg


@dg.run_failure_sensor(
    name="run_failures",
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="One readable line for every failed run.",
)
def run_failure_sensor(context: dg.RunFailureSensorContext) -> None:
    """Log the line where the daemon's log and the sensor's tick page show it."""
    context.log.error(failure_line(context))


def failure_line(context: dg.RunFailureSensorContext) -> str:
    """`training_deployment of round 0003 failed in model_checkpoint: <the innermost message> (run 1234abcd)`."""
    run = context.dagster_run
    round_ = run.tags.get("dagster/partition")
    where = f"{run.job_name} of round {round_}" if round_ else run.job_name
    steps = context.get_step_failure_events()
    if not steps:
        return f"{where} failed: {_first_line(context.failure_event.message or 'no reason given')} (run {run.run_id[:8]})"
    data = steps[0].step_failure_data
    error = data.error
    while error is not None and error.cause is not None:
        error = error.cause
    message = error.message if error is not None else steps[0].message or ""
    return f"{where} failed in {steps[0].step_key}: {_first_line(message)} (run {run.run_id[:8]})"


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), text)
