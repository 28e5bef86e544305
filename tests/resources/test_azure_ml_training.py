"""Training as a job of Azure ML: what is sent, and what happens when the job or the service is in trouble.

The contract of trainers is in test_trainer_contract.py. Here the emulated workspace runs the submitted command too,
mostly with a trainer that needs no torch.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from azure_workspace import Workspace
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from training_workspace import TrainingBench, publish_dataset

from al_assets.model_checkpoint import model_checkpoint
from al_core.dataset import Dataset
from al_core.learning.contract import Trainer, TrainingRequest
from al_core.learning.settings import TrainingSettings
from al_resources.azure.workspace import TRAINING_PACKAGES, WorkspaceError
from al_resources.datasets.azure_ml import AzureMLDatasetStore, asset_of, from_lines
from al_resources.platform import Platform
from al_resources.training.azure_ml_job import AzureMLTrainer
from al_resources.training.azure_ml_runner import JobFailed
from emulators.azure_ml import ROOT, Fault

pytestmark = pytest.mark.live
TRAINERS = Path(__file__).parent / "job_trainers"
QUICK, LONG = 1, 600  # tenths of a second


class Bench(TrainingBench):
    """A trainer in the workspace whose jobs take as long as a test wants them to."""

    workspace: Workspace
    dataset: Dataset

    @classmethod
    def of(cls, workspace: Workspace, folder: Path) -> Bench:
        made = cls(workspace.platform, workspace.platform.trainer, folder)
        made.workspace = workspace
        made.dataset = publish_dataset(workspace.platform)
        made.workspace.emulator.jobs.environment = {"PYTHONPATH": str(TRAINERS)}
        made.trainer = made.trainer_with()
        return made

    def trainer_with(self, sleep: Callable[[float], None] = time.sleep, **settings: Any) -> AzureMLTrainer:
        wanted = self.workspace.settings.model_copy(update={"environment": "slow:1"} | settings)
        name = self.platform.settings.model.name
        return AzureMLTrainer(self.workspace.client, self.platform.blobs, wanted, name, sleep)

    def job(self, length: int, **changes: Any) -> TrainingRequest:
        return self.request(self.dataset, trainer="slow_trainer:SlowTrainer", epochs=length, **changes)

    def platform_with(self, trainer: Trainer, training: TrainingSettings) -> Platform:
        """The same workspace, with another trainer and other settings of the training."""
        return Platform(
            self.platform.settings.model_copy(update={"training": training}),
            datasets=self.platform.datasets,
            registry=self.platform.registry,
            endpoint=self.platform.endpoint,
            trainer=trainer,
        )

    @property
    def submitted(self) -> list[str]:
        requests = self.workspace.emulator.requests
        return [path.split("/")[-1] for verb, path, _, _ in requests if verb == "PUT" and "/jobs/" in path]

    def next_attempt(self, request: TrainingRequest) -> str:
        """The job that would be submitted for a request now."""
        self.workspace.emulator.faults.append(Fault("PUT", "/jobs/", 400))
        with pytest.raises(WorkspaceError, match="submitting job"):
            self.trainer.fit(request, self.report)
        return self.submitted[-1]

    def status(self, name: str) -> str:
        job = self.workspace.emulator.get(f"jobs/{name}")
        assert job is not None
        return job["properties"]["status"]

    def comes_to(self, name: str, status: str) -> bool:
        deadline = time.monotonic() + 30
        while self.status(name) != status and time.monotonic() < deadline:
            time.sleep(0.02)
        return self.status(name) == status

    def when_it_trains(self, action: Callable[[str], None]) -> threading.Thread:
        """Do something to the job once it has said that it trains."""

        def wait() -> None:
            deadline = time.monotonic() + 60
            while "training begins" not in self.lines and time.monotonic() < deadline:
                time.sleep(0.02)
            action(self.submitted[-1])

        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        return thread


@pytest.fixture
def bench(workspace: Workspace, tmp_path: Path) -> Bench:
    return Bench.of(workspace, tmp_path)


# ---------------------------------------------------------------- what is sent


def test_a_dataset_version_is_three_tables_with_the_same_number(bench: Bench):
    publish_dataset(bench.platform, sequence=2)
    images = len(bench.dataset.images("train"))
    for split, count in (("train", images), ("validation", 4), ("holdout", 4)):
        for number in (1, 2):
            asset = bench.workspace.emulator.get(f"data/classifier-{split}/versions/{number}")
            assert asset is not None
            assert asset["properties"]["dataType"] == "mltable"
            assert asset["properties"]["tags"]["images"] == str(count)
    folder = bench.platform.settings.home / "blobs" / "datasets" / bench.dataset.manifest.version / "mltable" / "train"
    assert sorted(file.name for file in folder.iterdir()) == ["MLTable", "images.jsonl"]
    lines = (folder / "images.jsonl").read_bytes()
    first = json.loads(lines.splitlines()[0])
    assert set(first) == {"image_url", "label"}
    assert first["image_url"].startswith("azureml://subscriptions/")
    assert "/resourcegroups/rg/workspaces/ws/datastores/workspaceblobstore/paths/images/" in first["image_url"]
    assert [image.image_id for image in from_lines(lines)] == [
        image.image_id for image in bench.dataset.images("train")
    ]
    assert asset_of("classifier", bench.dataset.manifest, "train") == "azureml:classifier-train:1"


def test_a_version_the_workspace_did_not_get_to_know_is_registered_when_it_is_asked_for(bench: Bench):
    bench.workspace.emulator.faults.append(Fault("PUT", "/data/classifier-holdout", 403))
    with pytest.raises(WorkspaceError, match=r"registering data asset classifier-holdout:2: not permitted"):
        publish_dataset(bench.platform, sequence=2)
    assert bench.workspace.emulator.get("data/classifier-holdout/versions/2") is None
    again = AzureMLDatasetStore(
        bench.platform.blobs, "classifier", bench.workspace.arm, bench.workspace.settings
    ).of_round(1)
    assert again.manifest.sequence == 2
    assert bench.workspace.emulator.get("data/classifier-holdout/versions/2") is not None


def test_a_job_is_given_the_registered_dataset_trains_what_it_holds_and_does_so_once(bench: Bench):
    request = bench.job(QUICK)
    result = bench.trainer.fit(request, bench.report)
    assert json.loads(result.weights.read_text()) == [image.image_id for image in request.train]
    [name] = bench.submitted
    assert name == f"classifier-{request.key}-1"
    assert result.log == {"images": 16, "azure_ml_job": name}
    sent = next(body for verb, path, _, body in bench.workspace.emulator.requests if verb == "PUT" and name in path)
    properties = sent["properties"]
    inputs = {key: value["uri"].removeprefix(ROOT) for key, value in properties["inputs"].items()}
    assert inputs == {
        "request": f"azureml://datastores/workspaceblobstore/paths/jobs/{name}/request.json",
        "images": "azureml://datastores/workspaceblobstore/paths/images/",
        "train": "/data/classifier-train/versions/1",
        "validation": "/data/classifier-validation/versions/1",
    }
    assert {key: value["mode"] for key, value in properties["outputs"].items()} == {
        "output": "Upload",
        "messages": "ReadWriteMount",
    }
    assert properties["command"].startswith("python -m al_resources.training.job --request ")
    assert properties["computeId"].endswith("/computes/gpu-cluster")
    assert properties["tags"]["dataset"] == bench.dataset.manifest.version
    assert properties["limits"]["timeout"] == "P1D"

    # the same training again, as a step that is retried asks for it: the job is found, not begun again
    again = bench.trainer_with().fit(bench.job(QUICK), bench.report)
    assert again.weights.read_bytes() == result.weights.read_bytes()
    assert bench.submitted == [name]
    assert any("was begun before and is Completed" in line for line in bench.lines)


def test_without_an_environment_of_its_own_a_job_has_the_versions_installed_here(bench: Bench):
    bench.workspace.emulator.faults.append(Fault("PUT", "/jobs/", 400))
    with pytest.raises(WorkspaceError, match="submitting job"):
        bench.trainer_with(environment="").fit(bench.request(bench.dataset), bench.report)
    [path] = [
        path for verb, path, _, _ in bench.workspace.emulator.requests if verb == "PUT" and "/environments/" in path
    ]
    environment = bench.workspace.emulator.get(path.removeprefix(ROOT + "/"))
    assert environment is not None
    conda = environment["properties"]["condaFile"]
    assert "dagster-pipes==" in conda
    assert "torch==" in conda
    assert "dagster==" not in conda


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"key": ""}, "needs the key of the training"),
        ({"dataset": None}, "a published dataset version"),
        ({"train": []}, r"the 0 train images are not those of dataset .* materialize labeled_dataset again"),
    ],
)
def test_a_training_that_cannot_be_named_or_is_not_published_is_refused_before_any_call(
    bench: Bench, change: dict[str, Any], problem: str
):
    request = bench.job(QUICK)
    with pytest.raises(ValueError, match=problem):
        bench.trainer.fit(TrainingRequest(**{**vars(request), **change}), bench.report)
    assert bench.submitted == []


def test_a_trainer_that_would_not_be_there_is_refused_before_any_call(bench: Bench):
    with pytest.raises(ValueError, match=r"'slow_trainer:SlowTrainer' is not sent along .* azure_ml\.environment"):
        bench.trainer_with(environment="").fit(bench.job(QUICK), bench.report)


# ---------------------------------------------------------------- once, whatever happens here


def test_a_process_that_is_killed_leaves_a_job_that_the_next_one_goes_on_with(bench: Bench):
    class Killed(BaseException):
        """Stands for SIGKILL: nothing runs after it."""

    def killed(_: float) -> None:
        raise Killed

    dead = bench.trainer_with(killed)
    dead._runner._cancel = lambda *_: None  # type: ignore[method-assign]
    with pytest.raises(Killed):
        dead.fit(bench.job(QUICK), bench.report)
    result = bench.trainer.fit(bench.job(QUICK), bench.report)
    assert result.log["images"] == 16
    assert len(bench.submitted) == 1


def test_a_submission_whose_answer_was_lost_is_not_a_second_job(bench: Bench):
    """Repeated by the SDK, it meets its own job: 409, as where two processes submit the same training."""
    lost = Fault("PUT", "/jobs/", 503, headers={"retry-after-ms": "1"}, takes_effect=True)
    bench.workspace.emulator.faults.append(lost)
    assert bench.trainer.fit(bench.job(QUICK), bench.report).log["images"] == 16
    assert len(bench.submitted) == 2
    assert len(set(bench.submitted)) == 1


def test_weights_that_are_not_those_reported_are_refused_and_say_how_to_train_again(bench: Bench):
    bench.trainer.fit(bench.job(QUICK), bench.report)
    [name] = bench.submitted
    bench.platform.blobs.write(f"jobs/{name}/checkpoint/model.safetensors", b"somebody else's")
    with pytest.raises(JobFailed, match=rf"reported weights .* delete jobs/{name}/ to train again"):
        bench.trainer.fit(bench.job(QUICK), bench.report)
    for blob in list(bench.platform.blobs.list(f"jobs/{name}")):
        bench.platform.blobs.delete(blob.path)
    assert bench.next_attempt(bench.job(QUICK)) == f"{name[:-2]}-2"


# ---------------------------------------------------------------- the service in trouble


def test_status_calls_that_fail_for_a_while_are_repeated(bench: Bench):
    trouble = [
        Fault("GET", "/jobs/", 503, times=9, headers={"retry-after-ms": "1"}),  # more than the SDK repeats by itself
        Fault("GET", "/jobs/", 429, times=9, headers={"retry-after-ms": "1"}),
    ]
    bench.workspace.emulator.faults.extend(trouble)
    assert bench.trainer.fit(bench.job(QUICK), bench.report).log["images"] == 16
    assert [fault.times for fault in trouble] == [0, 0]


def test_a_submission_that_is_throttled_is_repeated_and_one_job_comes_of_it(bench: Bench):
    throttled = Fault("PUT", "/jobs/", 429, times=2, headers={"retry-after-ms": "10"})
    bench.workspace.emulator.faults.append(throttled)
    bench.trainer.fit(bench.job(QUICK), bench.report)
    assert throttled.times == 0
    assert len(set(bench.submitted)) == 1


def test_a_missing_permission_is_no_trouble_that_passes(bench: Bench):
    bench.workspace.emulator.faults.append(Fault("PUT", "/jobs/", 403))
    with pytest.raises(WorkspaceError, match=r"submitting job .* needs the role 'AzureML Data Scientist'"):
        bench.trainer.fit(bench.job(QUICK), bench.report)


# ---------------------------------------------------------------- the job in trouble


def test_a_job_that_dies_without_a_word_points_to_its_log_and_is_not_gone_on_with(bench: Bench):
    request = bench.job(LONG)
    bench.when_it_trains(bench.workspace.emulator.jobs.kill)
    with pytest.raises(JobFailed, match=r"is Failed in the workspace; its log: https://ml\.azure\.com/runs/classifier"):
        bench.trainer.fit(request, bench.report)
    assert bench.next_attempt(request) == f"classifier-{request.key}-2"


def test_a_job_that_is_cancelled_there_is_an_error_here(bench: Bench):
    bench.when_it_trains(bench.workspace.client.jobs.begin_cancel)
    with pytest.raises(JobFailed, match="is Cancel"):
        bench.trainer.fit(bench.job(LONG), bench.report)


@pytest.mark.parametrize("status", ["NotResponding", "Running", "Hibernating"])
def test_a_job_that_hangs_or_whose_status_nobody_knows_is_given_up_and_cancelled(bench: Bench, status: str):
    request = bench.job(LONG)
    name = f"classifier-{request.key}-1"
    bench.workspace.emulator.job_status[name] = status
    with pytest.raises(JobFailed, match=rf"is {status} and said nothing for azure_ml\.stuck_minutes"):
        bench.trainer_with(stuck_minutes=0.02).fit(request, bench.report)
    assert bench.comes_to(name, "Canceled")


def test_a_job_that_waits_for_a_machine_is_not_stuck_but_may_take_too_long(bench: Bench):
    request = bench.job(QUICK)
    bench.workspace.emulator.job_status[f"classifier-{request.key}-1"] = "Queued"
    with pytest.raises(JobFailed, match=r"takes longer than azure_ml\.job_minutes"):
        bench.trainer_with(stuck_minutes=0.001, job_minutes=0.02).fit(request, bench.report)


def test_a_job_that_completes_without_a_report_has_not_trained(bench: Bench):
    def pretends(name: str) -> None:
        bench.workspace.emulator.job_status[name] = "Completed"

    bench.when_it_trains(pretends)
    with pytest.raises(JobFailed, match="is Completed, but never reported what came of it"):
        bench.trainer.fit(bench.job(LONG), bench.report)


# ---------------------------------------------------------------- cancelled here


def test_an_interruption_here_cancels_the_job_there_and_is_raised(bench: Bench):
    def interrupted(_: float) -> None:
        if "training begins" in bench.lines:
            raise KeyboardInterrupt
        time.sleep(0.02)

    with pytest.raises(KeyboardInterrupt):
        bench.trainer_with(interrupted).fit(bench.job(LONG), bench.report)
    assert bench.comes_to(bench.submitted[0], "Canceled")
    assert bench.lines[-1].endswith("is being cancelled")


def test_where_the_cancellation_fails_too_it_is_still_the_interruption_that_is_raised(bench: Bench):
    def interrupted(_: float) -> None:
        bench.workspace.emulator.faults.append(Fault("POST", "/cancel", 403, times=9))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench.trainer_with(interrupted).fit(bench.job(LONG), bench.report)
    assert "could not be cancelled, look after it in the workspace" in bench.lines[-1]


@pytest.mark.usefixtures("whole_code")
def test_the_asset_trains_by_job_and_its_run_tells_what_the_job_tells(bench: Bench):
    platform = bench.platform_with(bench.trainer_with(environment=""), bench.request(bench.dataset).settings)
    with dg.instance_for_test() as instance:
        done = materialized(platform, instance)
        [event] = done.asset_materializations_for_node("model_checkpoint")
        assert any(
            "epoch 2/2: loss" in entry.user_message for entry in instance.all_logs(done.run_id)
        )  # while it trained, not after
    assert event.metadata["model version"].value == 1
    training = event.metadata["training"].value
    assert isinstance(training, dict)
    assert training["azure_ml_job"] == bench.submitted[0]
    assert bench.workspace.emulator.get("models/classifier/versions/1") is not None
    assert platform.registry.manifest(1).dataset_version == bench.dataset.manifest.version


def test_cancelling_the_run_cancels_the_job_and_the_step_fails(bench: Bench):
    """With Dagster's own client for Azure ML the job was cancelled and the step succeeded: a model out of nothing."""
    platform = bench.platform_with(_Heard(bench), bench.job(LONG).settings)
    bench.when_it_trains(lambda name: os.kill(os.getpid(), signal.SIGINT))
    with dg.instance_for_test() as instance:
        with pytest.raises(dg.DagsterExecutionInterruptedError):
            materialized(platform, instance)
        [run] = instance.get_runs()
        logs = instance.all_logs(run.run_id)
        events = {entry.dagster_event.event_type_value for entry in logs if entry.dagster_event}
        assert run.status in (dg.DagsterRunStatus.CANCELED, dg.DagsterRunStatus.FAILURE)
        assert "STEP_FAILURE" in events
        assert "ASSET_MATERIALIZATION" not in events
        assert any("training begins" in entry.user_message for entry in logs)
    assert bench.comes_to(bench.submitted[0], "Canceled")
    assert platform.registry.versions() == []


def materialized(platform: Platform, instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    """`model_checkpoint` of the first round, run for real."""
    instance.add_dynamic_partitions("round", ["0000"])
    return dg.materialize(
        [model_checkpoint.of()], partition_key="0000", instance=instance, resources={"platform": platform}
    )


class _Heard:
    """The trainer of a bench, whose lines the bench hears as well."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench

    def fit(self, request: TrainingRequest, report: Callable[[str], None]) -> Any:
        def both(line: str) -> None:
            report(line)
            self._bench.report(line)  # last: what the bench hears may interrupt this very process

        return self._bench.trainer.fit(request, both)


# ---------------------------------------------------------------- the environment

IMPORTED_WITHOUT = """
import sys
from importlib.machinery import PathFinder

missing = set(sys.argv[1:])

class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] in missing else super().find_spec(name, path, target)

sys.meta_path = [Finder if finder is PathFinder else finder for finder in sys.meta_path]
from al_core import images
from al_core.learning import torch_trainer
from al_resources.training import automl_job, job
"""


def test_the_environment_of_a_job_holds_all_that_its_code_imports():
    held: set[str] = set()
    waiting = list(TRAINING_PACKAGES)
    while waiting:
        package = canonicalize_name(waiting.pop())
        if package not in held:
            held.add(package)
            required = [Requirement(text) for text in installed_requirements(package)]
            waiting += [each.name for each in required if not each.marker or each.marker.evaluate({"extra": ""})]
    missing = [
        module
        for module, packages in importlib.metadata.packages_distributions().items()
        if not held & {canonicalize_name(package) for package in packages} and not module.startswith("al_")
    ]
    assert "dagster" in missing
    subprocess.run([sys.executable, "-c", IMPORTED_WITHOUT, *missing], check=True)


def installed_requirements(package: str) -> list[str]:
    try:
        return importlib.metadata.requires(package) or []
    except importlib.metadata.PackageNotFoundError:  # for another platform
        return []
