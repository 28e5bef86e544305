"""Models and the online endpoint in Azure ML: what is sent, and what happens when Azure is slow, refuses or fails.

The contracts themselves are in test_model_registry_contract.py and test_endpoint_contract.py.
"""

from __future__ import annotations

import json
from typing import Any

import dagster as dg
import pytest
from azure_workspace import Workspace
from emulators.azure_ml import ROOT, Fault
from emulators.inference_server import installed
from small_models import register_model
from test_endpoint_contract import IMAGE

from al_assets.definitions import build_definitions
from al_cli.digits import digit_pngs
from al_core.records import GateVerdict, Interval
from al_resources import azure_checks
from al_resources.azure_checks import check_azure
from al_resources.azure_ml import (
    INFERENCE_SERVER,
    Arm,
    Purpose,
    WorkspaceError,
    checked_name,
    code_snapshot,
    environment_of,
    workspace_client,
)
from al_resources.azure_ml_settings import AzureMLSettings
from al_resources.endpoint import DeploymentFailed
from al_resources.endpoint.rollout import roll_out
from al_resources.model_registry.azure_ml import tags_of
from al_resources.platform import Platform
from al_resources.settings import load_settings


def sent(workspace: Workspace, method: str) -> list[str]:
    """What was asked of the workspace, without its address."""
    return [
        path.removeprefix(ROOT + "/")
        for verb, path, _, _ in workspace.emulator.requests
        if verb == method and "/codes/" not in path
    ]


# ---------------------------------------------------------------- the workspace
def test_the_doctor_asks_the_workspace_and_names_the_missing_role(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(azure_checks, "BUSY_SECONDS", 0)
    data = {"blob_account_url": "http://127.0.0.1:9/x", "kusto_uri": "http://127.0.0.1:9"}
    settings = load_settings(profile="azure", azure=data, azure_ml=workspace.settings)
    (*_, found) = check_azure(settings)
    assert (found.name, found.outcome) == ("azure_ml.workspace", "ok")
    workspace.emulator.faults.append(Fault("GET", "/datastores/", 403, times=9, code="AuthorizationFailed"))
    (*_, found) = check_azure(settings)
    assert (found.name, found.outcome) == ("azure_ml.workspace", "refused")
    assert "the role 'AzureML Data Scientist' on the workspace" in found.detail


def test_settings_without_a_workspace_say_which_are_missing() -> None:
    with pytest.raises(WorkspaceError, match=r"azure_ml\.resource_group, azure_ml\.workspace: not set"):
        workspace_client(AzureMLSettings(subscription="x"))


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("endpoint", "A"),
        ("endpoint", "x" * 40),
        ("deployment", "-blue"),
        ("model", "a/b"),
        ("job", "x" * 300),
        ("data", "labels of today"),
    ],
)
def test_names_that_azure_refuses_are_refused_before_the_call(kind: str, name: str) -> None:
    with pytest.raises(ValueError, match="is no name for"):
        checked_name(kind, name)


def test_a_missing_permission_names_the_role_that_helps(workspace: Workspace) -> None:
    workspace.emulator.faults.append(Fault("GET", "/models/", 403, times=9, code="AuthorizationFailed"))
    with pytest.raises(WorkspaceError, match=r"not permitted .* needs the role 'AzureML Data Scientist'"):
        register_model(workspace.platform)


def test_throttling_is_waited_for(workspace: Workspace) -> None:
    throttled = Fault("PUT", "/models/", 429, times=2, headers={"retry-after-ms": "10"})
    workspace.emulator.faults.append(throttled)
    assert register_model(workspace.platform) == 1
    assert throttled.times == 0


def test_a_long_running_operation_is_followed_to_its_result(workspace: Workspace) -> None:
    register_model(workspace.platform)
    workspace.endpoint.create("blue", 1)
    answer = Arm(workspace.settings).call(
        "DELETE",
        "onlineEndpoints/classifier/deployments/blue",
        what="removing it",
        params={"api-version": "2023-04-01"},
    )
    assert answer == {}
    assert workspace.endpoint.state().deployments == {}


def test_environments_leave_to_azure_ml_what_it_insists_on(workspace: Workspace) -> None:
    """Resolved with pip: pinned as well, it keeps the environment from being built."""

    def pins(purpose: Purpose) -> list[str]:
        environment = environment_of(workspace.settings, purpose)
        assert not isinstance(environment, str)
        conda: Any = environment.conda_file
        return conda["dependencies"][-1]["pip"]

    assert {"pydantic>=2.10", INFERENCE_SERVER} <= set(pins("scoring"))
    assert any(pin.startswith("azureml-core==") for pin in pins("batch"))
    assert all("==" in pin for pin in [*pins("training"), *pins("batch")])
    named = workspace.settings.model_copy(update={"environment": "ours:1", "batch_environment": "batch:2"})
    assert [environment_of(named, purpose) for purpose in ("scoring", "batch")] == ["azureml:ours:1", "azureml:batch:2"]


def test_what_runs_remotely_is_what_runs_here_without_dagster(workspace: Workspace) -> None:
    code = code_snapshot(workspace.platform.settings.home)
    assert {path.name for path in code.iterdir()} == {"al_core", "al_resources", "al_serving"}
    assert not list(code.rglob("__pycache__"))
    text = "".join(path.read_text() for path in code.rglob("*.py"))
    assert "import dagster" not in text


# ---------------------------------------------------------------- models


def test_a_version_carries_what_people_search_by(workspace: Workspace) -> None:
    register_model(workspace.platform)
    manifest = workspace.registry.manifest(1).model_copy(
        update={
            "parent_version": 7,
            "run_id": "run",
            "metrics": {"accuracy": Interval(value=0.9, low=0.8, high=0.95)},
            "gate": GateVerdict(
                passed=True,
                reason="better " * 100,
                champion_version=7,
                difference=None,
                tolerance=0.0,
                images=10,
                holdout="h",
            ),
        }
    )
    tags = tags_of(manifest)
    assert (tags["parent"], tags["dagster_run"], tags["gate"]) == ("7", "run", "passed")
    assert tags["holdout_accuracy"] == "0.900 [0.800, 0.950]"
    assert len(tags["gate_reason"]) == 256
    entry = workspace.emulator.get("models/classifier/versions/1")
    assert entry is not None
    assert entry["properties"]["modelUri"].endswith("/paths/models/classifier/1")
    assert entry["properties"]["tags"]["architecture"] == "small_cnn"


def test_a_version_that_azure_did_not_get_to_know_is_entered_by_the_next_look_up(
    workspace: Workspace,
) -> None:
    """Killed, or refused, between the publication of the files and the entry in the workspace."""
    workspace.emulator.faults.append(Fault("PUT", "/models/", 400))
    with pytest.raises(WorkspaceError, match="registering model classifier v1: 400"):
        register_model(workspace.platform)
    assert workspace.emulator.get("models/classifier/versions/1") is None
    manifest = workspace.registry.manifest(1)
    assert workspace.registry.by_training_key(manifest.training_key) == manifest
    assert workspace.emulator.get("models/classifier/versions/1") is not None
    assert workspace.registry.versions() == [1]


# ---------------------------------------------------------------- the online endpoint


def test_a_rollout_is_these_requests_and_no_others(workspace: Workspace) -> None:
    register_model(workspace.platform, seed=1)
    register_model(workspace.platform, seed=2)
    workspace.emulator.requests.clear()
    for version in (1, 2):
        roll_out(workspace.endpoint, version, smoke_images=[(IMAGE, None)], steps=(10, 100), watch_seconds=0)
    environment = next(path for path in sent(workspace, "PUT") if path.startswith("environments/"))
    endpoint = "onlineEndpoints/classifier"
    assert sent(workspace, "PUT") == [
        endpoint,
        environment,
        f"{endpoint}/deployments/blue",
        endpoint,
        environment,
        f"{endpoint}/deployments/green",
        endpoint,
        endpoint,
    ]
    assert sent(workspace, "DELETE") == []
    bodies = [body for verb, path, _, body in workspace.emulator.requests if verb == "PUT" and path.endswith(endpoint)]
    assert [body["properties"]["traffic"] for body in bodies] == [
        {},
        {"blue": 100},
        {"blue": 90, "green": 10},
        {"green": 100},
    ]


def test_a_deployment_asks_for_the_machines_probes_and_script_of_the_settings(workspace: Workspace) -> None:
    register_model(workspace.platform)
    workspace.endpoint.create("blue", 1)
    deployment = workspace.emulator.get("onlineEndpoints/classifier/deployments/blue")
    assert deployment is not None
    properties = deployment["properties"]
    assert properties["codeConfiguration"]["scoringScript"] == "al_serving/score.py"
    assert properties["instanceType"] == "Standard_DS3_v2"
    assert deployment["sku"]["capacity"] == 1
    assert properties["readinessProbe"]["failureThreshold"] == 30
    environment = workspace.emulator.get("/".join(properties["environmentId"].split("/")[-4:]))
    assert environment is not None
    assert "torch==" in environment["properties"]["condaFile"]
    assert "dagster" not in environment["properties"]["condaFile"]


def test_a_deployment_that_fails_in_provisioning_leaves_the_traffic_and_says_why(
    workspace: Workspace,
) -> None:
    register_model(workspace.platform, seed=1)
    register_model(workspace.platform, seed=2)
    options = {"smoke_images": [(IMAGE, None)], "watch_seconds": 0.0}
    roll_out(workspace.endpoint, 1, **options)  # type: ignore[arg-type]
    workspace.emulator.failing_deployments["green"] = "ModuleNotFoundError: No module named 'torch'"
    result = roll_out(workspace.endpoint, 2, **options)  # type: ignore[arg-type]
    assert result.outcome == "rolled_back"
    assert "creating green" in result.reason
    assert "No module named 'torch'" in result.reason
    state = workspace.endpoint.state()
    assert (state.deployments, state.traffic) == ({"blue": 1}, {"blue": 100})


def test_requests_that_fail_while_the_rollout_watches_take_it_back(workspace: Workspace) -> None:
    register_model(workspace.platform, seed=1)
    register_model(workspace.platform, seed=2)
    roll_out(workspace.endpoint, 1, smoke_images=[(IMAGE, None)], watch_seconds=0)

    def customers(_: float) -> None:
        workspace.emulator.unhealthy["green"] = 1
        with pytest.raises(DeploymentFailed, match="502"):
            workspace.endpoint.score("green", IMAGE)

    result = roll_out(workspace.endpoint, 2, smoke_images=[(IMAGE, None)], watch_seconds=0, sleep=customers)
    assert result.outcome == "rolled_back"
    assert "green is unhealthy: 1 requests failed; CUDA out of memory" in result.reason
    assert workspace.endpoint.state().serving_version == 1


@pytest.fixture(scope="module")
def _inference_server() -> None:
    """Installed before the workspace's environment leads pip to the emulator as well."""
    installed()


@pytest.mark.usefixtures("_inference_server")
def test_a_version_is_promoted_behind_the_server_that_azure_runs(workspace: Workspace) -> None:
    workspace.emulator.inference_servers = True
    register_model(workspace.platform)
    variables = {"AL_HOME": str(workspace.platform.settings.home), "AL_SERVING__FLUSH_SECONDS": "0.1"}
    endpoint = workspace.endpoint_with(environment_variables=variables)
    result = roll_out(endpoint, 1, smoke_images=[(IMAGE, None)], watch_seconds=0)
    assert result.outcome == "promoted"
    with pytest.raises(DeploymentFailed, match="blue answered 422"):
        endpoint.score("blue", b"no image")
    assert endpoint.score("blue", IMAGE)["model_version"] == 1


def test_the_asset_fails_with_the_reason_and_the_tail_of_the_containers_log(workspace: Workspace) -> None:
    """A seed round up to its deployment, which does not come up."""
    truth = workspace.platform.settings.home / "truth.json"
    settings = load_settings(
        home=workspace.platform.settings.home,
        labeling={"project": "oracle", "oracle_labels": str(truth), "classes": list("0123456789")},
        selection={"initial_budget": 60},
        training={"architecture": "small_cnn", "image_size": 16, "channels": 1, "epochs": 1},
    )
    platform = Platform(settings)
    platform.__dict__.update(registry=workspace.registry, endpoint=workspace.endpoint)
    truth.write_text(json.dumps({platform.images.put(png).image_id: label for png, label in digit_pngs()[:100]}))
    workspace.emulator.failing_deployments["blue"] = "ModuleNotFoundError: No module named 'torch'"
    with dg.instance_for_test() as instance:
        instance.add_dynamic_partitions("round", ["0000"])
        jobs = build_definitions(platform)
        jobs.resolve_job_def("selection").execute_in_process(partition_key="0000", instance=instance)
        platform.labeling.answer(0)  # type: ignore[attr-defined]
        with pytest.raises(dg.Failure) as failure:
            jobs.resolve_job_def("training_deployment").execute_in_process(partition_key="0000", instance=instance)
    reason = failure.value.description
    assert reason is not None
    assert "v1 was rolled back: creating blue with version 1" in reason
    assert "ModuleNotFoundError: No module named 'torch'" in reason.splitlines()
    assert workspace.endpoint.state().deployments == {}


def test_killed_between_registered_and_deployed_the_next_rollout_finishes_the_same_version(
    workspace: Workspace,
) -> None:
    register_model(workspace.platform)
    workspace.endpoint.create("blue", 1)  # and here the process was killed
    workspace.emulator.requests.clear()
    assert roll_out(workspace.endpoint, 1, smoke_images=[(IMAGE, None)], watch_seconds=0).outcome == "promoted"
    assert sent(workspace, "PUT") == ["onlineEndpoints/classifier"]  # the traffic, nothing else


def test_an_endpoint_with_keys_is_called_with_its_key(workspace: Workspace) -> None:
    register_model(workspace.platform)
    endpoint = workspace.keyed_endpoint()
    endpoint.create("blue", 1)
    assert endpoint.score("blue", IMAGE)["model_version"] == 1
    workspace.emulator.faults.append(Fault("POST", "/listKeys", 403, times=9))
    with pytest.raises(DeploymentFailed, match="not permitted"):
        endpoint.score("blue", IMAGE)


def test_no_connection_to_azure_is_a_failed_deployment_not_a_crash(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    register_model(workspace.platform)
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    with pytest.raises(DeploymentFailed, match="looking at the endpoint"):
        workspace.endpoint.state()
