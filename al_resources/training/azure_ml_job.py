"""Training as a command job of Azure ML: the trainer of the settings, on a cluster, watched from here.

The job's inputs are the registered dataset version and the parent's registered version, so that the workspace shows
where a model comes from; request, messages and checkpoint lie in the blob store, below `jobs/<job>/`.
"""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from al_core.errors import InvalidInput
from al_core.learning.checkpoint import WEIGHTS_FILE, read_manifest, sha256_of
from al_core.learning.contract import TrainingRequest, TrainingResult
from al_resources.azure.workspace import CODE, code_snapshot, datastore_uri, environment_of
from al_resources.datasets.azure_ml import IMAGES_FILE, asset_of, table_folder, to_lines
from al_resources.image_store import IMAGES
from al_resources.settings.azure_ml import AzureMLSettings
from al_resources.training.azure_ml_runner import JobFailed, JobRunner

if TYPE_CHECKING:
    from azure.ai.ml import Input, MLClient
    from azure.ai.ml.entities import Command

    from al_core.dataset import Split
    from al_core.learning.contract import LabeledImage
    from al_core.records import DatasetManifest
    from al_resources.blobs import BlobStore
    from al_resources.training.job import RemoteResult

ENTRY = "al_resources.training.job"
TRAINED_ON: tuple[Split, ...] = ("train", "validation")


class AzureMLTrainer:
    """`Trainer` that trains in the workspace.

    A job that is cancelled there, fails, falls silent or takes too long is an error here; a process that is
    interrupted here cancels its job there. The job is called `<model>-<training key>-<attempt>`: the same training
    finds the job that runs or is done already, and only begins another where all before came to nothing.
    """

    def __init__(
        self,
        client: MLClient,
        blobs: BlobStore,
        settings: AzureMLSettings,
        model_name: str,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._blobs = blobs
        self._settings = settings
        self._model_name = model_name
        self._runner = JobRunner(client, settings, sleep)

    def fit(self, request: TrainingRequest, report: Callable[[str], None]) -> TrainingResult:
        """Train remotely; what the job says goes to `report`.

        Raises:
            ValueError: the request names no training or no published dataset, or its trainer is not sent along.
            JobFailed: see `JobRunner.run`; or what the job left is not what it reported.
            WorkspaceError: Azure refuses.
        """
        dataset = checked_dataset(request, self._blobs, self._settings)
        _check_trainer(request.settings.trainer, self._settings)
        inputs = {
            "images": images_of(self._settings),
            **tables_of(request, dataset, self._model_name),
            **_parent_of(request),
        }
        return self._run(request, dataset, inputs, entry=ENTRY, compute=self._settings.compute, report=report)

    def _run(
        self,
        request: TrainingRequest,
        dataset: DatasetManifest,
        inputs: dict[str, Input],
        *,
        entry: str,
        compute: str,
        report: Callable[[str], None],
    ) -> TrainingResult:
        """Follow the job that runs the module `entry`, and bring what it made."""
        with tempfile.TemporaryDirectory(prefix="al-code-") as scratch:
            name, inbox = self._runner.run(
                f"{self._model_name}-{request.key}",
                job=partial(self._job, request, dataset, inputs, entry, compute, Path(scratch)),
                inbox=lambda name: PipesInbox(self._blobs, name, report),
                report=report,
            )
        assert inbox.result is not None  # or the runner had raised
        result = inbox.result.at(self._weights(name, inbox.result, request.output))
        result.log["azure_ml_job"] = name
        return result

    def _job(
        self,
        request: TrainingRequest,
        dataset: DatasetManifest,
        inputs: dict[str, Input],
        entry: str,
        compute: str,
        scratch: Path,
        name: str,
    ) -> Command:
        from azure.ai.ml import Input, command

        from al_resources.training.job import RemoteRequest

        remote = RemoteRequest(key=request.key, classes=request.classes, settings=request.settings)
        self._blobs.write(f"{folder_of(name)}/request.json", remote.model_dump_json().encode())
        inputs = {
            "request": Input(type="uri_file", path=self._uri(name, "request.json"), mode="download"),
            **inputs,
        }
        outputs = {"output": self._output(name, "checkpoint", "upload"), "messages": self._output(name, "messages")}
        arguments = [f"--{key} ${{{{inputs.{key}}}}}" for key in inputs]
        arguments += [f"--{key} ${{{{outputs.{key}}}}}" for key in outputs]
        job = command(
            name=name,
            display_name=f"{self._model_name} on dataset {dataset.sequence}",
            experiment_name=self._settings.experiment,
            command=" ".join([f"python -m {entry}", *arguments]),
            code=str(code_snapshot(scratch)),
            environment=environment_of(self._settings, "training", request.settings.architecture),
            compute=compute,
            inputs=inputs,
            outputs=outputs,
            tags=tags_of(request, dataset),
        )
        job.set_limits(timeout=round(60 * self._settings.job_minutes))
        return job

    def _output(self, name: str, part: str, mode: str = "rw_mount") -> Any:
        """A folder of the job's; messages are mounted, for they are read while it runs."""
        from azure.ai.ml import Output

        return Output(type="uri_folder", path=self._uri(name, part), mode=mode)

    def _uri(self, name: str, part: str) -> str:
        return datastore_uri(self._settings, f"{folder_of(name)}/{part}")

    def _weights(self, name: str, result: RemoteResult, output: Path) -> Path:
        """The weights the job left, verified against what it reported."""
        path = f"{folder_of(name)}/checkpoint/{WEIGHTS_FILE}"
        weights = output / WEIGHTS_FILE
        weights.write_bytes(self._blobs.read(path))
        if (found := sha256_of(weights)) != result.weights_sha256:
            raise JobFailed(
                f"job {name} reported weights {result.weights_sha256[:12]}..., but {path} holds {found[:12]}...; "
                f"delete {folder_of(name)}/ to train again"
            )
        return weights


class PipesInbox:
    """The Pipes messages of a job, in order; see `al_resources.training.job` for how they lie there."""

    def __init__(self, blobs: BlobStore, job: str, report: Callable[[str], None]) -> None:
        self._blobs = blobs
        self._folder = f"{folder_of(job)}/messages"
        self._report = report
        self._count = 0
        self.error = ""
        self.result: RemoteResult | None = None

    @property
    def reported(self) -> bool:
        """Whether the job reported a materialization."""
        return self.result is not None

    def listen(self) -> bool:
        """Take in what is new; lines of progress are passed on."""
        before = self._count
        while (message := self._next()) is not None:
            self._count += 1
            self._take(message["method"], message["params"] or {})
        return self._count > before

    def _next(self) -> dict[str, Any] | None:
        try:
            content = self._blobs.read(f"{self._folder}/{self._count + 1}.json")
        except FileNotFoundError:
            return None
        return json.loads(content) if content.endswith(b"\n") else None

    def _take(self, method: str, params: dict[str, Any]) -> None:
        from al_resources.training.job import RESULT, RemoteResult

        if method == "log":
            self._report(params["message"])
        elif method == "report_asset_materialization":
            self.result = RemoteResult.model_validate(params["metadata"][RESULT]["raw_value"])
        elif method == "closed" and "exception" in params:
            self.error = params["exception"]["message"].strip()


def folder_of(job: str) -> str:
    """Where in the blob store the files of a job lie."""
    return f"jobs/{job}"


def checked_dataset(request: TrainingRequest, blobs: BlobStore, settings: AzureMLSettings) -> DatasetManifest:
    """The dataset version of a request, which is what a job is given in place of the images themselves.

    Raises:
        ValueError: the request has no key or no dataset, or its images are not those of the published version.
    """
    if not request.key or request.dataset is None:
        raise InvalidInput("a training in Azure ML needs the key of the training and a published dataset version")
    for split in TRAINED_ON:
        images: list[LabeledImage] = list(getattr(request, split))
        path = f"{table_folder(request.dataset, split)}/{IMAGES_FILE}"
        published = blobs.read(path) if blobs.exists(path) else b""
        if published != to_lines(images, settings):
            raise InvalidInput(
                f"the {len(images)} {split} images are not those of dataset {request.dataset.version} as published "
                f"in {path}; materialize labeled_dataset again"
            )
    return request.dataset


def tables_of(request: TrainingRequest, dataset: DatasetManifest, model_name: str) -> dict[str, Input]:
    """The splits that have images, as inputs of a job."""
    from azure.ai.ml import Input

    return {
        split: Input(type="mltable", path=asset_of(model_name, dataset, split), mode="download")
        for split in TRAINED_ON
        if getattr(request, split)
    }


def images_of(settings: AzureMLSettings) -> Input:
    """All images of the platform, mounted: only those that are read travel."""
    from azure.ai.ml import Input

    return Input(type="uri_folder", path=datastore_uri(settings, f"{IMAGES}/"), mode="ro_mount")


def tags_of(request: TrainingRequest, dataset: DatasetManifest) -> dict[str, str]:
    """What people search a job by."""
    return {"training_key": request.key, "dataset": dataset.version, "round": str(dataset.round)}


def _parent_of(request: TrainingRequest) -> dict[str, Input]:
    from azure.ai.ml import Input

    if request.parent is None:
        return {}
    parent = read_manifest(request.parent)
    return {"parent": Input(type="custom_model", path=f"azureml:{parent.name}:{parent.version}", mode="download")}


def _check_trainer(trainer: str, settings: AzureMLSettings) -> None:
    """A trainer of somebody's own package is only there if the environment holds it."""
    if re.split("[.:]", trainer, maxsplit=1)[0] not in CODE and not settings.environment:
        raise InvalidInput(
            f"training.trainer = {trainer!r} is not sent along with a job, which takes {', '.join(CODE)}; "
            "name an environment that holds it in azure_ml.environment, or set azure_ml.training = 'here'"
        )
