"""What Dagster loads: the five assets, their lineage, jobs, schedule, sensors, and nothing heavy."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from al_assets import columns
from al_assets.definitions import build_definitions, defs
from al_core import records
from al_core.dataset import ROWS
from al_core.judging.evaluation import COLUMNS

LINEAGE = {
    "prediction_log": set(),
    "selected_candidates": {"prediction_log"},
    "labeled_dataset": {"selected_candidates"},
    "model_checkpoint": {"labeled_dataset"},
    "deployment": {"model_checkpoint"},
}


def test_there_are_five_assets_in_one_line() -> None:
    graph = defs.resolve_asset_graph()
    found = {
        key.to_user_string(): {parent.to_user_string() for parent in graph.get(key).parent_keys}
        for key in graph.get_all_asset_keys()
    }
    assert found == LINEAGE


def test_all_but_the_log_are_partitioned_by_round() -> None:
    graph = defs.resolve_asset_graph()
    for name in LINEAGE:
        partitions = graph.get(dg.AssetKey(name)).partitions_def
        assert (partitions is None) == (name == "prediction_log")
        if partitions is not None:
            assert partitions.name == "round"


@pytest.mark.parametrize("name", LINEAGE)
def test_every_asset_says_what_it_is_and_whose(name: str) -> None:
    spec = defs.resolve_asset_graph().get(dg.AssetKey(name))
    assert spec.description
    assert spec.kinds
    assert spec.group_name == "active_learning"


def test_the_jobs_the_schedule_and_the_sensors_are_there() -> None:
    repository = defs.get_repository_def()
    assert {"selection", "training_deployment"} <= {job.name for job in repository.get_all_jobs()}
    assert {schedule.name for schedule in repository.schedule_defs} == {"selection_schedule"}
    assert {sensor.name for sensor in repository.sensor_defs} == {
        "alerts",
        "hourly_look",
        "retention",
        "labeling_export_sensor",
        "next_round_sensor",
        "run_failures",
    }


def test_the_log_is_looked_at_once_an_hour_and_nothing_else_by_a_condition() -> None:
    noon = datetime(2026, 1, 5, 12, 0, 1, tzinfo=UTC)
    with dg.instance_for_test() as instance:
        requested, cursor = [], None
        for minutes in (0, 30, 61, 90):
            looked = dg.evaluate_automation_conditions(
                defs, instance=instance, cursor=cursor, evaluation_time=noon + timedelta(minutes=minutes)
            )
            cursor = looked.cursor
            requested.append({key for key in map(dg.AssetKey, LINEAGE) if looked.get_num_requested(key)})
    log = {dg.AssetKey("prediction_log")}
    assert requested == [set(), set(), log, set()]


def test_a_leaking_dataset_is_held_back_and_a_refusal_blocks_nothing() -> None:
    graph = defs.resolve_asset_graph()
    blocking = {key.name for key in graph.asset_check_keys if graph.get(key).blocking}
    assert blocking == {"holdout_is_untouched"}


AZURE = {
    "AL_PROFILE": "azure",
    "AL_AZURE__KUSTO_URI": "https://logs.westeurope.kusto.windows.net",
    "AL_AZURE__BLOB_ACCOUNT_URL": "https://images.blob.core.windows.net",
    "AL_AZURE__EVENTS_QUEUE_URL": "https://images.queue.core.windows.net/labeling-exports",
}


def test_deployments_that_cost_by_the_hour_are_removed_after_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (AZURE | {"AL_AZURE_ML__WORKSPACE": "ws"}).items():
        monkeypatch.setenv(name, value)
    repository = build_definitions().get_repository_def()
    assert "retired_deployments" in {sensor.name for sensor in repository.sensor_defs}
    assert "retirement" in {job.name for job in repository.get_all_jobs()}


def test_on_azure_exports_announce_themselves_where_there_is_a_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    def sensors() -> set[str]:
        return {sensor.name for sensor in build_definitions().get_repository_def().sensor_defs}

    for name, value in AZURE.items():
        monkeypatch.setenv(name, value)
    others = {"next_round_sensor", "run_failures", "alerts", "hourly_look", "retention"}
    assert sensors() == {"labeling_export_events_sensor", *others}
    monkeypatch.delenv("AL_AZURE__EVENTS_QUEUE_URL")
    assert sensors() == {"labeling_export_sensor", *others}


@pytest.mark.parametrize("profile", [{}, AZURE], ids=["local", "azure"])
def test_loading_the_definitions_imports_neither_torch_nor_a_client_of_azure(profile: dict[str, str]) -> None:
    program = (
        "import sys, al_assets.definitions\n"
        "heavy = ('torch', 'torchvision', 'azure', 'adlfs', 'sklearn', 'matplotlib', 'deltalake')\n"
        "print([name for name in sys.modules if name.split('.')[0] in heavy])"
    )
    environment = {**os.environ, **profile}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("described", "kept"),
    [
        (columns.PREDICTIONS, records.PREDICTIONS.names),
        (columns.SELECTIONS, records.SELECTIONS.names),
        (columns.DATASET, ROWS.names()),
        (columns.EVALUATION, COLUMNS.names()),
        (columns.DEPLOYMENTS, records.DEPLOYMENTS.names),
    ],
)
def test_every_column_is_described_and_none_that_is_not_there(
    described: dict[str, tuple[str, str]], kept: list[str]
) -> None:
    assert list(described) == kept
