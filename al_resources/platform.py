"""The platform: every port behind one object, adapters chosen by the profile and opened on first use.

Production, the demo and the simulation all work through this object; they differ in settings only.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from al_resources.settings import Settings, SettingsError, load_settings

if TYPE_CHECKING:
    from azure.ai.ml import MLClient

    from al_core.training import Trainer
    from al_resources.azure_ml import Arm
    from al_resources.blob_store import BlobStore
    from al_resources.datasets import DatasetStore
    from al_resources.endpoint import Endpoint
    from al_resources.endpoint.azure_ml_batch import AzureMLBatchEndpoint
    from al_resources.event_queue import EventQueue
    from al_resources.image_store import ImageStore
    from al_resources.kusto import KustoDatabase
    from al_resources.labeling import LabelingProject
    from al_resources.ledgers import Ledgers
    from al_resources.model_registry import ModelRegistry
    from al_resources.prediction_store import PredictionStore

SHORTEST_HIDING_SECONDS = 120
NEEDED_ON_AZURE = ("kusto_uri", "blob_account_url")


class Platform:
    """The ports of one instance. Nothing heavy is imported or opened before it is used."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or load_settings()
        if self.on_azure:
            azure = self.settings.azure
            if missing := [name for name in NEEDED_ON_AZURE if not getattr(azure, name)]:
                raise SettingsError(f"profile = 'azure' needs {', '.join(f'azure.{name}' for name in missing)}")
        if self.settings.labeling.project == "azure_ml" and not (
            self._has_workspace and self.settings.azure_ml.labeling_job
        ):
            raise SettingsError(
                "labeling.project = 'azure_ml' needs profile = 'azure', azure_ml.workspace and azure_ml.labeling_job"
            )

    @property
    def on_azure(self) -> bool:
        """Whether the data lies in Azure; with the local profile it lies below `home`."""
        return self.settings.profile == "azure"

    @cached_property
    def blobs(self) -> BlobStore:
        """Images, staged batches, exports, datasets, models."""
        from al_resources.azure_blobs import AzureBlobStore
        from al_resources.blob_store import FsspecBlobStore

        if self.on_azure:
            return AzureBlobStore(self.settings.azure)
        return FsspecBlobStore(self.settings.home / "blobs")

    @cached_property
    def images(self) -> ImageStore:
        """The raw images, by content id."""
        from al_resources.image_store import ImageStore

        return ImageStore(self.blobs)

    @cached_property
    def ledgers(self) -> Ledgers:
        """Selections, labels, exports, rejected images, deployments."""
        from al_resources.kusto_ledgers import KustoLedgers
        from al_resources.ledgers import DeltaLedgers

        if self.on_azure:
            return KustoLedgers(self._kusto)
        return DeltaLedgers(self.settings.home / "tables")

    @cached_property
    def predictions(self) -> PredictionStore:
        """The prediction log."""
        from al_resources.prediction_store.delta import DeltaPredictionStore
        from al_resources.prediction_store.kusto import KustoPredictionStore

        if self.on_azure:
            return KustoPredictionStore(self._kusto)
        return DeltaPredictionStore(self.settings.home / "tables" / "predictions", self.ledgers)

    @cached_property
    def datasets(self) -> DatasetStore:
        """The versions of the labeled dataset."""
        from al_resources.azure_ml_datasets import AzureMLDatasetStore
        from al_resources.datasets import DatasetStore

        if self._has_workspace:
            model = self.settings.model.name
            return AzureMLDatasetStore(self.blobs, model, self._arm, self.settings.azure_ml)
        return DatasetStore(self.blobs)

    @cached_property
    def registry(self) -> ModelRegistry:
        """The model's versions."""
        from al_resources.model_registry.azure_ml import AzureMLModelRegistry
        from al_resources.model_registry.directory import DirectoryModelRegistry

        name, cache = self.settings.model.name, self.settings.home / "cache" / "models"
        if self._has_workspace:
            return AzureMLModelRegistry(self.blobs, name, cache, self._workspace, self.settings.azure_ml)
        return DirectoryModelRegistry(self.blobs, name, cache)

    @cached_property
    def endpoint(self) -> Endpoint:
        """What answers requests."""
        from al_resources.endpoint.local import LocalEndpoint

        if self._has_workspace:
            from al_resources.endpoint.azure_ml_online import AzureMLOnlineEndpoint

            return AzureMLOnlineEndpoint(
                self._workspace,
                self._arm,
                self.settings.azure_ml,
                model_name=self.settings.model.name,
                endpoint=self.settings.deployment.endpoint,
            )
        return LocalEndpoint(
            self.blobs,
            self.registry,
            model_name=self.settings.model.name,
            endpoint=self.settings.deployment.endpoint,
            url=self.settings.serving.url,
        )

    @cached_property
    def batch(self) -> AzureMLBatchEndpoint | None:
        """What scores whole folders elsewhere; None: whoever asks does it in its own process."""
        if not (self._has_workspace and self.settings.azure_ml.batch_endpoint):
            return None
        from al_resources.endpoint.azure_ml_batch import AzureMLBatchEndpoint

        return AzureMLBatchEndpoint(
            self._workspace, self._arm, self.settings.azure_ml, self.blobs, model_name=self.settings.model.name
        )

    @cached_property
    def labeling(self) -> LabelingProject:
        """Who labels."""
        from al_resources.labeling.manual import ManualLabeling
        from al_resources.labeling.oracle import OracleLabeling

        if self.settings.labeling.project == "oracle":
            return OracleLabeling.from_file(self.blobs, self.settings.labeling.oracle_labels)
        if self.settings.labeling.project == "azure_ml":
            from al_resources.labeling.azure_ml import AzureMLLabeling

            return AzureMLLabeling(
                self.blobs, self._arm, self.settings.azure_ml, container=self.settings.azure.container
            )
        return ManualLabeling(self.blobs, self.ledgers)

    @cached_property
    def trainer(self) -> Trainer:
        """What turns labels into a checkpoint: `training.trainer`, here or as a job in the workspace."""
        from al_core.training import load_trainer
        from al_resources.training import azure_ml_automl, azure_ml_job

        wanted, azure_ml = self.settings.training.trainer, self.settings.azure_ml
        by_automl = wanted == azure_ml_automl.TRAINER
        if by_automl and not self._has_workspace:
            raise SettingsError(f"training.trainer = {wanted!r} needs profile = 'azure' and azure_ml.workspace")
        if by_automl or (self._has_workspace and azure_ml.training == "job"):
            trainer = azure_ml_automl.AutoMLTrainer if by_automl else azure_ml_job.AzureMLTrainer
            return trainer(self._workspace, self.blobs, azure_ml, self.settings.model.name)
        return load_trainer(wanted)

    @cached_property
    def events(self) -> EventQueue:
        """Where new blobs are announced; only with `azure.events_queue_url`."""
        from al_resources.event_queue import EventQueue

        # Several ticks: they delete at the next one, and it may be late.
        hidden = max(SHORTEST_HIDING_SECONDS, 10 * self.settings.sensors.export_interval_seconds)
        return EventQueue(self.settings.azure, hidden_seconds=hidden)

    @cached_property
    def _kusto(self) -> KustoDatabase:
        from al_resources.kusto import KustoDatabase

        return KustoDatabase(self.settings.azure)

    @property
    def _has_workspace(self) -> bool:
        return self.on_azure and bool(self.settings.azure_ml.workspace)

    @cached_property
    def _workspace(self) -> MLClient:
        from al_resources.azure_ml import workspace_client

        return workspace_client(self.settings.azure_ml)

    @cached_property
    def _arm(self) -> Arm:
        from al_resources.azure_ml import Arm

        return Arm(self.settings.azure_ml)

    def unlabeled_candidates(self) -> int:
        """How many selected images have no label yet."""
        selected = self.ledgers.read("selections").select("image_id").unique()
        labeled = self.ledgers.read("labels").select("image_id").unique()
        return selected.join(labeled, on="image_id", how="anti").height
