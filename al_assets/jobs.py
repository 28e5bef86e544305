"""The two jobs of the loop. Their steps share one process: they are short, and torch is imported once."""

from __future__ import annotations

import dagster as dg

from al_assets.deployment import deployment
from al_assets.labeled_dataset import labeled_dataset
from al_assets.model_checkpoint import model_checkpoint
from al_assets.prediction_log import prediction_log
from al_assets.selected_candidates import selected_candidates

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
