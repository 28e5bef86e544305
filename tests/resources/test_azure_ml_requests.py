"""What one round sends to Azure ML, kept beside this file, so that a change of it is seen in review.

`UPDATE_SNAPSHOTS=1 pytest tests/resources/test_azure_ml_requests.py` writes what is sent now. Left out is what
depends on the moment: uploads of code that may be known already, how often something slow is asked for, and what the
SDK says of the git checkout it runs in.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from azure_workspace import Workspace
from small_models import register_model
from test_azure_ml_batch import batch_of, quiet
from test_endpoint_contract import IMAGE
from test_image_store import picture
from training_workspace import TrainingBench, publish_dataset

from al_resources.endpoint.rollout import roll_out
from emulators.azure_ml import OPERATIONS, RESULTS, ROOT, SUBSCRIPTION

SNAPSHOTS = Path(__file__).parent / "azure_ml_requests"
PASSING = (
    (re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"), "<uuid>"),
    (re.compile(r"[0-9a-f]{32,64}"), "<hash>"),
    (re.compile(r"\b[0-9a-f]{12}\b"), "<hash>"),
    (re.compile(r"==[\w.+!-]+"), "==<version>"),
    (re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d[\d.+:Z]*"), "<time>"),
    (re.compile(r"/(tmp|dev/shm)/[^\s\"']+"), "<folder>"),
)


def lasting(value: Any) -> Any:
    """What is the same in every run."""
    of_job = ((value["body"] or {}).get("properties") or {}).get("properties") or {}
    for name in [name for name in of_job if ".git" in name]:
        del of_job[name]
    text = json.dumps(value).replace(ROOT, "<workspace>").replace(SUBSCRIPTION, "<subscription>")
    for pattern, word in PASSING:
        text = pattern.sub(word, text)
    return json.loads(text)


def requests_of(workspace: Workspace) -> list[dict[str, Any]]:
    """Method, path, api-version and body of every request, repeated ones once."""
    rows: list[dict[str, Any]] = []
    for method, path, version, body in workspace.emulator.requests:
        if path.startswith((OPERATIONS, RESULTS)) or "/codes" in path:
            continue
        row = lasting({"method": method, "path": path, "api-version": version, "body": body})
        if not rows or rows[-1] != row:
            rows.append(row)
    return rows


def registering(workspace: Workspace) -> None:
    register_model(workspace.platform)


def training(workspace: Workspace) -> None:
    dataset = publish_dataset(workspace.platform)
    bench = TrainingBench(workspace.platform, workspace.platform.trainer, workspace.platform.settings.home)
    bench.trainer.fit(bench.request(dataset), bench.report)


def rolling_out(workspace: Workspace) -> None:
    for seed in (1, 2):
        version = register_model(workspace.platform, seed)
        roll_out(workspace.endpoint, version, smoke_images=[(IMAGE, None)], steps=(10, 100), watch_seconds=0)
    workspace.endpoint.remove("blue")


def scoring_a_batch(workspace: Workspace) -> None:
    register_model(workspace.platform)
    workspace.platform.blobs.write("incoming/a.png", picture(1))
    variables = {"AL_HOME": str(workspace.platform.settings.home)}
    batch_of(workspace, environment_variables=variables).score("incoming", 1, "run", quiet)


STEPS: dict[str, Callable[[Workspace], None]] = {
    "training": training,
    "registering": registering,
    "rolling_out": rolling_out,
    "scoring_a_batch": scoring_a_batch,
}


@pytest.mark.parametrize("step", STEPS)
def test_what_is_sent_is_what_was_reviewed(workspace: Workspace, step: str) -> None:
    STEPS[step](workspace)
    sent = requests_of(workspace)
    snapshot = SNAPSHOTS / f"{step}.json"
    if os.environ.get("UPDATE_SNAPSHOTS"):
        snapshot.parent.mkdir(exist_ok=True)
        snapshot.write_text(json.dumps(sent, indent=1) + "\n")
    assert sent == json.loads(snapshot.read_text())
