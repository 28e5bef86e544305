"""The sensor that says in one readable line what failed and what to do about it."""

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
    """`training_deployment of round 0003 failed in model_checkpoint: <the reason> (run 1234abcd)`."""
    run = context.dagster_run
    round_ = run.tags.get("dagster/partition")
    job = f"{run.job_name} of round {round_}" if round_ else run.job_name
    where, reason = _failed_check(context) or _failed_step(context)
    return f"{job} failed{where}: {_first_line(reason)} (run {run.run_id[:8]})"


def _failed_check(context: dg.RunFailureSensorContext) -> tuple[str, str] | None:
    """A blocking check tells in its description what it found; its exception does not."""
    records = context.instance.get_records_for_run(
        context.dagster_run.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION
    ).records
    for record in records:
        event = record.event_log_entry.dagster_event
        if event is None:
            continue
        check = event.asset_check_evaluation_data
        if check.blocking and not check.passed:
            found = check.description or "the check did not pass"
            return f" at {check.asset_key.to_user_string()}.{check.check_name}", found
    return None


def _failed_step(context: dg.RunFailureSensorContext) -> tuple[str, str]:
    steps = context.get_step_failure_events()
    if not steps:
        return "", context.failure_event.message or "no reason given"
    error = steps[0].step_failure_data.error
    while error is not None and error.cause is not None:
        error = error.cause
    return f" in {steps[0].step_key}", error.message if error is not None else steps[0].message or ""


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), text)
