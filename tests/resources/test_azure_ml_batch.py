"""A batch endpoint of Azure ML: the same script over a whole folder, every file accounted for, every answer logged."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from azure_workspace import Workspace
from small_models import register_model
from test_image_store import picture as png

from al_assets.prediction_log import prediction_log
from al_core.images import content_id
from al_loop.scoring import score
from al_resources.azure.workspace import WorkspaceError
from al_resources.endpoint.azure_ml_batch import AzureMLBatchEndpoint, BatchFailed
from al_resources.image_names import own_names
from al_serving.batch import NoImages
from al_serving.remote_batch import UNANSWERED, score_folder_remotely, score_store_remotely, summary_of
from emulators.azure_ml import ROOT, Fault


def quiet(_: str) -> None:
    """A log nobody reads."""


def batch_of(
    workspace: Workspace, sleep: Callable[[float], None] = time.sleep, **settings: Any
) -> AzureMLBatchEndpoint:
    settings = {
        "batch_endpoint": "classifier-batch",
        "batch_parallel": 2,
        "environment_variables": {"AL_HOME": str(workspace.platform.settings.home)},
        **settings,
    }
    return AzureMLBatchEndpoint(
        workspace.client,
        workspace.arm,
        workspace.settings.model_copy(update=settings),
        workspace.platform.blobs,
        model_name=workspace.platform.settings.model.name,
        sleep=sleep,
    )


def sent(workspace: Workspace, method: str, where: str) -> list[str]:
    paths = [path.removeprefix(ROOT + "/") for verb, path, _, _ in workspace.emulator.requests if verb == method]
    return [path for path in paths if path.startswith(where)]


@pytest.mark.usefixtures("whole_code")
def test_a_prefix_of_the_container_is_scored_and_every_file_accounted_for(workspace: Workspace) -> None:
    platform = workspace.platform
    register_model(platform)
    workspace.emulator.batch.processes = True
    for number in range(70):  # two mini-batches
        platform.blobs.write(f"incoming/{number % 3}/{number}.png", png(number))
    platform.blobs.write("incoming/broken.png", b"no image")
    platform.blobs.write("incoming/again.png", png(3))
    platform.blobs.write("incoming/notes.txt", b"passed over")
    known: dict[str, str] = {}
    where = (batch_of(workspace), platform.blobs, "incoming", 1)
    summary = score_store_remotely(*where, key="run", log=quiet, named=known.__setitem__)
    assert (summary.files, summary.scored, summary.model_version) == (72, 70, 1)
    assert known["incoming/1/4.png"] == content_id(png(4))
    assert known["incoming/again.png"] == known["incoming/0/3.png"]
    assert len(known) == 71  # all but the broken one
    assert list(summary.refused) == ["incoming/broken.png"]
    assert platform.predictions.watermark("classifier", 1).rows >= 70
    row = next(iter(platform.predictions.scan(["source", "image_uri", "model_version"]))).to_pylist()[0]
    assert (row["source"], row["model_version"]) == ("batch", 1)
    assert platform.ledgers.read("rejected_images").height == 1


def test_a_folder_here_travels_into_the_container_and_leaves_nothing_there(
    workspace: Workspace, tmp_path: Path
) -> None:
    platform = workspace.platform
    register_model(platform)
    workspace.emulator.batch.quoted = True
    for number in range(3):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / f"{number}.png").write_bytes(png(number))
    summary = score_folder_remotely(batch_of(workspace), platform.blobs, tmp_path / "in", 1, key="run", log=quiet)
    assert (summary.files, summary.scored, summary.refused) == (3, 3, {})
    assert list(platform.blobs.list("batch/run/images")) == []


def test_a_deployment_is_made_once_per_version_and_runs_the_script_of_the_online_one(workspace: Workspace) -> None:
    platform = workspace.platform
    for seed in range(4):
        register_model(platform, seed)
    batch = batch_of(workspace, batch_instances=3)
    for version in (1, 1, 2, 3, 4):
        batch._deployed(version, quiet)
    endpoint = "batchEndpoints/classifier-batch"
    made = [path for path in sent(workspace, "PUT", endpoint) if "/deployments/" in path]
    assert made == [f"{endpoint}/deployments/version-{version}" for version in (1, 2, 3, 4)]
    assert sent(workspace, "DELETE", endpoint) == [f"{endpoint}/deployments/version-1"]
    deployment = workspace.emulator.get(f"{endpoint}/deployments/version-4")
    assert deployment is not None
    properties = deployment["properties"]
    assert properties["codeConfiguration"]["scoringScript"] == "al_serving/azure_ml_script.py"
    assert (properties["resources"]["instanceCount"], properties["maxConcurrencyPerInstance"]) == (3, 2)
    assert properties["errorThreshold"] == -1
    found = workspace.emulator.get(endpoint)
    assert found is not None
    assert found["properties"]["defaults"]["deploymentName"] == "version-4"


def test_the_next_attempt_goes_on_with_the_job_that_was_started(workspace: Workspace) -> None:
    platform = workspace.platform
    register_model(platform)
    platform.blobs.write("incoming/a.png", png(1))
    workspace.emulator.faults.append(Fault("GET", "/jobs/batchjob", 400, times=1))
    with pytest.raises(WorkspaceError, match=r"looking at job batchjob-.*: 400"):
        batch_of(workspace).score("incoming", 1, "run", quiet)
    said: list[str] = []
    assert len(batch_of(workspace).score("incoming", 1, "run", said.append)) == 1
    assert said[0].startswith("going on with job batchjob-")
    assert len(workspace.emulator.batch.jobs) == 1


def test_throttling_and_overload_are_waited_out(workspace: Workspace) -> None:
    register_model(workspace.platform)
    workspace.platform.blobs.write("incoming/a.png", png(1))
    fault = Fault("GET", "/jobs/batchjob", 503, times=2, headers={"retry-after-ms": "10"})
    workspace.emulator.faults.append(fault)
    assert len(batch_of(workspace).score("incoming", 1, "run", quiet)) == 1
    assert fault.times == 0


def test_a_cancelled_run_cancels_its_job_and_the_next_one_begins_anew(workspace: Workspace) -> None:
    register_model(workspace.platform)
    workspace.platform.blobs.write("incoming/a.png", png(1))
    workspace.emulator.batch.held = True

    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        batch_of(workspace, interrupted).score("incoming", 1, "run", quiet)
    assert list(workspace.emulator.batch.jobs.values()) == ["Canceled"]
    workspace.emulator.batch.held = False
    assert len(batch_of(workspace).score("incoming", 1, "run", quiet)) == 1


def test_a_job_that_takes_too_long_is_cancelled(workspace: Workspace) -> None:
    register_model(workspace.platform)
    workspace.platform.blobs.write("incoming/a.png", png(1))
    workspace.emulator.batch.held = True
    with pytest.raises(BatchFailed, match=r"was cancelled: Queued after azure_ml\.batch_minutes"):
        batch_of(workspace, batch_minutes=0.001).score("incoming", 1, "run", quiet)
    assert list(workspace.emulator.batch.jobs.values()) == ["Canceled"]


def test_a_job_that_falls_silent_is_cancelled(workspace: Workspace) -> None:
    register_model(workspace.platform)
    workspace.platform.blobs.write("incoming/a.png", png(1))
    jobs = workspace.emulator.batch.jobs
    workspace.emulator.batch.held = True

    def silent(_: float) -> None:
        jobs.update(dict.fromkeys(jobs, "NotResponding"))

    with pytest.raises(BatchFailed, match="was cancelled: it is NotResponding"):
        batch_of(workspace, silent).score("incoming", 1, "run", quiet)
    assert list(jobs.values()) == ["Canceled"]


def test_where_the_cancellation_fails_too_it_is_the_interruption_that_is_raised(workspace: Workspace) -> None:
    register_model(workspace.platform)
    workspace.platform.blobs.write("incoming/a.png", png(1))
    workspace.emulator.batch.held = True
    said: list[str] = []

    def interrupted(_: float) -> None:
        workspace.emulator.faults.append(Fault("POST", "/cancel", 403, times=9))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        batch_of(workspace, interrupted).score("incoming", 1, "run", said.append)
    assert said[-1].endswith("needs the role 'AzureML Data Scientist'; look after it in the workspace")


def test_a_job_that_fails_says_where_its_log_is(workspace: Workspace) -> None:
    register_model(workspace.platform)
    workspace.platform.blobs.write("incoming/a.png", png(1))
    variables = {"AL_HOME": "x", "AL_PROFILE": "nowhere"}
    with pytest.raises(BatchFailed, match=r"is Failed; its log is in the studio, under classifier-batch"):
        batch_of(workspace, environment_variables=variables).score("incoming", 1, "run", quiet)


def test_a_batch_that_would_log_nothing_is_refused(workspace: Workspace) -> None:
    with pytest.raises(BatchFailed, match=r"names no AL_\* variable, so a batch would log nothing"):
        batch_of(workspace, environment_variables={"OTHER": "x"}).score("incoming", 1, "run", quiet)


def test_prediction_log_scores_a_prefix_through_the_endpoint_and_names_what_was_refused(workspace: Workspace) -> None:
    platform = workspace.platform
    register_model(platform)
    workspace.endpoint.create("blue", 1)
    workspace.endpoint.set_traffic({"blue": 100})
    platform = platform.with_parts(batch=batch_of(workspace))
    platform.blobs.write("incoming/a.png", png(1))
    platform.blobs.write("incoming/b.png", b"broken")
    result = dg.materialize(
        [prediction_log.of()],
        resources={"platform": platform},
        run_config={"ops": {"prediction_log": {"config": {"prefix": "incoming"}}}},
    )
    (event,) = result.asset_materializations_for_node("prediction_log")
    assert event.metadata["images scored"].value == 1
    (record,) = event.metadata["refused"].records
    assert record.data["file"] == "incoming/b.png"
    assert event.metadata["dagster/row_count"].value == 1
    assert own_names(platform.ledgers) == [("incoming/a.png", content_id(png(1)))]


def test_prediction_log_scores_here_where_there_is_no_endpoint(workspace: Workspace, tmp_path: Path) -> None:
    platform = workspace.platform
    register_model(platform)
    workspace.endpoint.create("blue", 1)
    workspace.endpoint.set_traffic({"blue": 100})
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(png(1))
    summary = score(platform, folder=tmp_path / "in", key="run", log=quiet)
    assert summary is not None
    assert summary.scored == 1
    with pytest.raises(NoImages, match="holds no image"):
        score(platform, prefix="nowhere", key="run", log=quiet)


# ---------------------------------------------------------------- what answers tell


def answer(name: str, **more: Any) -> dict[str, Any]:
    return {"filename": name, **more}


def test_files_without_an_answer_are_named() -> None:
    summary = summary_of(["x/a.png", "x/b.png"], [answer("a.png", image_id="1")], 1)
    assert summary.refused == {"x/b.png": UNANSWERED}


def test_files_of_the_same_name_are_named_together() -> None:
    answers = [answer("a.png", image_id="1"), answer("a.png", error="cut")]
    assert summary_of(["x/a.png", "y/a.png"], answers, 1).refused == {"x/a.png or y/a.png": "cut"}


def test_rows_are_read_as_json_or_as_a_csv_has_it_and_anything_else_is_told(workspace: Workspace) -> None:
    from al_resources.endpoint.azure_ml_batch import _answer

    row = json.dumps(answer("a,b.png", error='he said "no"'))
    quoted = '"' + row.replace('"', '""') + '"'
    assert _answer(row) == _answer(quoted) == {"filename": "a,b.png", "error": 'he said "no"'}
    with pytest.raises(BatchFailed, match="cannot be read"):
        _answer("Traceback")
