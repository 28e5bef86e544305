"""The sensor that looks for labeling exports and sets training and deployment going, each export once.

The run key is `path@etag`, so a tick that is interrupted or repeated requests nothing twice; the cursor only
saves work. `run_key` also keeps failed runs from being requested again: those are started anew by Dagster's run
retries. Only a run that ended before its export was merged is asked for again, under the next key: without that the
labels would wait for ever.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import dagster as dg

from al_assets.loop_names import THE_LOOP, LoopNames
from al_assets.rounds import round_key
from al_resources.platform import Platform
from al_resources.settings import Settings

if TYPE_CHECKING:
    from al_resources.labeling.look import Look
    from al_resources.labeling.merge import Plan

TRAINING_JOB = "training_deployment"
ATTEMPTS = 3  # runs of one export, retries apart, that may end before the merge; then a person has to look
Tick = Callable[[dg.SensorEvaluationContext, Platform, LoopNames], dg.SensorResult | dg.SkipReason]


def build_labeling_export_sensor(settings: Settings, loop: LoopNames = THE_LOOP) -> dg.SensorDefinition:
    """The sensor that lists the inbox."""
    return build_sensor(
        settings,
        "labeling_export_sensor",
        "Looks for labeling exports; a new one is merged, trained on and deployed.",
        look_for_exports,
        loop,
    )


def build_sensor(settings: Settings, name: str, description: str, tick: Tick, loop: LoopNames) -> dg.SensorDefinition:
    """A sensor for exports, ticking as often as `sensors.export_interval_seconds` says."""

    def sensor(
        context: dg.SensorEvaluationContext, platform: dg.ResourceParam[Platform]
    ) -> dg.SensorResult | dg.SkipReason:
        return tick(context, platform, loop)

    return dg.sensor(
        name=loop.name(name),
        job_name=loop.name(TRAINING_JOB),
        minimum_interval_seconds=settings.sensors.export_interval_seconds,
        description=description,
    )(loop.bound(sensor))


def look_for_exports(
    context: dg.SensorEvaluationContext, platform: Platform, loop: LoopNames = THE_LOOP
) -> dg.SensorResult | dg.SkipReason:
    """One tick: a run request per new export, or what else there is to say."""
    from al_core.records import utc_now
    from al_resources.labeling.look import InboxCursor, look

    collect_exports(context, platform)
    cursor = InboxCursor.parse(context.cursor)
    again, besides = came_to_nothing(context.instance, cursor.requested, loop)
    found = look(
        platform.inbox,
        cursor,
        limit=platform.settings.sensors.exports_per_tick,
        now=utc_now(),
        again=again,
    )
    if found.left:
        besides.append(f"{len(found.left)} more exports wait for the next tick")
    return what_to_run(context, platform, found, found.cursor.model_dump_json(), besides, loop)


@dataclass(frozen=True)
class Attempts:
    """The runs that Dagster knows of one content of an export."""

    keys: int  # run keys used so far; retries have the key of their run
    at_work: bool
    last: str  # the newest run's id


def attempts_at(instance: dg.DagsterInstance, path: str, etag: str, loop: LoopNames = THE_LOOP) -> Attempts:
    """What became of the runs that were requested for this content."""
    runs = instance.get_runs(dg.RunsFilter(job_name=loop.name(TRAINING_JOB), tags={"al/export": path}))
    ours = [run for run in runs if run.tags.get("dagster/run_key", "").partition("#")[0] == f"{path}@{etag}"]
    keys = {run.tags["dagster/run_key"] for run in ours}
    return Attempts(len(keys), any(map(_is_at_work, ours)), ours[0].run_id if ours else "")


def _is_at_work(run: dg.DagsterRun) -> bool:
    retried = run.tags.get("dagster/will_retry") == "true" and "dagster/auto_retry_run_id" not in run.tags
    return retried or not run.is_finished


def came_to_nothing(
    instance: dg.DagsterInstance, requested: Mapping[str, str], loop: LoopNames = THE_LOOP
) -> tuple[list[str], list[str]]:
    """Of what was requested and may not be merged: what no run works at and is to be asked for again, and what,
    in words, was asked for often enough.

    A request of which Dagster knows no run (its record was deleted, or the instance was made anew) is asked for again
    under the key it had: should there be a run after all, Dagster starts no second one.
    """
    again, words = [], []
    for path, etag in requested.items():
        attempts = attempts_at(instance, path, etag, loop)
        if attempts.at_work:
            continue
        if attempts.keys < ATTEMPTS:
            again.append(path)
        else:
            words.append(
                f"{path} is not merged: {attempts.keys} runs ended before (see run {attempts.last[:8]}); mend the "
                "cause, then write the file anew"
            )
    return again, words


def collect_exports(context: dg.SensorEvaluationContext, platform: Platform) -> None:
    """Let the labeling tool bring its exports into the inbox; one that cannot be asked stops nothing else."""
    from al_resources.labeling import LabelingError

    try:
        for path in platform.labeling.collect():
            context.log.info(f"{path} came from the labeling tool")
    except LabelingError as error:
        context.log.error(f"the labeling tool gave nothing: {error}")


def what_to_run(
    context: dg.SensorEvaluationContext,
    platform: Platform,
    found: "Look",
    cursor: str,
    besides: Sequence[str] = (),
    loop: LoopNames = THE_LOOP,
) -> dg.SensorResult:
    """A run request per export that is ready, its round opened where Dagster does not know it; or why there is none.

    `besides`: what else happened, in words.
    """
    told = [_refused_ones(platform, loop)] if found.refused else []
    for merge in found.refused:
        context.log.error(f"{merge.path} was refused and lies in quarantine: {merge.reason}")
    for plan in found.ready:
        if plan.set_aside:
            context.log.warning(f"{plan.export.path}: {plan.remarks}")
    if not found.ready:
        return dg.SensorResult(
            skip_reason=dg.SkipReason(_nothing_to_do(found, besides)), asset_events=told, cursor=cursor
        )
    rounds = [round_key(plan.round or 0) for plan in found.ready]
    known = context.instance.has_dynamic_partition
    unopened = [key for key in dict.fromkeys(rounds) if not known(loop.round_partitions, key)]
    return dg.SensorResult(
        run_requests=[_run_request(context.instance, plan, loop) for plan in found.ready],
        dynamic_partitions_requests=[loop.rounds.build_add_request(unopened)] if unopened else None,
        asset_events=told,
        cursor=cursor,
    )


def _refused_ones(platform: Platform, loop: LoopNames) -> dg.AssetCheckEvaluation:
    """What the check `exports_were_taken` says, on the page of `labeled_dataset` although nothing runs."""
    from al_assets.checks import exports_were_taken
    from al_assets.labeled_dataset import labeled_dataset

    found = exports_were_taken(platform)
    return dg.AssetCheckEvaluation(
        loop.key(labeled_dataset.name),
        exports_were_taken.function.__name__,
        found.passed,
        metadata=found.metadata,
        severity=found.severity,
        description=found.description,
    )


def _run_request(instance: dg.DagsterInstance, plan: "Plan", loop: LoopNames) -> dg.RunRequest:
    export = plan.export
    attempts = attempts_at(instance, export.path, export.etag, loop)
    number = attempts.keys - (1 if attempts.at_work or attempts.keys >= ATTEMPTS else 0)
    return dg.RunRequest(
        run_key=f"{export.path}@{export.etag}" + (f"#{number}" if number > 0 else ""),
        partition_key=round_key(plan.round or 0),
        run_config={"ops": {loop.name("labeled_dataset"): {"config": {"export": export.path}}}},
        tags={"al/export": export.path, "al/round": str(plan.round)},
    )


def _nothing_to_do(found: "Look", besides: Sequence[str]) -> str:
    """Why no run is requested, in words."""
    parts = [f"{merge.path} was refused: {merge.reason}" for merge in found.refused]
    parts += [f"{merge.path} brings no new labels ({merge.reason})" for merge in found.nothing_new]
    parts += [f"{path} is not complete yet" for path in found.waiting]
    parts += [f"{path} brings nothing new until those that came before it are merged" for path in found.behind]
    parts += [f"{path} is gone" for path in found.gone]
    parts += [f"{path} cannot be read: {reason}" for path, reason in found.unfit.items()]
    return "; ".join([*parts, *besides]) or "no new exports"
