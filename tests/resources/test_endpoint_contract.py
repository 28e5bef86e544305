"""What every endpoint can do. A new adapter joins by one line in `ENDPOINTS`."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from io import BytesIO
from pathlib import Path

import httpx
import pytest
from PIL import Image
from small_models import CLASSES, register_model, service_of

from al_core.images import content_id
from al_resources.blobs import BlobStore
from al_resources.endpoint import DeploymentFailed, Endpoint
from al_resources.endpoint.local import LocalEndpoint
from al_resources.endpoint.rollout import roll_out
from al_resources.platform import Platform
from al_resources.settings import load_settings


def picture() -> bytes:
    buffer = BytesIO()
    Image.new("L", (2, 2), 5).save(buffer, "PNG")
    return buffer.getvalue()


IMAGE = picture()


@contextlib.contextmanager
def in_process(platform: Platform) -> Iterator[Endpoint]:
    yield platform.endpoint


@contextlib.contextmanager
def behind_service(platform: Platform) -> Iterator[Endpoint]:
    with service_of(platform):
        yield platform.endpoint


ENDPOINTS: dict[str, Callable[[Platform], AbstractContextManager[Endpoint]]] = {
    "local, in process": in_process,
    "local, with the service": behind_service,
}
AZURE = "azure ml, online"


@pytest.fixture
def platform(tmp_path: Path) -> Platform:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    return Platform(load_settings(home=tmp_path, serving={"port": port, "flush_seconds": 0.1}))


@pytest.fixture(params=[*ENDPOINTS, AZURE])
def endpoint(request: pytest.FixtureRequest) -> Iterator[Endpoint]:
    if request.param == AZURE:
        platform, opening = request.getfixturevalue("workspace").platform, in_process
    else:
        platform, opening = request.getfixturevalue("platform"), ENDPOINTS[request.param]
    register_model(platform, seed=1)
    register_model(platform, seed=2)
    register_model(platform, seed=3, poison=True)
    with opening(platform) as opened:
        yield opened


def test_before_the_first_deployment_nobody_serves(endpoint: Endpoint) -> None:
    state = endpoint.state()
    assert (state.deployments, state.traffic) == ({}, {})
    assert state.champion is None
    assert state.serving_version is None


def test_a_new_deployment_has_no_traffic_and_answers_when_addressed(endpoint: Endpoint) -> None:
    endpoint.create("blue", 1)
    state = endpoint.state()
    assert state.deployments == {"blue": 1}
    assert state.champion is None
    answer = endpoint.score("blue", IMAGE)
    assert answer["labels"] == list(CLASSES)
    assert sum(answer["probs"]) == pytest.approx(1, abs=1e-4)
    assert answer["model_version"] == 1
    assert endpoint.health("blue") == []


def test_two_deployments_answer_each_with_its_own_version(endpoint: Endpoint) -> None:
    endpoint.create("blue", 1)
    endpoint.create("green", 2)
    answers = [endpoint.score(name, IMAGE) for name in ("blue", "green")]
    assert [answer["model_version"] for answer in answers] == [1, 2]
    assert answers[0]["probs"] != answers[1]["probs"]


def test_traffic_is_what_was_set_and_says_who_serves(endpoint: Endpoint) -> None:
    endpoint.create("blue", 1)
    endpoint.create("green", 2)
    endpoint.set_traffic({"blue": 90, "green": 10})
    assert endpoint.state().traffic == {"blue": 90, "green": 10}
    assert endpoint.state().serving_version == 1
    endpoint.set_traffic({"green": 100})
    assert endpoint.state().serving_version == 2
    endpoint.set_traffic({})
    assert endpoint.state().champion is None


@pytest.mark.parametrize("traffic", [{"blue": 50}, {"blue": 150, "green": -50}, {"red": 100}])
def test_traffic_that_cannot_be_is_refused_and_changes_nothing(endpoint: Endpoint, traffic: dict[str, int]) -> None:
    endpoint.create("blue", 1)
    endpoint.create("green", 2)
    endpoint.set_traffic({"blue": 100})
    with pytest.raises(ValueError, match=r"100|red"):
        endpoint.set_traffic(traffic)
    assert endpoint.state().serving_version == 1


def test_a_deployment_with_traffic_is_neither_removed_nor_replaced(endpoint: Endpoint) -> None:
    endpoint.create("blue", 1)
    endpoint.set_traffic({"blue": 100})
    with pytest.raises(DeploymentFailed, match="traffic"):
        endpoint.remove("blue")
    with pytest.raises(DeploymentFailed, match="traffic"):
        endpoint.create("blue", 2)
    assert endpoint.state().serving_version == 1


def test_a_deployment_without_traffic_is_removed(endpoint: Endpoint) -> None:
    endpoint.create("blue", 1)
    endpoint.remove("blue")
    assert endpoint.state().deployments == {}
    endpoint.remove("blue")  # again is no error
    with pytest.raises(DeploymentFailed, match="blue"):
        endpoint.score("blue", IMAGE)


def test_a_version_that_does_not_exist_does_not_come_up(endpoint: Endpoint) -> None:
    with pytest.raises(DeploymentFailed, match="version 9"):
        endpoint.create("blue", 9)
    assert endpoint.state().deployments == {}


def test_an_image_that_cannot_be_read_is_an_error_with_its_reason(endpoint: Endpoint) -> None:
    endpoint.create("blue", 1)
    with pytest.raises(DeploymentFailed, match="no image"):
        endpoint.score("blue", b"text")
    assert endpoint.health("blue") == []  # not the deployment's fault


def test_a_rollout_promotes_a_sound_model_and_takes_a_broken_one_back(endpoint: Endpoint) -> None:
    options = {"smoke_images": [(IMAGE, None)], "watch_seconds": 0.0}
    assert roll_out(endpoint, 1, **options).outcome == "promoted"  # type: ignore[arg-type]
    assert roll_out(endpoint, 2, **options).outcome == "promoted"  # type: ignore[arg-type]
    result = roll_out(endpoint, 3, **options)  # type: ignore[arg-type]
    assert result.outcome == "rolled_back"
    assert endpoint.state().serving_version == 2
    assert {name: share for name, share in endpoint.state().traffic.items() if share} == {"green": 100}


# ---------------------------------------------------------------- the local endpoint's own


def local(platform: Platform) -> LocalEndpoint:
    assert isinstance(platform.endpoint, LocalEndpoint)
    return platform.endpoint


def test_every_change_has_a_higher_revision(platform: Platform) -> None:
    register_model(platform)
    endpoint = local(platform)
    revisions = [endpoint.state().revision]
    for change in (
        lambda: endpoint.create("blue", 1),
        lambda: endpoint.set_traffic({"blue": 100}),
        lambda: endpoint.create("green", 1),
        lambda: endpoint.remove("green"),
    ):
        change()
        revisions.append(endpoint.state().revision)
    assert revisions == [0, 1, 2, 3, 4]


def test_writers_at_the_same_time_lose_no_change(platform: Platform, blobs: BlobStore) -> None:
    """The one blob that is read, changed and written back; on every blob store."""
    platform = platform.with_parts(blobs=blobs)
    register_model(platform)
    names = [f"d{number}" for number in range(12)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda name: local(platform).create(name, 1), names))
    state = platform.endpoint.state()
    assert set(state.deployments) == set(names)
    assert state.revision == len(names)


def test_a_writer_that_was_killed_half_way_has_changed_the_state(platform: Platform) -> None:
    """Its revision is written, `state.json` still is the one before."""
    register_model(platform)
    endpoint = local(platform)
    endpoint.create("blue", 1)
    path = f"deployments/{platform.settings.deployment.endpoint}/state.json"
    before = platform.blobs.read(path)
    endpoint.set_traffic({"blue": 100})
    platform.blobs.write(path, before)
    assert endpoint.state().serving_version == 1
    endpoint.create("green", 1)
    assert endpoint.state().revision == 3


def test_a_state_that_is_no_state_is_named(platform: Platform) -> None:
    platform.blobs.write(f"deployments/{platform.settings.deployment.endpoint}/state.json", b"{}")
    with pytest.raises(DeploymentFailed, match=r"state\.json is no endpoint state"):
        platform.endpoint.state()


@pytest.mark.parametrize("content", [b"", b'{"model_name": "di', bytes(200)])
@pytest.mark.parametrize("file", ["state.json", "revisions/00000002.json", "both"])
def test_what_a_crash_left_half_is_passed_over_and_the_revision_before_serves(
    platform: Platform, caplog: pytest.LogCaptureFixture, file: str, content: bytes
) -> None:
    register_model(platform)
    endpoint = local(platform)
    endpoint.create("blue", 1)
    folder = f"deployments/{platform.settings.deployment.endpoint}"
    before = platform.blobs.read(f"{folder}/state.json")
    endpoint.set_traffic({"blue": 100})
    if file == "revisions/00000002.json":
        platform.blobs.write(f"{folder}/state.json", before)
    for torn in ["state.json", "revisions/00000002.json"] if file == "both" else [file]:
        platform.blobs.write(f"{folder}/{torn}", content)
    state = endpoint.state()
    assert state.deployments == {"blue": 1}
    assert state.traffic == ({"blue": 100} if file == "state.json" else {"blue": 0})
    assert "is no endpoint state" in caplog.text
    endpoint.set_traffic({"blue": 100})
    assert endpoint.state().serving_version == 1
    assert endpoint.state().revision == 3


def test_a_service_that_follows_another_endpoint_is_not_ours(platform: Platform, tmp_path: Path) -> None:
    register_model(platform)
    other = Platform(platform.settings.model_copy(update={"home": tmp_path / "other"}))
    with service_of(other):
        platform.endpoint.create("blue", 1)  # in this process; the stranger will never load it
        assert platform.endpoint.score("blue", IMAGE)["model_version"] == 1
    assert other.endpoint.state().deployments == {}


def test_a_service_that_goes_away_is_bad_health(platform: Platform) -> None:
    register_model(platform)
    with service_of(platform):
        platform.endpoint.create("blue", 1)
        assert platform.endpoint.health("blue") == []
    assert "is gone" in platform.endpoint.health("blue")[0]


def test_smoke_images_of_a_rollout_are_logged_like_all_others(platform: Platform) -> None:
    register_model(platform)
    with service_of(platform) as address:
        roll_out(platform.endpoint, 1, smoke_images=[(IMAGE, None)], watch_seconds=0.0)
        assert httpx.get(f"{address}/health/ready").json()["deployments"]["blue"]["requests"] == 1
    assert platform.predictions.rows_of([content_id(IMAGE)], ["image_id"]).num_rows == 1
