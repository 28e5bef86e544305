"""The sensor that lets go of what has had its time: what Dagster keeps of old runs, and names of rejected images.

What the loop did is in its own ledgers, which keep everything else. A run stays, whatever its age, that made the newest
version of an asset or of one of its rounds, so that no page shows a round as missing, and one that a deployment or a
decision names, so that `al trace` leads to it. Of such a run only the printed output goes.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta

import dagster as dg

from al_assets.loop_names import THE_LOOP, LoopNames
from al_resources.platform import Platform

PER_TICK = 50  # runs that one look decides on: a tick has a minute
FINISHED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]


def build_retention_sensor(loop: LoopNames = THE_LOOP) -> dg.SensorDefinition:
    """The sensor, looking every ten minutes."""
    return dg.sensor(
        name=loop.name("retention"),
        minimum_interval_seconds=600,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Deletes what is kept of old runs on which nothing rests, and of images rejected long ago.",
    )(loop.bound(retention_sensor))


def retention_sensor(
    context: dg.SensorEvaluationContext, platform: dg.ResourceParam[Platform], loop: LoopNames = THE_LOOP
) -> dg.SkipReason:
    """One look; says what it deleted."""
    from al_core.records import utc_now

    now = utc_now()
    done = [let_go_of_old_runs(context, platform, now, loop), let_go_of_rejected_images(platform, now)]
    return dg.SkipReason("; ".join(filter(None, done)) or "nothing is old enough to delete")


def let_go_of_rejected_images(platform: Platform, now: datetime) -> str:
    """Once a day, as each time rewrites a file of the ledger."""
    days = platform.settings.serving.keep_rejected_days
    oldest = platform.ledgers.read("rejected_images")["rejected_at"].min()
    if not isinstance(oldest, datetime) or now - oldest < timedelta(days=days + 1):
        return ""
    deleted = platform.ledgers.expire("rejected_images", now - timedelta(days=days))
    return f"deleted {deleted} rejected images older than {days} days (serving.keep_rejected_days)" if deleted else ""


def let_go_of_old_runs(
    context: dg.SensorEvaluationContext, platform: Platform, now: datetime, loop: LoopNames = THE_LOOP
) -> str:
    """Decide on the next few runs that are old enough, oldest first; the cursor is the time of the last."""
    days = platform.settings.dagster.keep_runs_days
    instance = context.instance
    old = instance.get_run_records(
        dg.RunsFilter(
            statuses=FINISHED,
            created_before=now - timedelta(days=days),
            created_after=datetime.fromisoformat(context.cursor) if context.cursor else None,
        ),
        limit=PER_TICK,
        ascending=True,
    )
    context.update_cursor(old[-1].create_timestamp.isoformat() if len(old) == PER_TICK else "")
    named = _named(platform) if old else set()
    deleted = 0
    for run in (record.dagster_run for record in old if loop.owns(record.dagster_run)):
        instance.compute_log_manager.delete_logs(prefix=[run.run_id])
        if run.run_id not in named and not _made_what_is_newest(instance, run.run_id):
            instance.delete_run(run.run_id)
            deleted += 1
    return f"deleted {deleted} runs older than {days} days (dagster.keep_runs_days)" if deleted else ""


def _named(platform: Platform) -> Collection[str]:
    """Runs that the records of who served, and why, lead to."""
    ledgers = [platform.ledgers.read(name)["run_id"] for name in ("deployments", "decisions")]
    return {run_id for ledger in ledgers for run_id in ledger if run_id}


def _made_what_is_newest(instance: dg.DagsterInstance, run_id: str) -> bool:
    """Whether an asset, or one of its rounds, has its newest version from this run."""
    made = instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION).records
    for record in made:
        if (of := record.asset_materialization) is None:
            continue
        which = dg.AssetRecordsFilter(
            asset_key=of.asset_key, asset_partitions=None if of.partition is None else [of.partition]
        )
        newest = instance.fetch_materializations(which, limit=1).records
        if newest and newest[0].run_id == run_id:
            return True
    return False
