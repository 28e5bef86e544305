"""The emulated workspace refuses what Azure's published schemas refuse, in the api-version that is spoken."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from azure_workspace import Workspace

from al_resources.azure.workspace import WorkspaceError
from emulators.azure_ml_schemas import problems_of

SNAPSHOTS = Path(__file__).parent / "azure_ml_requests"
JOB, DEPLOYMENT, ENDPOINT = (
    ("training", "/jobs/"),
    ("rolling_out", "/deployments/"),
    ("rolling_out", "/onlineEndpoints/"),
)
KINDS = {JOB: "jobs", DEPLOYMENT: "onlineEndpoints/deployments", ENDPOINT: "onlineEndpoints"}
GONE = object()


def sound(step: tuple[str, str]) -> tuple[str, Any]:
    """The api-version and body of a request that the platform sends."""
    sent = json.loads((SNAPSHOTS / f"{step[0]}.json").read_text())
    one = next(each for each in sent if each["method"] == "PUT" and step[1] in each["path"])
    return one["api-version"], json.loads(json.dumps(one["body"]).replace("<workspace>", "/subscriptions/s"))


def changed(body: Any, path: str, value: Any) -> Any:
    made = copy.deepcopy(body)
    *parents, last = path.split("/")
    place = made
    for parent in parents:
        place = place[parent]
    if value is GONE:
        del place[last]
    else:
        place[last] = value
    return made


@pytest.mark.parametrize(
    ("step", "path", "value", "problem"),
    [
        (JOB, "properties/colour", "green", "properties: Additional properties .*'colour' was unexpected"),
        (JOB, "properties/inputs/images/mood", "x", "properties/inputs/images: .*'mood' was unexpected"),
        (JOB, "properties/command", GONE, "properties: 'command' is a required property"),
        (JOB, "properties/command", "", "properties/command: "),
        (JOB, "properties/jobType", "Wish", "properties/jobType: 'Wish' is not one of"),
        (JOB, "properties/inputs/images/mode", "Sideways", "properties/inputs/images/mode: 'Sideways' does not match"),
        (JOB, "properties/limits/timeout", "3600", "properties/limits/timeout: '3600' does not match"),
        (JOB, "properties/environmentId", "al-training", "properties/environmentId: 'al-training' does not match"),
        (JOB, "properties/status", "Running", "'status' was unexpected"),  # read-only
        (JOB, "properties/tags/round", 3, "properties/tags/round: 3 is not of type 'string'"),
        (DEPLOYMENT, "location", GONE, "body: 'location' is a required property"),
        (DEPLOYMENT, "sku/capacity", "two", "sku/capacity: 'two' is not of type 'integer'"),
        (DEPLOYMENT, "properties/livenessProbe/colour", 1, "properties/livenessProbe: .*'colour'"),
        (DEPLOYMENT, "properties/endpointComputeType", "Toaster", "'Toaster' is not one of"),
        (ENDPOINT, "properties/authMode", "Password", "properties/authMode: 'Password' does not match"),
        (ENDPOINT, "properties/traffic/blue", "90", "properties/traffic/blue: '90' is not of type 'integer'"),
    ],
)
def test_a_body_that_is_wrong_in_one_place_is_refused_for_it(
    step: tuple[str, str], path: str, value: Any, problem: str
) -> None:
    version, body = sound(step)
    assert problems_of(KINDS[step], version, body) == []
    found = problems_of(KINDS[step], version, changed(body, path, value))
    with pytest.raises(AssertionError, match=problem):
        raise AssertionError("; ".join(found))


def test_a_property_is_known_from_the_api_version_on_that_brought_it() -> None:
    version = "2024-01-01-preview"
    body = {
        "location": "here",
        "properties": {"deploymentConfiguration": {"deploymentConfigurationType": "PipelineComponent"}},
    }
    assert problems_of("batchEndpoints/deployments", version, body) == []
    assert "deploymentConfiguration" in problems_of("batchEndpoints/deployments", "2023-04-01", body)[0]


def test_an_api_version_without_a_schema_is_refused_not_waved_through() -> None:
    assert "api-version '2030-01-01' has no jobs" in problems_of("jobs", "2030-01-01", {})[0]


def test_what_is_refused_never_reaches_the_workspace(workspace: Workspace) -> None:
    body = {"properties": {"dataType": "mltable", "colour": "green"}}
    with pytest.raises(WorkspaceError, match=r"400 .*'dataUri' is a required property.*'colour' was unexpected"):
        workspace.arm.call("PUT", "data/x/versions/1", what="x", params={"api-version": "2023-04-01"}, body=body)
    assert workspace.emulator.get("data/x/versions/1") is None
