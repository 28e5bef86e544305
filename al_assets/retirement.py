"""The job that gives up the machines of the version that served before."""

from datetime import timedelta

import dagster as dg

from al_resources.platform import Platform


@dg.op(pool="training_deployment")  # never while a rollout moves the traffic
def remove_retired_deployment(context: dg.OpExecutionContext, platform: dg.ResourceParam[Platform]) -> None:
    """Remove the deployment whose grace is over; where there is none, nothing happens."""
    from al_core.records import utc_now
    from al_resources.endpoint.retirement import due, remove

    grace = timedelta(hours=platform.settings.azure_ml.old_deployment_hours)
    retired = due(platform.ledgers.read("deployments"), grace=grace, now=utc_now())
    name = None if retired is None else remove(platform.endpoint, retired)
    if retired is None or name is None:
        context.log.info("there is nothing to remove")
    else:
        context.log.info(f"removed {name} with version {retired.model_version}; v{retired.replaced_by} serves")


@dg.job(
    name="retirement",
    description="Remove the deployment that served before, once its grace is over.",
    executor_def=dg.in_process_executor,
)
def retirement_job() -> None:
    """One step."""
    remove_retired_deployment()
