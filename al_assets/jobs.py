"""The jobs of the loop. Their steps share one process: they are short, and torch is imported once."""

from datetime import timedelta

import dagster as dg

from al_assets.deployment import deployment
from al_assets.labeled_dataset import labeled_dataset
from al_assets.model_checkpoint import model_checkpoint
from al_assets.prediction_log import prediction_log
from al_assets.selected_candidates import selected_candidates
from al_resources.platform import Platform

selection_job = dg.define_asset_job(
    "selection",
    selection=dg.AssetSelection.assets(prediction_log, selected_candidates),
    description="Choose the next images for people to label.",
    tags={"al/loop": "selection"},
    executor_def=dg.in_process_executor,
)

training_deployment_job = dg.define_asset_job(
    "training_deployment",
    selection=dg.AssetSelection.assets(labeled_dataset, model_checkpoint, deployment),
    description="Merge an export, train the challenger, gate it, deploy it.",
    tags={"al/loop": "training_deployment"},
    executor_def=dg.in_process_executor,
)


@dg.op(pool="training_deployment")  # never while a rollout moves the traffic
def remove_retired_deployment(context: dg.OpExecutionContext, platform: dg.ResourceParam[Platform]) -> None:
    """Remove the deployment whose grace is over; where there is none, nothing happens."""
    from al_core.records import utc_now
    from al_loop.retiring import due, remove

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
