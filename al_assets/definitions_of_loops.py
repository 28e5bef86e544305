"""Everything of one loop, assembled in one place: the only one of its code location, or one of several."""

from __future__ import annotations

import dagster as dg

from al_assets.checks import CHECKS
from al_assets.decision_jobs import decision_jobs
from al_assets.deployment import deployment
from al_assets.jobs import retirement_job, selection_job, training_deployment_job
from al_assets.labeled_dataset import labeled_dataset
from al_assets.loop_names import LoopNames
from al_assets.model_checkpoint import model_checkpoint
from al_assets.monitoring_checks import MONITORING_CHECKS
from al_assets.prediction_log import prediction_log
from al_assets.selected_candidates import selected_candidates
from al_resources.profiles import profile_of
from al_resources.settings import Settings
from sensors.alerts import build_alert_sensor
from sensors.hourly_look import build_hourly_look
from sensors.labeling_export_events import build_labeling_export_events_sensor
from sensors.labeling_exports import build_labeling_export_sensor
from sensors.retention import build_retention_sensor
from sensors.retired_deployments import build_retired_deployment_sensor
from sensors.run_failures import build_run_failure_sensor
from sensors.selection_schedule import build_next_round_sensor, build_selection_schedule
from simulation.job import simulation_job

ASSETS = [prediction_log, selected_candidates, labeled_dataset, model_checkpoint, deployment]


def loop_definitions(settings: Settings, resource: object, prefix: tuple[str, ...] = ()) -> dg.Definitions:
    """Everything of one loop, under a key prefix where it is one of several; `resource` is, or makes, its platform."""
    loop = LoopNames(prefix, owners=settings.model.owners, model=settings.model.name)
    profile = profile_of(settings)
    build_export_sensor = build_labeling_export_events_sensor if profile.hears_events else build_labeling_export_sensor
    return dg.Definitions(
        assets=[asset.of(loop) for asset in ASSETS],
        asset_checks=[check.of(loop) for check in (*CHECKS, *MONITORING_CHECKS)],
        jobs=[
            selection_job(loop),
            training_deployment_job(loop, settings.dagster.training_tags),
            simulation_job(loop),
            *decision_jobs(loop),
            *([retirement_job(loop)] if profile.machines_cost else []),
        ],
        schedules=[build_selection_schedule(settings, loop)],
        sensors=[
            build_next_round_sensor(settings, loop),
            build_export_sensor(settings, loop),
            build_run_failure_sensor(loop),
            build_alert_sensor(settings, loop),
            build_hourly_look(loop),
            build_retention_sensor(loop),
            *([build_retired_deployment_sensor(loop)] if profile.machines_cost else []),
        ],
        resources={loop.platform: resource},
    )
