"""The rollout, against an endpoint in memory that can be told to fail at any step."""

from __future__ import annotations

from typing import Any

import pytest

from al_resources.endpoint import DeploymentFailed, EndpointState
from al_resources.endpoint.rollout import RolloutResult, end_killed_rollout, roll_out

SMOKE = [(b"seven", "7"), (b"one", None)]


class MemoryEndpoint:
    """An endpoint without machines. `faults` names what goes wrong."""

    def __init__(self, faults: str = "", **deployed: tuple[int, int]) -> None:
        self.faults = faults
        self.deployments = {name: version for name, (version, _) in deployed.items()}
        self.traffic = {name: share for name, (_, share) in deployed.items()}
        self.calls: list[str] = []
        self.shares: list[dict[str, int]] = []

    def state(self) -> EndpointState:
        return EndpointState(model_name="m", deployments=self.deployments, traffic=self.traffic, revision=1)

    def create(self, deployment: str, model_version: int) -> None:
        assert not self.traffic.get(deployment), "a deployment with traffic was replaced"
        self.calls.append(f"create {deployment} v{model_version}")
        if self.faults == "create":
            raise DeploymentFailed("no machine is free")
        self.deployments[deployment] = model_version
        self.traffic[deployment] = 0
        if self.faults == "half-created":
            raise DeploymentFailed("provisioning failed")

    def score(self, deployment: str, image: bytes) -> dict[str, Any]:
        answer: dict[str, Any] = {
            "labels": ["1", "7"],
            "probs": [0.1, 0.9] if image == b"seven" else [0.6, 0.4],
            "model_version": self.deployments[deployment],
        }
        wrong: dict[str, dict[str, Any]] = {
            "old version": {"model_version": 1},
            "NaN": {"probs": [float("nan"), 0.5]},
            "no distribution": {"probs": [0.9, 0.9]},
            "negative": {"probs": [1.5, -0.5]},
            "fewer probabilities": {"probs": [1.0]},
            "no labels": {"labels": [], "probs": []},
            "a class twice": {"labels": ["7", "7"]},
            "other class": {"probs": [0.9, 0.1]},
            "unknown class": {"labels": ["1", "2"]},
        }
        if self.faults == "score":
            raise DeploymentFailed("connection refused")
        return answer | wrong.get(self.faults, {})

    def set_traffic(self, traffic: dict[str, int]) -> None:
        assert not traffic or sum(traffic.values()) == 100
        assert set(traffic) <= set(self.deployments)
        self.traffic = {name: traffic.get(name, 0) for name in self.deployments}
        self.shares.append(dict(self.traffic))
        if self.faults == f"traffic {self.traffic.get('green')}":
            raise DeploymentFailed("the traffic rule was not applied")

    def health(self, deployment: str) -> list[str]:
        share = self.traffic[deployment]
        if self.faults == f"cancelled at {share}":
            raise KeyboardInterrupt
        return ["3 of 40 requests failed"] if self.faults == f"unhealthy at {share}" else []

    def remove(self, deployment: str) -> None:
        assert not self.traffic.get(deployment), "a deployment with traffic was removed"
        self.calls.append(f"remove {deployment}")
        if self.faults == "half-created, and stays":
            raise DeploymentFailed("it is locked")
        del self.deployments[deployment], self.traffic[deployment]

    def logs(self, deployment: str) -> list[str]:
        return [f"log line {number}" for number in range(20)]


def rolled_out(endpoint: MemoryEndpoint, version: int, **options: Any) -> RolloutResult:
    return roll_out(endpoint, version, smoke_images=SMOKE, sleep=lambda seconds: None, **options)


def test_the_first_deployment_takes_all_traffic_at_once() -> None:
    endpoint = MemoryEndpoint()
    result = rolled_out(endpoint, 1)
    assert result.outcome == "promoted"
    assert result.previous_version is None
    assert endpoint.state().serving_version == 1
    assert endpoint.shares == [{"blue": 100}]


def test_a_new_version_takes_the_traffic_in_steps_and_the_champion_stays_up() -> None:
    endpoint = MemoryEndpoint(blue=(1, 100))
    result = rolled_out(endpoint, 2, steps=(10, 50, 100))
    assert result.outcome == "promoted"
    assert result.previous_version == 1
    assert [shares["green"] for shares in endpoint.shares] == [10, 50, 100]
    assert endpoint.deployments == {"blue": 1, "green": 2}
    assert endpoint.traffic == {"blue": 0, "green": 100}


def test_the_last_step_is_always_all_of_the_traffic() -> None:
    endpoint = MemoryEndpoint(blue=(1, 100))
    rolled_out(endpoint, 2, steps=(25,))
    assert [shares["green"] for shares in endpoint.shares] == [25, 100]


def test_what_an_earlier_rollout_left_up_makes_room_for_the_next_one() -> None:
    endpoint = MemoryEndpoint(blue=(1, 0), green=(2, 100))
    assert rolled_out(endpoint, 3).outcome == "promoted"
    assert endpoint.calls == ["remove blue", "create blue v3"]
    assert endpoint.deployments == {"blue": 3, "green": 2}


def test_going_back_to_the_old_version_needs_no_new_deployment() -> None:
    endpoint = MemoryEndpoint(blue=(1, 0), green=(2, 100))
    assert rolled_out(endpoint, 1).outcome == "promoted"
    assert endpoint.calls == []
    assert endpoint.state().serving_version == 1


def test_a_version_that_serves_already_is_left_alone() -> None:
    endpoint = MemoryEndpoint(blue=(1, 0), green=(2, 100))
    assert rolled_out(endpoint, 2).outcome == "already_serving"
    assert endpoint.calls == []
    assert endpoint.shares == []


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("create", "no machine is free"),
        ("half-created", "provisioning failed"),
        ("score", "connection refused"),
        ("old version", "answered by version 1, expected 2"),
        ("NaN", "no probability distribution"),
        ("no distribution", "no probability distribution"),
        ("negative", "no probability distribution"),
        ("fewer probabilities", "1 probabilities for 2 labels"),
        ("no labels", "0 probabilities for 0 labels"),
        ("a class twice", "probabilities for 2 labels"),
        ("other class", "answered '1', the evaluated model said '7'"),
        ("unknown class", "does not know the class '7'"),
        ("traffic 10", "the traffic rule was not applied"),
        ("traffic 50", "the traffic rule was not applied"),
        ("traffic 100", "the traffic rule was not applied"),
        ("unhealthy at 10", "3 of 40 requests failed"),
        ("unhealthy at 50", "3 of 40 requests failed"),
        ("unhealthy at 100", "3 of 40 requests failed"),
    ],
)
def test_whatever_goes_wrong_the_champion_has_all_traffic_and_the_reason_is_kept(fault: str, reason: str) -> None:
    endpoint = MemoryEndpoint(fault, blue=(1, 100))
    result = rolled_out(endpoint, 2)
    assert result.outcome == "rolled_back"
    assert reason in result.reason
    assert "log line 19" in result.reason
    assert "log line 9" not in result.reason  # the tail only
    assert endpoint.traffic == {"blue": 100}
    assert endpoint.deployments == {"blue": 1}


def test_before_the_smoke_test_is_passed_the_new_version_gets_no_traffic() -> None:
    endpoint = MemoryEndpoint("NaN", blue=(1, 100))
    rolled_out(endpoint, 2)
    assert endpoint.shares == []


def test_a_first_deployment_that_fails_leaves_nothing_behind() -> None:
    endpoint = MemoryEndpoint("unhealthy at 100")
    assert rolled_out(endpoint, 1).outcome == "rolled_back"
    assert endpoint.state().champion is None
    assert endpoint.deployments == {}


def test_a_cancelled_rollout_gives_the_traffic_back_and_ends_as_cancelled() -> None:
    endpoint = MemoryEndpoint("cancelled at 50", blue=(1, 100))
    said: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        rolled_out(endpoint, 2, log=said.append)
    assert said[-1].startswith("interrupted: KeyboardInterrupt")
    assert endpoint.traffic == {"blue": 100}
    assert endpoint.deployments == {"blue": 1}


def test_a_challenger_that_cannot_be_removed_is_reported_and_has_no_traffic() -> None:
    endpoint = MemoryEndpoint("half-created, and stays", blue=(1, 100), green=(5, 0))
    result = rolled_out(endpoint, 2)
    assert result.outcome == "rolled_back"
    assert "it is locked" in result.reason
    assert endpoint.traffic == {"blue": 100, "green": 0}


def test_what_a_killed_rollout_left_unhealthy_is_made_anew() -> None:
    endpoint = MemoryEndpoint("unhealthy at 0", blue=(1, 100), green=(2, 0))
    assert rolled_out(endpoint, 2).outcome == "promoted"
    assert endpoint.calls == ["remove green", "create green v2"]


@pytest.mark.parametrize("share", [0, 10, 50])
def test_a_rollout_that_was_killed_half_way_is_finished_by_the_next(share: int) -> None:
    endpoint = MemoryEndpoint(blue=(1, 100 - share), green=(2, share))
    assert rolled_out(endpoint, 2).outcome == "promoted"
    assert endpoint.traffic == {"blue": 0, "green": 100}
    assert endpoint.calls == []


def test_a_rollout_that_was_killed_before_its_last_step_is_finished_without_another_test() -> None:
    endpoint = MemoryEndpoint(blue=(1, 10), green=(2, 90))
    assert rolled_out(endpoint, 2).outcome == "already_serving"
    assert endpoint.traffic == {"blue": 0, "green": 100}


@pytest.mark.parametrize("share", [0, 10, 50])
def test_a_killed_rollout_of_another_version_is_taken_back_first(share: int) -> None:
    endpoint = MemoryEndpoint(blue=(1, 100 - share), green=(2, share))
    result = rolled_out(endpoint, 3)
    assert result.outcome == "promoted"
    assert result.previous_version == 1
    assert endpoint.calls == ["remove green", "create green v3"]
    assert endpoint.traffic == {"blue": 0, "green": 100}


@pytest.mark.parametrize(("share", "serves"), [(0, 1), (10, 1), (50, 1), (90, 2), (100, 2)])
def test_where_nobody_is_to_be_deployed_a_killed_rollout_is_ended(share: int, serves: int) -> None:
    endpoint = MemoryEndpoint(blue=(1, 100 - share), green=(2, share))
    end_killed_rollout(endpoint, lambda line: None)
    assert endpoint.traffic == {"blue": 100 * (serves == 1), "green": 100 * (serves == 2)}


@pytest.mark.parametrize("steps", [(0, 100), (50, 10), (10, 10), (10, 120)])
def test_steps_that_are_no_ascending_percentages_are_refused(steps: tuple[int, ...]) -> None:
    endpoint = MemoryEndpoint(blue=(1, 100))
    with pytest.raises(ValueError, match="ascending percentages"):
        rolled_out(endpoint, 2, steps=steps)
    assert endpoint.calls == []


def test_a_rollout_without_a_smoke_image_is_refused() -> None:
    with pytest.raises(ValueError, match="smoke image"):
        roll_out(MemoryEndpoint(), 1, smoke_images=[])


def test_each_step_is_watched_for_as_long_as_asked() -> None:
    slept: list[float] = []
    roll_out(
        MemoryEndpoint(blue=(1, 100)),
        2,
        smoke_images=SMOKE,
        steps=(50,),
        watch_seconds=2.0,
        sleep=slept.append,
    )
    assert sum(slept) == pytest.approx(4.0)


def test_what_was_done_is_said_step_by_step() -> None:
    lines: list[str] = []
    result = rolled_out(MemoryEndpoint(blue=(1, 100)), 2, log=lines.append)
    assert list(result.steps) == lines
    assert lines[0] == "green is up with version 2"
    assert lines[-1] == "green has 100 % of the traffic"
