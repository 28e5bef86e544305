"""The jobs of the loop. Their steps share one process: they are short, and torch is imported once."""

from collections.abc import Mapping
from datetime import timedelta
from types import MappingProxyType

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from al_assets.deployment import deployment
from al_assets.labeled_dataset import labeled_dataset
from al_assets.loop_names import THE_LOOP, LoopNames, assets_of, loop_job
from al_assets.model_checkpoint import model_checkpoint
from al_assets.prediction_log import prediction_log
from al_assets.selected_candidates import selected_candidates
from al_resources.platform import Platform


def selection_job(loop: LoopNames = THE_LOOP) -> UnresolvedAssetJobDefinition:
    """Score what is new, choose what people label next."""
    return dg.define_asset_job(
        loop.name("selection"),
        selection=assets_of(loop, [prediction_log, selected_candidates]),
        description="Choose the next images for people to label.",
        tags={"al/loop": "selection"},
        executor_def=dg.in_process_executor,
    )


def training_deployment_job(
    loop: LoopNames = THE_LOOP, tags: Mapping[str, str] = MappingProxyType({})
) -> UnresolvedAssetJobDefinition:
    """From an export to who serves. The tags are what whoever starts its runs should know, like of a GPU."""
    return dg.define_asset_job(
        loop.name("training_deployment"),
        selection=assets_of(loop, [labeled_dataset, model_checkpoint, deployment]),
        description="Merge an export, train the challenger, gate it, deploy it.",
        tags={**tags, "al/loop": "training_deployment"},
        executor_def=dg.in_process_executor,
    )


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


def retirement_job(loop: LoopNames = THE_LOOP) -> dg.JobDefinition:
    """Never while a rollout moves the traffic."""
    return loop_job(
        loop,
        "retirement",
        remove_retired_deployment,
        pool="training_deployment",
        description="Remove the deployment that served before, once its grace is over.",
    )
