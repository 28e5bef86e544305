"""Training with AutoML for images: Azure's own trainer, with `training.trainer` set to this module's.

    training.trainer = "al_resources.training.azure_ml_automl:AutoMLTrainer"

AutoML trains on the registered dataset version, goes on from the parent's run where there is one (`checkpoint_run_id`),
and a second, short job turns what it left into a checkpoint of this platform.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from al_core.errors import InvalidInput
from al_core.learning.checkpoint import read_manifest
from al_core.learning.contract import TrainingRequest, TrainingResult
from al_core.learning.settings import SMALL_SIZE
from al_resources.datasets.azure_ml import LABEL_COLUMN
from al_resources.training.automl_model import NETWORKS
from al_resources.training.azure_ml_job import AzureMLTrainer, checked_dataset, tables_of, tags_of
from al_resources.training.azure_ml_runner import JobFailed

if TYPE_CHECKING:
    from azure.ai.ml.automl import ImageClassificationJob

    from al_core.records import DatasetManifest

TRAINER = "al_resources.training.azure_ml_automl:AutoMLTrainer"
ENTRY = "al_resources.training.automl_job"
BEST = "automl_best_child_run_id"  # tag of an AutoML job that is done
RUN = "automl_run"  # in the training log of a version: the run that the next one goes on from
ARTIFACTS = "azureml://datastores/workspaceartifactstore/paths/ExperimentRun/dcid.{run}/train_artifacts/"


class AutoMLTrainer(AzureMLTrainer):
    """`Trainer` that leaves architecture, rates and epochs of the settings to AutoML, and its own to it otherwise.

    Colour images and the architectures of `NETWORKS` only. AutoML crops to the middle of an image what exceeds the
    square; this platform squeezes it: that differs where images are not square. No temperature is fitted.
    """

    def fit(self, request: TrainingRequest, report: Callable[[str], None]) -> TrainingResult:
        """Train with AutoML.

        Raises:
            ValueError: settings that AutoML has no way to follow; or see `AzureMLTrainer.fit`.
            JobFailed: see `JobRunner.run`; or AutoML names no best run.
            WorkspaceError: Azure refuses.
        """
        from azure.ai.ml import Input

        dataset = checked_dataset(request, self._blobs, self._settings)
        _check(request)
        name, _ = self._runner.run(
            f"{self._model_name}-{request.key}-automl",
            job=partial(self._automl, request, dataset, report),
            inbox=lambda name: Silent(),
            report=report,
        )
        best = self._runner.tags(name).get(BEST)
        if not best:
            raise JobFailed(f"job {name} is Completed, but names no best run in its tag {BEST}")
        report(f"best run of AutoML: {best}")
        inputs = {"trained": Input(type="uri_folder", path=ARTIFACTS.format(run=best), mode="download")}
        compute = self._settings.batch_compute
        result = self._run(request, dataset, inputs, entry=ENTRY, compute=compute, report=report)
        result.log[RUN] = best
        return result

    def _automl(
        self, request: TrainingRequest, dataset: DatasetManifest, report: Callable[[str], None], name: str
    ) -> ImageClassificationJob:
        from azure.ai.ml import automl

        settings = request.settings
        tables = tables_of(request, dataset, self._model_name)
        for table in tables.values():
            table.mode = None  # AutoML reads the tables by itself
        warm, cold_reason = parent_run(request)
        report(f"going on from run {warm}" if warm else f"from the start: {cold_reason}")
        job = automl.image_classification(
            training_data=tables["train"],
            validation_data=tables.get("validation"),
            target_column_name=LABEL_COLUMN,
            primary_metric="accuracy",
            experiment_name=self._settings.experiment,
            compute=self._settings.compute,
            tags=tags_of(request, dataset),
        )
        job.name, job.display_name = name, f"{self._model_name} on dataset {dataset.sequence} by AutoML"
        job.set_limits(timeout_minutes=round(self._settings.job_minutes), max_trials=1, max_concurrent_trials=1)
        size = settings.image_size or SMALL_SIZE
        job.set_training_parameters(
            model_name=NETWORKS[settings.architecture].name,
            number_of_epochs=settings.epochs_from(warm=warm is not None),
            learning_rate=settings.learning_rate_from(warm=warm is not None),
            optimizer="adamw",
            weight_decay=settings.weight_decay,
            random_seed=settings.seed,
            training_crop_size=size,
            validation_crop_size=size,
            validation_resize_size=size,
            checkpoint_run_id=warm,
        )
        return job


class Silent:
    """The `Inbox` of a job that tells nothing: its status is all there is."""

    error = ""
    reported = True

    def listen(self) -> bool:
        """It is not expected to say anything."""
        return True


def parent_run(request: TrainingRequest) -> tuple[str | None, str]:
    """The run of AutoML to go on from, or None and why not."""
    if request.parent is None:
        return None, "there is no parent"
    parent = read_manifest(request.parent)
    if parent.architecture != request.settings.architecture or parent.classes != request.classes:
        return None, f"v{parent.version} is a {parent.architecture} for {list(parent.classes)}"
    run = parent.training_log.get(RUN)
    return run, f"v{parent.version} was not trained by AutoML"


def _check(request: TrainingRequest) -> None:
    settings = request.settings
    if settings.architecture not in NETWORKS:
        raise InvalidInput(
            f"training.architecture = {settings.architecture!r}: what AutoML makes of it cannot be taken over; "
            f"choose one of {', '.join(NETWORKS)}"
        )
    if settings.channels != 3:
        raise InvalidInput("training.channels = 1: AutoML trains on colour images; set it to 3")
    if settings.frozen:
        raise InvalidInput("training.frozen = true: AutoML trains the encoder as well; set it to false")
