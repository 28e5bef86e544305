"""Models and the online endpoint in Azure ML: what is sent, and what happens when Azure is slow, refuses or fails.

The contracts themselves are in test_model_registry_contract.py and test_endpoint_contract.py.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import signal
import threading
import time
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from azure.kusto.data.exceptions import KustoServiceError
from azure_workspace import IDENTITY, Workspace
from small_models import register_model
from test_endpoint_contract import IMAGE

from al_assets.definitions import build_definitions
from al_cli.digits import digit_pngs
from al_core.records import GateVerdict, Interval
from al_resources.azure import checks as azure_checks
from al_resources.azure.checks import check_azure
from al_resources.azure.data_explorer import KustoDatabase
from al_resources.azure.storage import container_client
from al_resources.azure.workspace import (
    ENCODER_PACKAGES,
    INFERENCE_SERVER,
    Arm,
    Purpose,
    WorkspaceError,
    checked_name,
    code_snapshot,
    environment_of,
    workspace_client,
)
from al_resources.endpoint import DeploymentFailed, azure_ml_online
from al_resources.endpoint.azure_ml_online import AzureMLOnlineEndpoint
from al_resources.endpoint.rollout import roll_out
from al_resources.model_registry.azure_ml import AzureMLModelRegistry
from al_resources.platform import Platform
from al_resources.settings import SettingsError, load_settings
from al_resources.settings.azure_data import AzureDataSettings
from al_resources.settings.azure_ml import AzureMLSettings
from emulators.azure_ml import CHINA, ROOT, US_GOVERNMENT, Fault
from emulators.inference_server import installed


def sent(workspace: Workspace, method: str) -> list[str]:
    """What was asked of the workspace, without its address."""
    return [
        path.removeprefix(ROOT + "/")
        for verb, path, _, _ in workspace.emulator.requests
        if verb == method and "/codes/" not in path
    ]


def comes_to(workspace: Workspace, deployment: str | None, state: str) -> bool:
    """Whether the endpoint, or one of its deployments, gets into that provisioning state; looks without a request."""
    path = "onlineEndpoints/classifier" + (f"/deployments/{deployment}" if deployment else "")
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        found = workspace.emulator.get(path)
        if found is not None and found["properties"]["provisioningState"] == state:
            return True
        time.sleep(0.005)
    return False


# ---------------------------------------------------------------- the workspace
def test_the_doctor_asks_the_workspace_and_names_the_missing_role(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(azure_checks, "BUSY_SECONDS", 0)
    data = {"blob_account_url": "http://127.0.0.1:9/x", "kusto_uri": "http://127.0.0.1:9", "credential": "default"}
    settings = load_settings(profile="azure", azure=data, azure_ml=workspace.settings)
    (*_, found) = check_azure(settings)
    assert (found.name, found.outcome) == ("azure_ml.workspace", "ok")
    workspace.emulator.faults.append(Fault("GET", "/datastores/", 403, times=9, code="AuthorizationFailed"))
    (*_, found) = check_azure(settings)
    assert (found.name, found.outcome) == ("azure_ml.workspace", "refused")
    assert "the role 'AzureML Data Scientist' on the workspace" in found.detail


OTHER_CLOUDS = {"US Government": US_GOVERNMENT, "China": CHINA}


@pytest.mark.parametrize("name", OTHER_CLOUDS)
def test_in_another_cloud_everything_is_asked_of_its_own_addresses(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The emulator answers under the host names of that cloud alone: logins, storage, Data Explorer, the workspace."""
    monkeypatch.setenv(
        "AZUREML_CURRENT_CLOUD", "AzureCloud"
    )  # the SDK sets it for the whole process; undone afterwards
    cloud = workspace.emulator.cloud = OTHER_CLOUDS[name]
    there = workspace.settings.model_copy(
        update={
            "resource_manager": f"https://{cloud.manager}/",
            "storage_suffix": cloud.storage,
            "audience": f"https://{cloud.ml}",
        }
    )
    data = AzureDataSettings(
        credential="default",
        authority=f"https://{cloud.login}/",
        blob_account_url=f"https://alstore.blob.{cloud.storage}",
        kusto_uri=f"https://c.here.{cloud.kusto}",
    )
    client, arm = workspace_client(there, data), Arm(there, data)
    blobs, cache = workspace.platform.blobs, workspace.platform.settings.home / "cache"
    platform = workspace.platform.with_parts(
        registry=AzureMLModelRegistry(blobs, "classifier", cache, client, there),
        endpoint=AzureMLOnlineEndpoint(client, arm, there, model_name="classifier", endpoint="classifier"),
    )
    register_model(platform)
    assert roll_out(platform.endpoint, 1, smoke_images=[(IMAGE, None)], watch_seconds=0).outcome == "promoted"
    assert list(container_client(data).list_blob_names()) == []
    with pytest.raises(KustoServiceError):  # it holds nothing, but it was found and asked with a token
        KustoDatabase(data).command(".show tables")
    assert {scope.split("/.")[0].rstrip("/") for scope in workspace.emulator.scopes} == {
        f"https://{cloud.manager}", f"https://{cloud.ml}", "https://storage.azure.com", f"https://kusto.{cloud.kusto}"
    }  # fmt: skip


@pytest.mark.parametrize("name", OTHER_CLOUDS)
def test_the_guide_names_the_addresses_of_the_other_clouds(name: str) -> None:
    cloud = OTHER_CLOUDS[name]
    guide = (Path(__file__).parents[2] / "docs" / "azure.md").read_text()
    (row,) = re.findall(rf"^\s*\| {name} \|.*$", guide, re.MULTILINE)
    for address in (
        f"https://{cloud.login}/", f"https://{cloud.manager}/", f"`{cloud.storage}`", f"https://{cloud.ml}`",
        f".{cloud.kusto}", f".blob.{cloud.storage}",
    ):  # fmt: skip
        assert address in row


def test_settings_without_a_workspace_say_which_are_missing() -> None:
    with pytest.raises(WorkspaceError, match=r"azure_ml\.resource_group, azure_ml\.workspace: not set"):
        workspace_client(AzureMLSettings(subscription="x"), IDENTITY)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("endpoint", "A"),
        ("endpoint", "x" * 33),
        ("endpoint", "ends-in-"),
        ("deployment", "-blue"),
        ("model", "a/b"),
        ("job", "x" * 256),
        ("data asset", "labels of today"),
    ],
)
def test_names_that_azure_refuses_are_refused_before_the_call(kind: str, name: str) -> None:
    with pytest.raises(ValueError, match=rf"is no name of a {kind} in Azure ML: expected [13] to (255|32) "):
        checked_name(kind, name)


def test_adapters_refuse_such_names_when_they_are_opened(workspace: Workspace) -> None:
    with pytest.raises(ValueError, match="'My_Endpoint' is no name of a endpoint"):
        workspace.endpoint_with("My_Endpoint")
    with pytest.raises(ValueError, match=r"'a\.b' is no name of a model"):
        workspace.registry_of("a.b")
    assert workspace.emulator.requests == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"compute": "gpu_cluster"},
        {"batch_compute": "x" * 25},
        {"environment": "without-a-version"},
        {"batch_environment": "azureml:x:1"},
        {"datastore": "a b"},
        {"experiment": ""},
    ],
)
def test_settings_with_such_names_are_named(wrong: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match=rf"azure_ml\.{next(iter(wrong))}"):
        load_settings(azure_ml=wrong)


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
    answer = Arm(workspace.settings, IDENTITY).call(
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
    assert all("==" in pin for pin in [*pins("training"), *pins("batch")])
    assert not [pin for pin in pins("batch") if "azureml" in pin], "the SDK v1 ended on 2026-06-30"
    named = workspace.settings.model_copy(update={"environment": "ours:1", "batch_environment": "batch:2"})
    assert [environment_of(named, purpose) for purpose in ("scoring", "batch")] == ["azureml:ours:1", "azureml:batch:2"]


@pytest.mark.parametrize(
    ("architecture", "package"),
    [("timm:tf_efficientnet_lite0", "timm"), ("hf:openai/clip-vit-base-patch32", "transformers"),
     ("open_clip:ViT-B-32/openai", "open_clip_torch")],
)  # fmt: skip
def test_what_builds_the_encoder_comes_along_in_training_and_in_scoring(architecture: str, package: str) -> None:
    purposes: tuple[Purpose, ...] = ("training", "scoring", "batch")
    for purpose in purposes:
        plain, found = (environment_of(AzureMLSettings(), purpose, name) for name in ("small_cnn", architecture))
        assert not isinstance(plain, str)
        assert not isinstance(found, str)
        assert f"{package}=={importlib.metadata.version(package)}" in str(found.conda_file)
        assert package not in str(plain.conda_file)
        assert plain.version != found.version


def test_a_package_of_the_encoder_that_is_not_here_is_named_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENCODER_PACKAGES, "timm", ("no-such-package",))
    with pytest.raises(WorkspaceError, match=r"no-such-package is not installed here.*`al encoders` names it"):
        environment_of(AzureMLSettings(), "training", "timm:tf_efficientnet_lite0")


def test_torch_is_pinned_to_the_version_here_without_the_mark_of_its_build(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed_here = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: "2.9.0+cpu" if name == "torch" else installed_here(name)
    )
    environment = environment_of(workspace.settings, "training")
    assert not isinstance(environment, str)
    conda: Any = environment.conda_file
    assert "torch==2.9.0" in conda["dependencies"][-1]["pip"]


@pytest.mark.usefixtures("whole_code")
def test_what_runs_remotely_is_what_runs_here_without_dagster(workspace: Workspace) -> None:
    code = code_snapshot(workspace.platform.settings.home)
    assert {path.name for path in code.iterdir()} == {"al_core", "al_resources", "al_serving"}
    assert not list(code.rglob("__pycache__"))
    text = "".join(path.read_text() for path in code.rglob("*.py"))
    assert "import dagster" not in text


# ---------------------------------------------------------------- models


def test_a_version_carries_what_people_search_by(workspace: Workspace) -> None:
    """As the workspace has it: where it comes from, how good it is, what the gate said, and which run made it."""
    register_model(
        workspace.platform,
        parent_version=7,
        dataset_version="d" * 32,
        round=3,
        labels=120,
        run_id="5f1e",
        metrics={"accuracy": Interval(value=0.9, low=0.8, high=0.95)},
        gate=GateVerdict(
            passed=True,
            reason="better " * 100,
            champion_version=7,
            difference=None,
            tolerance=0.0,
            images=10,
            holdout="h",
        ),
    )
    entry = workspace.emulator.get("models/classifier/versions/1")
    assert entry is not None
    assert entry["properties"]["modelUri"].endswith("/paths/models/classifier/1")
    assert entry["properties"]["tags"] == {
        "parent": "7",
        "dataset": "d" * 32,
        "round": "3",
        "labels": "120",
        "architecture": "small_cnn",
        "training_key": "0 False",
        "dagster_run": "5f1e",
        "gate": "passed",
        "gate_reason": ("better " * 100)[:256],
        "holdout_accuracy": "0.900 [0.800, 0.950]",
    }


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
    chosen = {"instance_type": "Standard_NC4as_T4_v3", "instance_count": 3, "ready_seconds": 95}
    workspace.endpoint_with(**chosen).create("blue", 1)
    deployment = workspace.emulator.get("onlineEndpoints/classifier/deployments/blue")
    assert deployment is not None
    properties = deployment["properties"]
    assert properties["codeConfiguration"]["scoringScript"] == "al_serving/azure_ml_script.py"
    assert (properties["instanceType"], deployment["sku"]["capacity"]) == ("Standard_NC4as_T4_v3", 3)
    probe = {
        "failureThreshold": 10,
        "initialDelay": "PT10S",
        "period": "PT10S",
        "successThreshold": 1,
        "timeout": "PT5S",
    }
    assert properties["readinessProbe"] == properties["livenessProbe"] == probe
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
    assert result.reason.splitlines()[-2:] == ["line 29", "ModuleNotFoundError: No module named 'torch'"], (
        "the log's tail"
    )
    state = workspace.endpoint.state()
    assert (state.deployments, state.traffic) == ({"blue": 1}, {"blue": 100})


FAILURES = [  # what callers see, what the container said, in words
    (424, 500, "424 (the container answered 500)"),
    (424, 503, "424 (the container answered 503)"),
    (424, 0, "424 (the container answered nothing)"),
    (408, 0, "408 (no answer in time)"),
    (429, 0, "429 (more than it takes at once)"),
    (500, 0, "500 (Azure's own trouble)"),
]


def two_versions(workspace: Workspace) -> None:
    register_model(workspace.platform, seed=1)
    register_model(workspace.platform, seed=2)
    roll_out(workspace.endpoint, 1, smoke_images=[(IMAGE, None)], watch_seconds=0)


def test_requests_that_fail_while_the_rollout_watches_take_it_back_also_where_counts_come_late(
    workspace: Workspace,
) -> None:
    two_versions(workspace)
    looks = iter(range(100))

    def customers(_: float) -> None:
        if next(looks) == 0:
            workspace.emulator.next_answers["green"] = [(424, 500)]
            workspace.emulator.late_looks = 3
            with pytest.raises(DeploymentFailed, match="green answered 424 for its container's 500"):
                workspace.endpoint.score("green", IMAGE)

    result = roll_out(workspace.endpoint, 2, smoke_images=[(IMAGE, None)], watch_seconds=0, sleep=customers)
    assert result.outcome == "rolled_back"
    assert (
        "green is unhealthy: 1 request failed: 1 x 424 (the container answered 500); CUDA out of memory"
        in result.reason
    )
    assert workspace.endpoint.state().serving_version == 1


def test_every_way_to_fail_is_counted_by_what_callers_see_and_what_the_container_said(workspace: Workspace) -> None:
    two_versions(workspace)
    for failed, (seen, by_container, words) in enumerate(FAILURES, 1):
        workspace.emulator.next_answers["blue"] = [(seen, by_container)]
        with pytest.raises(DeploymentFailed, match=str(seen)):
            workspace.endpoint.score("blue", IMAGE)
        problem = workspace.endpoint.health("blue")[0]
        assert problem.startswith(f"{failed} request")
        assert f"1 x {words}" in problem


def test_what_the_script_refuses_is_the_senders_doing_and_takes_nothing_back(workspace: Workspace) -> None:
    two_versions(workspace)

    def customers(_: float) -> None:
        with pytest.raises(DeploymentFailed, match="green answered 424 for its container's 422"):
            workspace.endpoint.score("green", b"no image")

    result = roll_out(workspace.endpoint, 2, smoke_images=[(IMAGE, None)], watch_seconds=0, sleep=customers)
    assert result.outcome == "promoted"


def test_more_kinds_of_answers_than_ten_are_counted_all(workspace: Workspace) -> None:
    two_versions(workspace)
    statuses = [(424, status) for status in range(510, 525)]
    workspace.emulator.next_answers["blue"] = list(statuses)
    for _ in statuses:
        with pytest.raises(DeploymentFailed, match="424"):
            workspace.endpoint.score("blue", IMAGE)
    assert workspace.endpoint.health("blue")[0].startswith("15 requests failed")


@pytest.fixture(scope="module")
def _inference_server() -> None:
    """Installed before the workspace's environment leads pip to the emulator as well."""
    installed()


@pytest.mark.usefixtures("whole_code", "_inference_server")
def test_a_version_is_promoted_behind_the_server_that_azure_runs(workspace: Workspace) -> None:
    workspace.emulator.inference_servers = True
    register_model(workspace.platform)
    variables = {"AL_HOME": str(workspace.platform.settings.home), "AL_SERVING__FLUSH_SECONDS": "0.1"}
    endpoint = workspace.endpoint_with(environment_variables=variables)
    result = roll_out(endpoint, 1, smoke_images=[(IMAGE, None)], watch_seconds=0)
    assert result.outcome == "promoted"
    with pytest.raises(DeploymentFailed, match="blue answered 424 for its container's 422"):
        endpoint.score("blue", b"no image")
    assert endpoint.score("blue", IMAGE)["model_version"] == 1


def test_the_asset_fails_with_the_reason_and_the_tail_of_the_containers_log(workspace: Workspace) -> None:
    """A seed round up to its deployment, which does not come up; the next run finishes it with the same version."""
    truth = workspace.platform.settings.home / "truth.json"
    settings = load_settings(
        home=workspace.platform.settings.home,
        labeling={"project": "oracle", "oracle_labels": str(truth), "classes": list("0123456789")},
        selection={"initial_budget": 100},
        training={"architecture": "small_cnn", "image_size": 16, "channels": 1, "epochs": 1},
        deployment={"watch_seconds": 0, "smoke_images": 1},
    )
    platform = Platform(settings, registry=workspace.registry, endpoint=workspace.endpoint)
    truth.write_text(json.dumps({platform.images.put(png).image_id: label for png, label in digit_pngs()[:200]}))
    workspace.emulator.failing_deployments["blue"] = "ModuleNotFoundError: No module named 'torch'"
    with dg.instance_for_test() as instance:
        instance.add_dynamic_partitions("round", ["0000"])
        jobs = build_definitions(platform)
        jobs.resolve_job_def("selection").execute_in_process(partition_key="0000", instance=instance)
        platform.labeling.answer(0)  # type: ignore[attr-defined]
        train_and_deploy = jobs.resolve_job_def("training_deployment")
        with pytest.raises(dg.Failure) as failure:
            train_and_deploy.execute_in_process(partition_key="0000", instance=instance)
        left = workspace.endpoint.state().deployments
        workspace.emulator.failing_deployments.clear()
        assert train_and_deploy.execute_in_process(partition_key="0000", instance=instance).success
    reason = failure.value.description
    assert reason is not None
    assert "v1 was rolled back: creating blue with version 1" in reason
    assert "ModuleNotFoundError: No module named 'torch'" in reason.splitlines()
    assert left == {}
    assert workspace.registry.versions() == [1], "registered before the deployment failed, and not trained again"
    assert workspace.endpoint.state().serving_version == 1


def test_killed_between_registered_and_deployed_the_next_rollout_finishes_the_same_version(
    workspace: Workspace,
) -> None:
    register_model(workspace.platform)
    workspace.endpoint.create("blue", 1)  # and here the process was killed
    workspace.emulator.requests.clear()
    assert roll_out(workspace.endpoint, 1, smoke_images=[(IMAGE, None)], watch_seconds=0).outcome == "promoted"
    assert sent(workspace, "PUT") == ["onlineEndpoints/classifier"]  # the traffic, nothing else


def test_killed_while_azure_provisions_the_next_rollout_waits_and_goes_on_with_it(workspace: Workspace) -> None:
    """Azure does not notice that nobody waits any more, and refuses all else until it is done."""
    register_model(workspace.platform)
    workspace.emulator.held.add("blue")
    threading.Thread(target=workspace.endpoint.create, args=("blue", 1), daemon=True).start()  # what was killed
    assert comes_to(workspace, "blue", "Creating")
    looks: list[float] = []

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        workspace.emulator.held.discard("blue")

    again = workspace.endpoint_with(sleep=sleep)
    assert roll_out(again, 1, smoke_images=[(IMAGE, None)], watch_seconds=0).outcome == "promoted"
    assert looks
    assert [path for path in sent(workspace, "PUT") if "/deployments/" in path] == [
        "onlineEndpoints/classifier/deployments/blue"
    ]


def test_what_a_killed_rollout_left_broken_is_made_anew(workspace: Workspace) -> None:
    register_model(workspace.platform)
    workspace.emulator.failing_deployments["blue"] = "no quota"
    with pytest.raises(DeploymentFailed, match="no quota"):
        workspace.endpoint.create("blue", 1)
    workspace.emulator.failing_deployments.clear()
    assert roll_out(workspace.endpoint, 1, smoke_images=[(IMAGE, None)], watch_seconds=0).outcome == "promoted"
    assert sent(workspace, "DELETE") == ["onlineEndpoints/classifier/deployments/blue"]


@pytest.mark.parametrize("busy", ["green", "classifier"], ids=["provisioning", "a shift of the traffic"])
def test_a_run_that_is_cancelled_meanwhile_ends_with_the_champion_alone(workspace: Workspace, busy: str) -> None:
    register_model(workspace.platform, seed=1)
    register_model(workspace.platform, seed=2)
    options: Any = {"smoke_images": [(IMAGE, None)], "watch_seconds": 0.0}
    roll_out(workspace.endpoint, 1, **options)
    said: list[str] = []

    def cancel() -> None:
        if comes_to(workspace, "green", "Succeeded" if busy == "classifier" else "Creating"):
            workspace.emulator.held.add("classifier")
        if busy == "green" or comes_to(workspace, None, "Updating"):
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.3)
        workspace.emulator.held.clear()

    workspace.emulator.held.add(busy)
    if busy == "classifier":
        workspace.emulator.held.clear()
    threading.Thread(target=cancel, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        roll_out(workspace.endpoint, 2, log=said.append, **options)
    state = workspace.endpoint.state()
    assert (state.deployments, state.traffic) == ({"blue": 1}, {"blue": 100})
    assert said[-1].startswith("interrupted: KeyboardInterrupt")


def test_an_endpoint_that_stays_busy_is_given_up_with_what_it_is_at(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    register_model(workspace.platform)
    workspace.endpoint.create("blue", 1)
    deployment = workspace.emulator.get("onlineEndpoints/classifier/deployments/blue")
    assert deployment is not None
    deployment["properties"]["provisioningState"] = "Updating"
    monkeypatch.setattr(azure_ml_online, "BUSY_SECONDS", 0.1)
    with pytest.raises(DeploymentFailed, match="endpoint classifier is busy: blue is Updating after"):
        workspace.endpoint.set_traffic({"blue": 100})


def test_a_conflict_with_somebody_else_is_told_as_azure_words_it(workspace: Workspace) -> None:
    register_model(workspace.platform)
    workspace.emulator.faults.append(Fault("PUT", "/deployments/", 409, code="Conflict", message="quota is reserved"))
    with pytest.raises(DeploymentFailed, match=r"creating blue with version 1: 409 \(Conflict\) quota is reserved"):
        workspace.endpoint.create("blue", 1)


def test_an_endpoint_with_keys_is_called_with_its_key(workspace: Workspace) -> None:
    register_model(workspace.platform)
    endpoint = workspace.keyed_endpoint()
    endpoint.create("blue", 1)
    assert endpoint.score("blue", IMAGE)["model_version"] == 1
    workspace.emulator.faults.append(Fault("POST", "/listKeys", 403, times=9))
    with pytest.raises(DeploymentFailed, match="not permitted"):
        endpoint.score("blue", IMAGE)


def test_a_caller_whom_the_endpoint_does_not_admit_is_told_the_role(workspace: Workspace) -> None:
    register_model(workspace.platform)
    workspace.endpoint.create("blue", 1)
    workspace.emulator.admits_nobody = True
    with pytest.raises(DeploymentFailed, match=r"blue answered 403: .*needs the role 'AzureML Data Scientist', or"):
        workspace.endpoint.score("blue", IMAGE)


def test_no_connection_to_azure_is_a_failed_deployment_not_a_crash(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    register_model(workspace.platform)
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    with pytest.raises(DeploymentFailed, match="looking at the endpoint"):
        workspace.endpoint.state()
