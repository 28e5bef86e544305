"""The sensor that notices when the version that served before has stood by long enough."""

from datetime import timedelta

import dagster as dg

from al_assets.loop_names import THE_LOOP, LoopNames
from al_resources.platform import Platform

RETIREMENT_JOB = "retirement"


def build_retired_deployment_sensor(loop: LoopNames = THE_LOOP) -> dg.SensorDefinition:
    """The sensor, looking every ten minutes."""
    return dg.sensor(
        name=loop.name("retired_deployments"),
        job_name=loop.name(RETIREMENT_JOB),
        minimum_interval_seconds=600,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Has the version that served before stood by long enough? Its machines cost by the hour.",
    )(loop.bound(retired_deployment_sensor))


def retired_deployment_sensor(
    context: dg.SensorEvaluationContext, platform: dg.ResourceParam[Platform]
) -> dg.RunRequest | dg.SkipReason:
    """One run per promotion, or nothing."""
    return look_for_retired(platform)


def look_for_retired(platform: Platform) -> dg.RunRequest | dg.SkipReason:
    """A request to remove it, or the reason not to."""
    from al_core.records import utc_now
    from al_loop.retiring import due

    hours = platform.settings.azure_ml.old_deployment_hours
    retired = due(platform.ledgers.read("deployments"), grace=timedelta(hours=hours), now=utc_now())
    if retired is None:
        return dg.SkipReason(f"no version has been replaced for {hours:g} hours")
    return dg.RunRequest(run_key=f"retired-{retired.deployment_id}")
