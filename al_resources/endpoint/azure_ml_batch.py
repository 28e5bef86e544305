"""Whole folders scored by a batch endpoint of Azure ML: many machines, and none that costs while nothing is scored.

Each model version gets a deployment of its own when it is first asked for, with the same scoring script as online. It
logs its answers as the online one does, through the collector; they also come as a file into the blob
store, from which the caller tells what could not be scored.
"""

from __future__ import annotations

import csv
import json
import re
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from al_core.errors import ActiveLearningError
from al_resources.azure.workspace import (
    SCORING_SCRIPT,
    Arm,
    WorkspaceError,
    asked,
    checked_name,
    code_snapshot,
    datastore_uri,
    environment_of,
    lookup,
)
from al_resources.settings.azure_ml import AzureMLSettings

if TYPE_CHECKING:
    from azure.ai.ml import MLClient
    from azure.ai.ml.entities import ModelBatchDeployment

    from al_resources.blobs import BlobStore

BATCHES = "batch"
JOBS_API = {"api-version": "2024-01-01-preview"}
FILES_AT_ONCE = 64  # of a mini-batch, the unit that is tried again
TRIES, MINI_BATCH_SECONDS = 3, 600
KEPT_DEPLOYMENTS = 3  # an endpoint holds twenty
WELL, BADLY, SILENT = ("Completed", "Finished"), ("Failed", "Canceled"), "NotResponding"


class BatchFailed(ActiveLearningError):
    """A batch did not come to its end; the message says why. What was scored until then is in the log."""


class _Job(BaseModel):
    """What a process that goes on with a batch has to know."""

    name: str
    answers: str  # path of the file with the answers


class AzureMLBatchEndpoint:
    """The batch endpoint `azure_ml.batch_endpoint`. Raises `WorkspaceError` where Azure refuses."""

    def __init__(
        self,
        client: MLClient,
        arm: Arm,
        settings: AzureMLSettings,
        blobs: BlobStore,
        *,
        model_name: str,
        architecture_of: Callable[[int], str] = lambda version: "",
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._client = client
        self._arm = arm
        self._settings = settings
        self._blobs = blobs
        self._model_name = checked_name("model", model_name)
        self._endpoint = checked_name("endpoint", settings.batch_endpoint)
        self._architecture_of = architecture_of  # of a version of the model: what its container needs beside the rest
        self._sleep = sleep

    def score(self, prefix: str, model_version: int, key: str, log: Callable[[str], None]) -> list[dict[str, Any]]:
        """Score all files below `prefix` of the blob store; returns when that is done, in minutes to hours.

        Args:
            prefix: A folder of the blob store.
            model_version: Of the model; its deployment is created where there is none.
            key: Names this batch: asked again under the same key, it goes on with the job that was started.
            log: Told how it goes.

        Returns:
            One answer per file that the script got to see, in any order, as the scoring script gives them.

        Raises:
            BatchFailed: the job failed, was cancelled from outside, or took longer than `azure_ml.batch_minutes`;
                or the deployment would log nothing.
        """
        if not any(name.startswith("AL_") for name in self._settings.environment_variables):
            raise BatchFailed(
                "azure_ml.environment_variables names no AL_* variable, so a batch would log nothing; name at least "
                "AL_PROFILE and what that profile needs"
            )
        job = self._started(key)
        if job is None:
            deployment = self._deployed(model_version, log)
            job = self._start(prefix, deployment, key)
            log(f"job {job.name} scores {prefix} with version {model_version}")
        else:
            log(f"going on with job {job.name}")
        self._wait_for(job, key, log)
        return self._answers(job)

    # ------------------------------------------------------------------ the deployment

    def _deployed(self, model_version: int, log: Callable[[str], None]) -> str:
        """The name of the version's deployment, which is there afterwards."""
        name = f"version-{model_version}"
        there = lookup(
            f"looking at batch deployment {name}", lambda: self._client.batch_deployments.get(name, self._endpoint)
        )
        if there is not None and there.provisioning_state == "Succeeded":
            return name
        self._create_endpoint()
        log(f"creating batch deployment {name}")
        with tempfile.TemporaryDirectory(prefix="al-code-") as folder:
            wanted = self._deployment(name, model_version, Path(folder))
            asked(
                f"creating batch deployment {name}",
                lambda: self._client.batch_deployments.begin_create_or_update(wanted).result(),
            )
        self._make_default(name)
        self._remove_old()
        return name

    def _create_endpoint(self) -> None:
        from azure.ai.ml.entities import BatchEndpoint

        what = f"creating batch endpoint {self._endpoint}"
        if lookup(what, lambda: self._client.batch_endpoints.get(self._endpoint)) is None:
            wanted = BatchEndpoint(name=self._endpoint)
            asked(what, lambda: self._client.batch_endpoints.begin_create_or_update(wanted).result())

    def _deployment(self, name: str, model_version: int, folder: Path) -> ModelBatchDeployment:
        from azure.ai.ml.constants import BatchDeploymentOutputAction
        from azure.ai.ml.entities import (
            BatchRetrySettings,
            CodeConfiguration,
            ModelBatchDeployment,
            ModelBatchDeploymentSettings,
            ResourceConfiguration,
        )

        return ModelBatchDeployment(
            name=name,
            endpoint_name=self._endpoint,
            model=f"azureml:{self._model_name}:{model_version}",
            environment=environment_of(self._settings, "batch", self._architecture_of(model_version)),
            code_configuration=CodeConfiguration(code=str(code_snapshot(folder)), scoring_script=SCORING_SCRIPT),
            compute=self._settings.batch_compute,
            resources=ResourceConfiguration(instance_count=self._settings.batch_instances),
            settings=ModelBatchDeploymentSettings(
                mini_batch_size=FILES_AT_ONCE,
                max_concurrency_per_instance=self._settings.batch_parallel,
                output_action=BatchDeploymentOutputAction.APPEND_ROW,
                output_file_name="answers.csv",
                retry_settings=BatchRetrySettings(max_retries=TRIES, timeout=MINI_BATCH_SECONDS),
                error_threshold=-1,  # never give up a batch for some of its files
                logging_level="Info",
                environment_variables=self._settings.environment_variables,
            ),
        )

    def _make_default(self, name: str) -> None:
        """For others, who ask the endpoint without naming a deployment."""

        def change() -> None:
            endpoint = self._client.batch_endpoints.get(self._endpoint)
            endpoint.defaults = {"deployment_name": name}
            self._client.batch_endpoints.begin_create_or_update(endpoint).result()

        asked(f"making {name} the default of batch endpoint {self._endpoint}", change)

    def _remove_old(self) -> None:
        """They cost nothing, but an endpoint holds only so many."""

        def version_of(name: str) -> int:
            number = re.fullmatch(r"version-(\d+)", name)
            return int(number[1]) if number else -1

        def remove() -> None:
            names = [each.name for each in self._client.batch_deployments.list(self._endpoint)]
            ours = sorted((name for name in names if version_of(name) >= 0), key=version_of)
            for name in ours[:-KEPT_DEPLOYMENTS]:
                self._client.batch_deployments.begin_delete(name, self._endpoint).result()

        asked("removing old batch deployments", remove)

    # ------------------------------------------------------------------ the job

    def _started(self, key: str) -> _Job | None:
        try:
            return _Job.model_validate_json(self._blobs.read(f"{BATCHES}/{key}/job.json"))
        except FileNotFoundError:
            return None

    def _forget(self, key: str) -> None:
        """The next attempt begins anew."""
        self._blobs.delete(f"{BATCHES}/{key}/job.json")

    def _start(self, prefix: str, deployment: str, key: str) -> _Job:
        from azure.ai.ml import Input, Output
        from azure.ai.ml.constants import AssetTypes

        answers = f"{BATCHES}/{key}/answers-{uuid.uuid4().hex}.csv"  # Azure refuses to write where something is
        invoked = asked(
            f"asking batch endpoint {self._endpoint} to score {prefix}",
            lambda: self._client.batch_endpoints.invoke(
                self._endpoint,
                deployment_name=deployment,
                inputs={"images": Input(type=AssetTypes.URI_FOLDER, path=datastore_uri(self._settings, f"{prefix}/"))},
                outputs={"score": Output(type=AssetTypes.URI_FILE, path=datastore_uri(self._settings, answers))},
            ),
        )
        job = _Job(name=invoked.name, answers=answers)
        self._blobs.write(f"{BATCHES}/{key}/job.json", job.model_dump_json().encode())
        return job

    def _wait_for(self, job: _Job, key: str, log: Callable[[str], None]) -> None:
        deadline = time.monotonic() + 60 * self._settings.batch_minutes
        before = ""
        try:
            while (status := self._status(job.name)) not in WELL:
                if status in BADLY:
                    raise BatchFailed(f"job {job.name} is {status}; its log is in the studio, under {self._endpoint}")
                if status == SILENT:
                    self._cancel(job.name, log)
                    raise BatchFailed(f"job {job.name} was cancelled: it is {status}, its machines are out of reach")
                if time.monotonic() > deadline:
                    self._cancel(job.name, log)
                    limit = f"azure_ml.batch_minutes = {self._settings.batch_minutes:.0f}"
                    raise BatchFailed(f"job {job.name} was cancelled: {status} after {limit}")
                if status != before:
                    log(f"job {job.name} is {status}")
                before = status
                self._sleep(self._settings.poll_seconds)
        except WorkspaceError:
            raise  # the job may be well: the next attempt goes on with it
        except BatchFailed:
            self._forget(key)
            raise
        except BaseException:  # the run was cancelled: what nobody waits for must not go on costing
            self._cancel(job.name, log)
            self._forget(key)
            raise

    def _status(self, job: str) -> str:
        shown = self._arm.call("GET", f"jobs/{job}", what=f"looking at job {job}", params=JOBS_API)
        return str((shown.get("properties") or {}).get("status"))

    def _cancel(self, job: str, log: Callable[[str], None]) -> None:
        try:
            self._arm.call("POST", f"jobs/{job}/cancel", what=f"cancelling job {job}", params=JOBS_API)
        except WorkspaceError as error:  # what brought us here is the error to raise
            log(f"{error}; look after it in the workspace")

    def _answers(self, job: _Job) -> list[dict[str, Any]]:
        """The lines that the mini-batches left: JSON as the script gave it, or quoted once more as a CSV has it."""
        try:
            text = self._blobs.read(job.answers).decode()
        except FileNotFoundError:
            raise BatchFailed(f"job {job.name} is done and left no answers; its log is in the studio") from None
        return [_answer(line) for line in text.splitlines() if line.strip()]


def _answer(line: str) -> dict[str, Any]:
    try:
        if not line.startswith("{"):
            (line,) = next(csv.reader([line]))
        answer = json.loads(line)
        return {"filename": str(answer["filename"]), **answer}
    except (ValueError, KeyError, TypeError) as error:
        raise BatchFailed(f"an answer of the batch cannot be read ({error}): {line[:200]!r}") from error
