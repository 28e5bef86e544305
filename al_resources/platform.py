"""The platform: every port behind one object, adapters chosen by the profile and opened on first use.

Production, the demo and the simulation all work through this object; they differ in settings only.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from al_resources.settings import Settings, SettingsError, load_settings

if TYPE_CHECKING:
    from al_core.training import Trainer
    from al_resources.blob_store import BlobStore
    from al_resources.datasets import DatasetStore
    from al_resources.endpoint import Endpoint
    from al_resources.image_store import ImageStore
    from al_resources.labeling import LabelingProject
    from al_resources.ledgers import Ledgers
    from al_resources.model_registry import ModelRegistry
    from al_resources.prediction_store import PredictionStore


class Platform:
    """The ports of one instance. Nothing heavy is imported or opened before it is used."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or load_settings()
        if self.settings.profile == "azure":
            raise SettingsError("profile = 'azure': its adapters are not complete yet; use profile = 'local'")

    @cached_property
    def blobs(self) -> BlobStore:
        """Images, staged batches, exports, datasets, models."""
        from al_resources.blob_store import FsspecBlobStore

        return FsspecBlobStore(self.settings.home / "blobs")

    @cached_property
    def images(self) -> ImageStore:
        """The raw images, by content id."""
        from al_resources.image_store import ImageStore

        return ImageStore(self.blobs)

    @cached_property
    def ledgers(self) -> Ledgers:
        """Selections, labels, exports, rejected images, deployments."""
        from al_resources.ledgers import DeltaLedgers

        return DeltaLedgers(self.settings.home / "tables")

    @cached_property
    def predictions(self) -> PredictionStore:
        """The prediction log."""
        from al_resources.prediction_store.delta import DeltaPredictionStore

        return DeltaPredictionStore(self.settings.home / "tables" / "predictions", self.ledgers)

    @cached_property
    def datasets(self) -> DatasetStore:
        """The versions of the labeled dataset."""
        from al_resources.datasets import DatasetStore

        return DatasetStore(self.blobs)

    @cached_property
    def registry(self) -> ModelRegistry:
        """The model's versions."""
        from al_resources.model_registry.directory import DirectoryModelRegistry

        return DirectoryModelRegistry(self.blobs, self.settings.model.name, self.settings.home / "cache" / "models")

    @cached_property
    def endpoint(self) -> Endpoint:
        """What answers requests."""
        from al_resources.endpoint.local import LocalEndpoint

        return LocalEndpoint(
            self.blobs,
            self.registry,
            model_name=self.settings.model.name,
            endpoint=self.settings.deployment.endpoint,
            url=self.settings.serving.url,
        )

    @cached_property
    def labeling(self) -> LabelingProject:
        """Who labels."""
        from al_resources.labeling.manual import ManualLabeling
        from al_resources.labeling.oracle import OracleLabeling

        if self.settings.labeling.project == "oracle":
            return OracleLabeling.from_file(self.blobs, self.settings.labeling.oracle_labels)
        return ManualLabeling(self.blobs, self.ledgers)

    @cached_property
    def trainer(self) -> Trainer:
        """What turns labels into a checkpoint."""
        from al_core.training import load_trainer

        return load_trainer(self.settings.training.trainer)

    def unlabeled_candidates(self) -> int:
        """How many selected images have no label yet."""
        selected = self.ledgers.read("selections").select("image_id").unique()
        labeled = self.ledgers.read("labels").select("image_id").unique()
        return selected.join(labeled, on="image_id", how="anti").height
