"""The sensor that says in one readable line what failed and what to do about it, and puts it on record."""

from dataclasses import dataclass

import dagster as dg

from al_assets.loop_names import THE_LOOP, LoopNames
from al_resources.platform import Platform


@dataclass(frozen=True)
class FailedRun:
    """What is worth knowing of a run that failed."""

    run_id: str
    job: str
    round: str | None  # its key
    step: str  # where it failed; empty where it never came to a step
    reason: str  # one line

    @property
    def line(self) -> str:
        """`training_deployment of round 0003 failed in model_checkpoint: <the reason> (run 1234abcd)`."""
        job = f"{self.job} of round {self.round}" if self.round else self.job
        where = f" in {self.step}" if self.step else ""
        return f"{job} failed{where}: {self.reason} (run {self.run_id[:8]})"


def build_run_failure_sensor(loop: LoopNames = THE_LOOP) -> dg.SensorDefinition:
    """The sensor, on from the start."""
    return dg.run_failure_sensor(
        name=loop.name("run_failures"),
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="One readable line for every failed run.",
    )(loop.bound(on_run_failure))


def on_run_failure(
    context: dg.RunFailureSensorContext, platform: dg.ResourceParam[Platform], loop: LoopNames = THE_LOOP
) -> dg.SkipReason | None:
    """Log the line where the daemon's log and the sensor's tick page show it; `al status` reads the record."""
    if not loop.owns(context.dagster_run):
        return dg.SkipReason(f"{context.dagster_run.job_name} is no run of {loop.shown or 'the loop'}")
    failed = failed_run(context, loop)
    record(platform, failed)
    context.log.error(failed.line)
    return None


def failed_run(context: dg.RunFailureSensorContext, loop: LoopNames = THE_LOOP) -> FailedRun:
    """Where the run failed, and why."""
    run = context.dagster_run
    step, reason = _failed_check(context) or _failed_step(context)
    return FailedRun(
        run.run_id, loop.own(run.job_name), run.tags.get("dagster/partition"), loop.own(step), _first_line(reason)
    )


def record(platform: Platform, failed: FailedRun) -> None:
    """Put it into the ledger of failures, each run once."""
    from al_core.records import FAILURES, table_of, utc_now

    row = {
        "run_id": failed.run_id,
        "job": failed.job,
        "round": int(failed.round) if failed.round and failed.round.isdigit() else None,
        "step": failed.step,
        "reason": failed.reason,
        "failed_at": utc_now(),
    }
    platform.ledgers.insert_new("failures", table_of(FAILURES, [row]), on=["run_id"])


def _failed_check(context: dg.RunFailureSensorContext) -> tuple[str, str] | None:
    """A blocking check tells in its description what it found; its exception does not."""
    records = context.instance.get_records_for_run(
        context.dagster_run.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION
    ).records
    for one in records:
        event = one.event_log_entry.dagster_event
        if event is None:
            continue
        check = event.asset_check_evaluation_data
        if check.blocking and not check.passed:
            found = check.description or "the check did not pass"
            return f"{check.asset_key.to_user_string()}.{check.check_name}", found
    return None


def _failed_step(context: dg.RunFailureSensorContext) -> tuple[str, str]:
    """Of the chain of causes, the sentence that our code composed: the first error below Dagster's own wrappers.

    What lies deeper is what a library said, without the name of the image, the setting or the role.
    """
    steps = context.get_step_failure_events()
    if not steps:
        return "", context.failure_event.message or "no reason given"
    error = steps[0].step_failure_data.error
    while error is not None and error.cause is not None and (error.cls_name or "").startswith("Dagster"):
        error = error.cause
    if error is None:
        return steps[0].step_key or "", steps[0].message or ""
    return steps[0].step_key or "", error.message.removeprefix(_class_of(error.message, error.cls_name))


def _class_of(message: str, name: str | None) -> str:
    """The `package.Class: ` that Python puts before an error's own words; people need the words."""
    before, colon, _ = message.partition(": ")
    return before + colon if name and before.rsplit(".", 1)[-1] == name else ""


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), text)
