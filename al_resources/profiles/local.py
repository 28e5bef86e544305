"""One machine: files below `home`, models served by the scoring service next door."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from al_resources.labeling.projects import labeling_project
from al_resources.settings import Settings, SettingsError

if TYPE_CHECKING:
    from al_core.learning.contract import Trainer
    from al_resources.azure.checks import Finding
    from al_resources.blobs import BlobStore
    from al_resources.datasets import DatasetStore
    from al_resources.embedding_store import EmbeddingStore
    from al_resources.endpoint import Endpoint
    from al_resources.endpoint.azure_ml_batch import AzureMLBatchEndpoint
    from al_resources.event_queue import EventQueue
    from al_resources.format_versions import UpgradeStep
    from al_resources.labeling import LabelingProject
    from al_resources.ledgers import Ledgers
    from al_resources.model_registry import ModelRegistry
    from al_resources.platform import Platform
    from al_resources.prediction_store import PredictionStore


class LocalProfile:
    """See `Profile`. Everything lies below `home`."""

    packages: tuple[str, ...] = ()
    state_poll_seconds = 0.1  # a rollout waits for it at each step
    watch_seconds = 2.0
    disk_lasts = True
    blobs_at_hand = True
    machines_cost = False
    hears_events = False

    def __init__(self, settings: Settings) -> None:
        """Nothing of the settings decides what this profile can do."""

    def check(self, settings: Settings) -> None:
        """Nothing can be missing."""

    def blobs(self, platform: Platform) -> BlobStore:
        """A folder."""
        from al_resources.blobs.local import FsspecBlobStore

        return FsspecBlobStore(platform.settings.home / "blobs")

    def ledgers(self, platform: Platform) -> Ledgers:
        """Delta tables."""
        from al_resources.ledgers.delta import DeltaLedgers

        return DeltaLedgers(platform.settings.home / "tables")

    def predictions(self, platform: Platform) -> PredictionStore:
        """A Delta table."""
        from al_resources.prediction_store.delta import DeltaPredictionStore

        return DeltaPredictionStore(platform.settings.home / "tables" / "predictions", platform.ledgers)

    def embeddings(self, platform: Platform) -> EmbeddingStore:
        """A Delta table."""
        from al_resources.embedding_store.delta import DeltaEmbeddingStore

        return DeltaEmbeddingStore(platform.settings.home / "tables" / "embeddings")

    def datasets(self, platform: Platform) -> DatasetStore:
        """Files in the blob store."""
        from al_resources.datasets.blobs import BlobDatasetStore

        return BlobDatasetStore(platform.blobs)

    def registry(self, platform: Platform) -> ModelRegistry:
        """Folders in the blob store."""
        from al_resources.model_registry.directory import DirectoryModelRegistry

        settings = platform.settings
        return DirectoryModelRegistry(platform.blobs, settings.model.name, settings.home / "cache" / "models")

    def endpoint(self, platform: Platform) -> Endpoint:
        """The scoring service, which follows a state in the blob store."""
        from al_resources.endpoint.asking import caller_of
        from al_resources.endpoint.local import LocalEndpoint

        settings = platform.settings
        return LocalEndpoint(
            platform.blobs,
            platform.registry,
            model_name=settings.model.name,
            endpoint=settings.deployment.endpoint,
            url=settings.serving.url,
            caller=caller_of(settings.serving),
        )

    def batch(self, platform: Platform) -> AzureMLBatchEndpoint | None:
        """There is none."""
        return None

    def labeling(self, platform: Platform) -> LabelingProject:
        """As `labeling.project` says."""
        return labeling_project(platform)

    def trainer(self, platform: Platform) -> Trainer:
        """`training.trainer`, in the process that asks."""
        from al_core.learning.contract import load_trainer
        from al_resources.training import azure_ml_automl

        wanted = platform.settings.training.trainer
        if wanted == azure_ml_automl.TRAINER:
            raise SettingsError(f"training.trainer = {wanted!r} needs profile = 'azure' and azure_ml.workspace")
        return load_trainer(wanted)

    def events(self, platform: Platform) -> EventQueue:
        """Raises `SettingsError`: files of a folder announce themselves to nobody."""
        raise SettingsError("the local profile has no queue of blob events; the inbox is listed instead")

    def upgrade_steps(self, platform: Platform) -> list[UpgradeStep]:
        """The columns that older tables lack; each would come with the table's next row, too."""
        from al_resources.delta_tables import add_columns, missing_columns
        from al_resources.embedding_store.delta import embedding_files
        from al_resources.format_versions import UpgradeStep
        from al_resources.ledgers.delta import ledger_tables
        from al_resources.prediction_store.delta import log_table

        tables = platform.settings.home / "tables"
        own = [log_table(tables / "predictions"), embedding_files(tables / "embeddings")]
        return [
            UpgradeStep(f"add {', '.join(missing)} to {path}", partial(add_columns, path, schema))
            for path, schema in [*ledger_tables(tables), *own]
            if (missing := missing_columns(path, schema))
        ]

    def findings(self, settings: Settings) -> list[Finding]:
        """There is no service to ask."""
        return []

    def dagster_yaml(self, settings: Settings) -> str:
        """Nothing."""
        return ""
