"""The version that served before stands by for its time, is removed once, and never while it is needed."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from small_models import register_model

from al_assets.jobs import retirement_job
from al_core.records import DEPLOYMENTS, table_of, utc_now
from al_resources.platform import Platform
from al_resources.settings import load_settings
from sensors.retired_deployments import look_for_retired

HOURS = 24


@pytest.fixture
def platform(tmp_path: Path) -> Platform:
    """Version 2 serves as green, version 1 stands by as blue."""
    platform = Platform(load_settings(home=tmp_path, azure_ml={"old_deployment_hours": HOURS}))
    for colour, seed in (("blue", 1), ("green", 2)):
        platform.endpoint.create(colour, register_model(platform, seed))
    platform.endpoint.set_traffic({"green": 100})
    return platform


def promoted(platform: Platform, version: int, previous: int | None, hours_ago: float) -> None:
    at: datetime = utc_now() - timedelta(hours=hours_ago)
    row = {
        "deployment_id": f"rollout-{version}",
        "endpoint": "classifier",
        "model_name": "classifier",
        "model_version": version,
        "previous_version": previous,
        "outcome": "promoted",
        "deployed_at": at,
    }
    platform.ledgers.insert_new("deployments", table_of(DEPLOYMENTS, [row]), on=["deployment_id"])


def retire(platform: Platform) -> dict[str, int]:
    """What stands after the job."""
    assert retirement_job().execute_in_process(resources={"platform": platform}).success
    return dict(platform.endpoint.state().deployments)


def test_it_stands_by_until_its_time_is_over(platform: Platform) -> None:
    promoted(platform, 2, 1, hours_ago=HOURS - 1)
    assert isinstance(look_for_retired(platform), dg.SkipReason)
    assert retire(platform) == {"blue": 1, "green": 2}


def test_then_it_is_removed_under_one_run_key_per_promotion(platform: Platform) -> None:
    promoted(platform, 2, 1, hours_ago=HOURS + 1)
    request = look_for_retired(platform)
    assert isinstance(request, dg.RunRequest)
    assert request.run_key == "retired-rollout-2"
    assert retire(platform) == {"green": 2}
    assert retire(platform) == {"green": 2}


def test_a_first_deployment_replaced_nobody(platform: Platform) -> None:
    promoted(platform, 1, None, hours_ago=HOURS + 1)
    assert isinstance(look_for_retired(platform), dg.SkipReason)


def test_it_is_left_alone_when_somebody_went_back_to_it(platform: Platform) -> None:
    promoted(platform, 2, 1, hours_ago=HOURS + 1)
    platform.endpoint.set_traffic({"blue": 100})
    assert retire(platform) == {"blue": 1, "green": 2}
