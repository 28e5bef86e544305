"""What a company deploys: images, Compose, values for Dagster's chart, manifests. No Docker and no cluster is here."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from container_images import DOCKER, lines, set_by
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from al_resources.settings import Settings, setting_keys

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "deploy/kubernetes"
IMAGES = sorted(file.parent.name for file in DOCKER.glob("*/Dockerfile"))
# finds only what an image installs, and the platform itself
ONLY_THESE = """
import importlib.metadata, re, sys
def plain(name): return re.sub(r"[-_.]+", "-", name).lower()
from packaging.requirements import Requirement
held = set()
def hold(name):
    if plain(name) in held: return
    held.add(plain(name))
    for one in importlib.metadata.requires(name) or []:
        needed = Requirement(one)
        if needed.marker is None or needed.marker.evaluate({"extra": ""}): hold(needed.name)
for line in open(sys.argv[1]):
    if line.strip() and not line.startswith("#"): hold(line.strip())
homes = importlib.metadata.packages_distributions()
class OnlyThese:
    def find_spec(self, name, path=None, target=None):
        owners = {plain(one) for one in homes.get(name, ())} - {"active-learning-platform"}
        if owners and not owners & held: raise ModuleNotFoundError(f"{name} is not in the image", name=name)
sys.meta_path.insert(0, OnlyThese())
"""
SERVICE = """
import al_cli.serve, al_core.learning.inference, al_serving.app, al_serving.batch
from al_resources.platform import Platform
from al_resources.settings import Settings
platform = Platform(Settings(home=sys.argv[2]))
platform.predictions, platform.ledgers, platform.registry, platform.endpoint, platform.images
al_serving.app.server_of(platform)
"""


def named_settings(names: Iterator[str]) -> set[str]:
    """The keys of the settings that variables like AL_SERVING__HOST stand for."""
    return {name.removeprefix("AL_").lower().replace("__", ".") for name in names if name.startswith("AL_")}


KNOWN = {key for key, _ in setting_keys()} | {"config"}


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_runs_as_nobody_special_and_sets_settings_that_there_are(image: str) -> None:
    assert any(line.startswith("USER ") for line in lines(DOCKER / image / "Dockerfile"))
    assert named_settings(iter(set_by(image))) <= KNOWN


@pytest.mark.parametrize("image", [image for image in IMAGES if (DOCKER / image / "requirements.txt").exists()])
def test_an_image_installs_nothing_that_the_platform_does_not_name_and_pin(image: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    named = [*project["dependencies"], *(one for extra in extras.values() for one in extra)]
    wanted = {canonicalize_name(Requirement(one).name) for one in lines(DOCKER / image / "requirements.txt")}
    assert wanted <= {canonicalize_name(Requirement(one).name) for one in named}
    assert wanted <= {canonicalize_name(Requirement(one).name) for one in lines(ROOT / "constraints.txt")}


def test_the_scoring_service_needs_no_more_than_its_image_installs(tmp_path: Path) -> None:
    program = ONLY_THESE + SERVICE
    wanted = str(DOCKER / "scoring/requirements.txt")
    done = subprocess.run(
        [sys.executable, "-c", program, wanted, str(tmp_path)], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr


# ---------------------------------------------------------------------- Compose
def test_compose_publishes_nothing_beyond_this_machine_and_holds_no_secret() -> None:
    text = (ROOT / "deploy/compose/compose.yaml").read_text()
    compose = yaml.safe_load(text)
    for name, service in compose["services"].items():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), name
        for key, value in service["environment"].items():
            if re.search("PASSWORD|TOKEN|SECRET|URL$", key) and "PUBLIC" not in key:
                assert "${" in value, key
    asked = set(re.findall(r"\$\{(\w+)", text))
    assert asked == {line.partition("=")[0] for line in lines(ROOT / "deploy/compose/env.example")}
    assert named_settings(iter(compose["services"]["loop"]["environment"])) <= KNOWN


def test_compose_runs_commands_that_there_are() -> None:
    from al_cli.main import cli

    for service in yaml.safe_load((ROOT / "deploy/compose/compose.yaml").read_text())["services"].values():
        if (command := service.get("command")) is not None:
            context = cli.make_context("al", command[1:2], resilient_parsing=True)
            found = cli.get_command(context, command[1])
            assert found is not None
            found.make_context(command[1], command[2:] if command[1] != "ui" else [*command[2:], "--home", str(ROOT)])


# ---------------------------------------------------------------------- Kubernetes
def values() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((KUBERNETES / "values.yaml").read_text())
    return loaded


def manifests() -> list[dict[str, Any]]:
    files = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())["resources"]
    return [one for file in files for one in yaml.safe_load_all((KUBERNETES / file).read_text())]


def test_what_pods_are_told_are_settings_that_there_are() -> None:
    [deployment] = values()["dagster-user-deployments"]["deployments"]
    assert named_settings(one["name"] for one in deployment["env"]) <= KNOWN
    [generated] = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())["configMapGenerator"]
    assert named_settings(one.partition("=")[0] for one in generated["literals"]) <= KNOWN
    for one in manifests():
        for container in one["spec"].get("template", {}).get("spec", {}).get("containers", []):
            assert named_settings(entry["name"] for entry in container["env"]) <= KNOWN


def test_a_training_run_gets_the_gpu_that_the_values_ask_for() -> None:
    """By the way that Dagster goes: setting, tag of the job, configuration of the pod."""
    dagster_k8s = pytest.importorskip("dagster_k8s", reason="pip install dagster-k8s")
    from al_assets.jobs import training_deployment_job

    [deployment] = values()["dagster-user-deployments"]["deployments"]
    [told] = [one["value"] for one in deployment["env"] if one["name"] == "AL_DAGSTER__TRAINING_TAGS"]
    settings = Settings.model_validate({"dagster": {"training_tags": json.loads(told)}})
    job = training_deployment_job(tags=settings.dagster.training_tags)
    from dagster_k8s.job import get_user_defined_k8s_config

    pod = get_user_defined_k8s_config(job.tags)
    assert pod.container_config["resources"]["limits"] == {"nvidia.com/gpu": "1"}
    assert pod.pod_spec_config["node_selector"] == {"agentpool": "gpu"}
    assert dagster_k8s.K8sRunLauncher.__name__ == values()["runLauncher"]["type"]


def test_manifests_are_what_kubernetes_takes() -> None:
    """Each field is one of the client's own models; a typo would be dropped without a word."""
    client = pytest.importorskip("kubernetes.client", reason="pip install dagster-k8s")
    kinds = {"Deployment": "V1Deployment", "Service": "V1Service", "Ingress": "V1Ingress"}
    kinds["NetworkPolicy"] = "V1NetworkPolicy"

    def check(value: Any, kind: str, where: str) -> None:
        if kind.startswith("list["):
            for item in value:
                check(item, kind[5:-1], where)
        elif kind.startswith("dict(") or not hasattr(client, kind):
            return
        else:
            model = getattr(client, kind)
            names = {json_name: name for name, json_name in model.attribute_map.items()}
            for key, inner in value.items():
                assert key in names, f"{where}.{key}"
                check(inner, model.openapi_types[names[key]], f"{where}.{key}")

    for one in manifests():
        check(one, kinds[one["kind"]], one["kind"])


def test_services_lead_to_ports_that_images_open() -> None:
    opened = {
        image: re.findall(r"^EXPOSE (\d+)", (DOCKER / image / "Dockerfile").read_text(), re.M) for image in IMAGES
    }
    deployments = {one["metadata"]["name"]: one for one in manifests() if one["kind"] == "Deployment"}
    for name, one in deployments.items():
        [container] = one["spec"]["template"]["spec"]["containers"]
        assert [str(port["containerPort"]) for port in container["ports"]] == opened[name]
        assert container["image"] == f"active-learning-{name}"
    [deployment] = values()["dagster-user-deployments"]["deployments"]
    assert [str(deployment["port"])] == opened["loop"]
