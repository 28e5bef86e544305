"""Everything Dagster loads, assembled in one place."""

from __future__ import annotations

import dagster as dg

from al_assets.checks import CHECKS
from al_assets.decision_jobs import DECISION_JOBS
from al_assets.deployment import deployment
from al_assets.jobs import retirement_job, selection_job, training_deployment_job
from al_assets.labeled_dataset import labeled_dataset
from al_assets.model_checkpoint import model_checkpoint
from al_assets.monitoring_checks import MONITORING_CHECKS
from al_assets.prediction_log import prediction_log
from al_assets.resources import platform_resource
from al_assets.selected_candidates import selected_candidates
from al_resources.platform import Platform
from al_resources.profiles import profile_of
from al_resources.settings import load_settings
from sensors.labeling_export_events import build_labeling_export_events_sensor
from sensors.labeling_exports import build_labeling_export_sensor
from sensors.retired_deployments import retired_deployment_sensor
from sensors.run_failures import run_failure_sensor
from sensors.selection_schedule import build_next_round_sensor, build_selection_schedule
from simulation.job import simulation_job


def build_definitions(platform: Platform | None = None) -> dg.Definitions:
    """The code location; a test passes its own platform, everybody else gets the one that `al.toml` describes."""
    settings = platform.settings if platform else load_settings()
    profile = platform.profile if platform else profile_of(settings)
    build_export_sensor = build_labeling_export_events_sensor if profile.hears_events else build_labeling_export_sensor
    return dg.Definitions(
        assets=[prediction_log, selected_candidates, labeled_dataset, model_checkpoint, deployment],
        asset_checks=[*CHECKS, *MONITORING_CHECKS],
        jobs=[
            selection_job,
            training_deployment_job,
            simulation_job,
            *DECISION_JOBS,
            *([retirement_job] if profile.machines_cost else []),
        ],
        schedules=[build_selection_schedule(settings)],
        sensors=[
            build_next_round_sensor(settings),
            build_export_sensor(settings),
            run_failure_sensor,
            *([retired_deployment_sensor] if profile.machines_cost else []),
        ],
        resources={"platform": platform or platform_resource},
        executor=dg.in_process_executor,
    )


defs = build_definitions()
