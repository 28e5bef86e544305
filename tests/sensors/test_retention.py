"""What has had its time is let go of: old runs but for those that something rests on, and rejected images."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.test_utils import create_run_for_test

from al_core.records import DEPLOYMENTS, REJECTED_IMAGES, table_of, utc_now
from al_resources.platform import Platform
from al_resources.settings import load_settings
from sensors import retention
from sensors.retention import let_go_of_old_runs, let_go_of_rejected_images

OLD = timedelta(days=91)
ROUNDS = dg.StaticPartitionsDefinition(["0000", "0001"])


@dg.asset(partitions_def=ROUNDS)
def model_checkpoint() -> None:
    """Of a round."""
    print("what it printed")


@dg.asset
def prediction_log() -> None:
    """Of no round."""


@pytest.fixture
def platform(tmp_path: Path) -> Platform:
    return Platform(load_settings(home=tmp_path / "home"))


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:
        yield instance


def look(platform: Platform, instance: dg.DagsterInstance, cursor: str | None = None) -> tuple[str, str | None]:
    """What it says, and its cursor, when all that ran so far is old."""
    with dg.build_sensor_context(instance, cursor=cursor) as context:
        said = let_go_of_old_runs(context, platform, utc_now() + OLD)
        return said, context.cursor


def ran(instance: dg.DagsterInstance, asset: dg.AssetsDefinition, round_: str | None = None) -> str:
    job = dg.Definitions([asset], jobs=[dg.define_asset_job("job", [asset])]).resolve_job_def("job")
    return job.execute_in_process(instance=instance, partition_key=round_).run_id


def kept(instance: dg.DagsterInstance) -> set[str]:
    return {run.run_id for run in instance.get_runs()}


def test_a_run_goes_when_a_later_one_made_the_same_anew_and_a_failed_one_goes(
    platform: Platform, instance: dg.DagsterInstance
) -> None:
    for _ in range(2):
        ran(instance, prediction_log)
    create_run_for_test(instance, status=dg.DagsterRunStatus.FAILURE)
    newest = ran(instance, prediction_log)
    assert look(platform, instance)[0] == "deleted 3 runs older than 90 days (dagster.keep_runs_days)"
    assert kept(instance) == {newest}
    assert look(platform, instance)[0] == ""


def test_the_newest_run_of_each_round_stays_so_that_no_round_looks_as_if_it_were_missing(
    platform: Platform, instance: dg.DagsterInstance
) -> None:
    _, second, other = (ran(instance, model_checkpoint, round_) for round_ in ("0000", "0000", "0001"))
    look(platform, instance)
    assert kept(instance) == {second, other}
    assert instance.get_materialized_partitions(model_checkpoint.key) == {"0000", "0001"}


def test_of_a_run_that_stays_the_printed_output_goes(
    platform: Platform, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    ran(instance, model_checkpoint, "0000")
    assert list(tmp_path.rglob("*.out"))
    look(platform, instance)
    assert not list(tmp_path.rglob("*.out"))


def test_a_run_that_a_deployment_names_stays(platform: Platform, instance: dg.DagsterInstance) -> None:
    named, _ = (create_run_for_test(instance, status=dg.DagsterRunStatus.SUCCESS).run_id for _ in range(2))
    row = {"deployment_id": "1", "model_version": 1, "outcome": "promoted", "run_id": named}
    platform.ledgers.insert_new("deployments", table_of(DEPLOYMENTS, [row]), ["deployment_id"])
    look(platform, instance)
    assert kept(instance) == {named}


def test_what_is_young_or_not_at_its_end_stays(platform: Platform, instance: dg.DagsterInstance) -> None:
    at_work = create_run_for_test(instance, status=dg.DagsterRunStatus.STARTED).run_id
    young = create_run_for_test(instance, status=dg.DagsterRunStatus.FAILURE).run_id
    with dg.build_sensor_context(instance) as context:
        let_go_of_old_runs(context, platform, utc_now() + timedelta(days=89))
    assert kept(instance) == {at_work, young}
    look(platform, instance)
    assert kept(instance) == {at_work}


def test_a_look_decides_on_a_few_and_the_next_goes_on_behind_those_that_stay(
    platform: Platform, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "PER_TICK", 2)
    stays = {ran(instance, model_checkpoint, round_) for round_ in ("0000", "0001")}
    for _ in range(3):
        create_run_for_test(instance, status=dg.DagsterRunStatus.CANCELED)
    cursor: str | None = None
    for _ in range(3):
        _, cursor = look(platform, instance, cursor)
    assert kept(instance) == stays
    assert not cursor, "and it begins again at the oldest"


def test_rejected_images_of_long_ago_go_and_may_be_rejected_again(platform: Platform) -> None:
    now = utc_now()
    rows = [
        {"name": f"{days}.png", "reason": "broken", "source": "online", "rejected_at": now - timedelta(days=days)}
        for days in (0, 89, 92, 400)
    ]
    platform.ledgers.insert_new("rejected_images", table_of(REJECTED_IMAGES, rows), ["name"])
    assert let_go_of_rejected_images(platform, now).startswith("deleted 2 rejected images older than 90 days")
    assert let_go_of_rejected_images(platform, now) == ""
    assert platform.ledgers.read("rejected_images")["name"].to_list() == ["0.png", "89.png"]
    assert platform.ledgers.insert_new("rejected_images", table_of(REJECTED_IMAGES, rows), ["name"]) == 2
