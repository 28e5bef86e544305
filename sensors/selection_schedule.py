"""What opens the next round of selection, unless there is a reason to wait: a sensor that looks at what has changed, or
a schedule for those who want rounds at fixed times.

The sensor looks at the stores, not at Dagster's events alone: images come in by `al ingest`, and a version serves
because somebody typed `al promote`; of neither does Dagster know. Where log, endpoint and runs stand as they stood at
the last look, the stores are asked once a minute only.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime

import dagster as dg

from al_assets.loop_names import THE_LOOP, LoopNames
from al_assets.prediction_log import WAITS_FOR, prediction_log
from al_assets.rounds import open_rounds, round_key
from al_loop.waiting import reason_to_wait, standing
from al_resources.platform import Platform
from al_resources.settings import Settings

SELECTION_JOB = "selection"
TRAINING_JOB = "training_deployment"
FULL_LOOK_SECONDS = 60
AT_WORK = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
]


def build_selection_schedule(settings: Settings, loop: LoopNames = THE_LOOP) -> dg.ScheduleDefinition:
    """The schedule, ticking as `selection.cron` says."""

    def selection_schedule(
        context: dg.ScheduleEvaluationContext, platform: dg.ResourceParam[Platform]
    ) -> dg.RunRequest | dg.SkipReason:
        return next_round(context.instance, platform, context.scheduled_execution_time, context.log.info, loop)

    return dg.schedule(
        name=loop.name("selection_schedule"),
        job_name=loop.name(SELECTION_JOB),
        cron_schedule=settings.selection.cron,
        execution_timezone="UTC",
        description="Opens the next round at fixed times: which images are worth a person's time now?",
    )(loop.bound(selection_schedule))


def build_next_round_sensor(settings: Settings, loop: LoopNames = THE_LOOP) -> dg.SensorDefinition:
    """The sensor, looking every `sensors.round_interval_seconds`."""

    def next_round_sensor(context: dg.SensorEvaluationContext, platform: dg.ResourceParam[Platform]) -> dg.SensorResult:
        return look_for_next_round(context, platform, loop)

    return dg.sensor(
        name=loop.name("next_round_sensor"),
        job_name=loop.name(SELECTION_JOB),
        minimum_interval_seconds=settings.sensors.round_interval_seconds,
        description="Opens the next round as soon as nothing stands in its way, and says what it waits for until then.",
    )(loop.bound(next_round_sensor))


def look_for_next_round(
    context: dg.SensorEvaluationContext, platform: Platform, loop: LoopNames = THE_LOOP
) -> dg.SensorResult:
    """One look. What it waits for is told to the page of `prediction_log` whenever it is something else."""
    from al_core.records import utc_now

    before = json.loads(context.cursor) if context.cursor else {"state": None, "said": ""}
    now = utc_now()
    state = _state(context.instance, platform, now, loop)
    if state == before["state"]:
        return dg.SensorResult(skip_reason=before["said"])
    answer = next_round(context.instance, platform, now, context.log.info, loop)
    if isinstance(answer, dg.RunRequest):
        return dg.SensorResult(run_requests=[answer], cursor=json.dumps({"state": None, "said": ""}))
    said = answer.skip_message or ""
    line = standing(platform, training_on_its_way(context.instance, loop) or "").sentence
    told = (
        []
        if said == before["said"]
        else [dg.AssetObservation(loop.key(prediction_log.name), metadata={WAITS_FOR: line})]
    )
    return dg.SensorResult(skip_reason=said, asset_events=told, cursor=json.dumps({"state": state, "said": said}))


def _state(instance: dg.DagsterInstance, platform: Platform, now: datetime, loop: LoopNames) -> list[str]:
    """What moves when a round may have become possible, and costs little to ask for; all else is seen in a minute."""
    runs = [
        run
        for job in (TRAINING_JOB, SELECTION_JOB)
        for run in instance.get_runs(dg.RunsFilter(job_name=loop.name(job)), limit=1)
    ]
    return [
        str(platform.endpoint.state().serving_version),
        platform.predictions.watermark().token,
        *(f"{run.run_id} {run.status.value}" for run in runs),
        str(int(now.timestamp() // FULL_LOOK_SECONDS)),
    ]


def next_round(
    instance: dg.DagsterInstance,
    platform: Platform,
    now: datetime,
    log: Callable[[str], None],
    loop: LoopNames = THE_LOOP,
) -> dg.RunRequest | dg.SkipReason:
    """A request for the next round, or the reason to wait."""
    rounds = _rounds(instance, platform, log, loop)
    unfinished = rounds[-1] if rounds and _is_unfinished(instance, platform, rounds[-1], loop) else None
    if unfinished is not None and (running := _active_run(instance, unfinished, loop)):
        return dg.SkipReason(f"round {unfinished} is being selected by run {running}")
    if unfinished is None or platform.ledgers.read("selections", round=unfinished).is_empty():
        if waiting := reason_to_wait(platform, training_on_its_way(instance, loop) or ""):
            return dg.SkipReason(waiting.sentence)
        if why := why_another_random_round(platform):
            log(why)
    if unfinished is not None:  # opened, but its run failed or was never submitted: ask again, under a new key
        number, attempt = unfinished, f"-{now:%Y%m%dT%H%M%S}"
    else:
        number, attempt = (rounds[-1] + 1 if rounds else 0), ""
    instance.add_dynamic_partitions(loop.round_partitions, [round_key(number)])
    return dg.RunRequest(
        run_key=f"round-{round_key(number)}{attempt}",
        partition_key=round_key(number),
        tags={"al/round": str(number)},
    )


def _rounds(instance: dg.DagsterInstance, platform: Platform, log: Callable[[str], None], loop: LoopNames) -> list[int]:
    """The rounds that Dagster knows, and those on record: an instance may be younger than its home."""
    on_record = platform.ledgers.read("selections")["round"].unique().to_list()
    return sorted({*open_rounds(instance, log, loop), *on_record})


def _is_unfinished(instance: dg.DagsterInstance, platform: Platform, round_: int, loop: LoopNames) -> bool:
    """Whether nothing is selected for it; or it was staged by `al start`, waits, and Dagster has not heard of it."""
    from al_core.answers import answered

    selected = platform.ledgers.read("selections", round=round_)["image_id"]
    if selected.is_empty():
        return True
    unknown = not instance.has_dynamic_partition(loop.round_partitions, round_key(round_))
    return unknown and not set(selected) <= set(answered(platform.ledgers.read("labels")))


def why_another_random_round(platform: Platform) -> str | None:
    """Why a round of random images is drawn although some are labeled already; None where it is not."""
    if platform.endpoint.state().serving_version is not None or platform.ledgers.read("labels").is_empty():
        return None
    return (
        f"the labels so far made no model that serves{_what_came_of_them(platform)}; another random round brings more "
        "of them"
    )


def _what_came_of_them(platform: Platform) -> str:
    """What the gate said of the newest model, or why the training ended without one."""
    if versions := platform.registry.versions():
        gate = platform.registry.manifest(versions[-1]).gate
        return f" (v{versions[-1]}: {gate.reason})" if gate else ""
    failed = platform.ledgers.read("failures").filter(job=TRAINING_JOB)
    return f": {failed['reason'][-1]}" if failed.height else ""


def training_on_its_way(instance: dg.DagsterInstance, loop: LoopNames = THE_LOOP) -> str | None:
    """The id of a run that trains or is about to, a retry that is due included."""
    for run in instance.get_runs(dg.RunsFilter(job_name=loop.name(TRAINING_JOB)), limit=20):
        retried = run.tags.get("dagster/will_retry") == "true" and "dagster/auto_retry_run_id" not in run.tags
        if retried or not run.is_finished:
            return run.run_id[:8]
    return None


def _active_run(instance: dg.DagsterInstance, round_: int, loop: LoopNames) -> str | None:
    """The id of a run that is selecting this round right now."""
    runs = instance.get_runs(
        dg.RunsFilter(
            job_name=loop.name(SELECTION_JOB), statuses=AT_WORK, tags={"dagster/partition": round_key(round_)}
        ),
        limit=1,
    )
    return runs[0].run_id if runs else None
