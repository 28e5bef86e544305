"""Azure: blobs in a container, tables in Data Explorer, and with a workspace models, endpoints and training there."""

from __future__ import annotations

import json
import re
from functools import cached_property, partial
from typing import TYPE_CHECKING

from al_resources.labeling.projects import labeling_project
from al_resources.profiles.local import LocalProfile
from al_resources.settings import Settings, SettingsError
from al_resources.settings.azure_data import AUTHORITY

if TYPE_CHECKING:
    from azure.ai.ml import MLClient

    from al_core.learning.contract import Trainer
    from al_resources.azure.checks import Finding
    from al_resources.azure.data_explorer import KustoDatabase
    from al_resources.azure.workspace import Arm
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

NEEDED = ("kusto_uri", "blob_account_url")
SHORTEST_HIDING_SECONDS = 120
MANAGED_WATCH_SECONDS = 300.0  # Azure Monitor counts by the minute and is minutes late

# Of the accounts in Azure only: Dagster's own client makes the address from these two.
STORAGE_ACCOUNT = re.compile(r"https://(?P<account>[a-z0-9]+)\.blob\.(?P<suffix>[^/:]+)/?")
COMPUTE_LOGS = """\
compute_logs:                 # what steps print lies in the platform's container: it outlives the machine
  module: dagster_azure.blob.compute_log_manager
  class: AzureBlobComputeLogManager
  config:
    storage_account: {account}
    endpoint_suffix: {suffix}
    container: {container}
    prefix: dagster
    upload_interval: 30
    {credential}
"""


class AzureProfile:
    """See `Profile`. Without a workspace only the data lies in Azure; the rest is the local profile's."""

    packages: tuple[str, ...] = (
        "azure-ai-ml", "azure-identity", "azure-kusto-data", "azure-kusto-ingest", "azure-storage-blob",
        "azure-storage-queue", "dagster-azure",
    )  # fmt: skip
    disk_lasts = False  # scoring services are containers
    state_poll_seconds = 1.0  # of a state in a container: every look is paid for
    blobs_at_hand = False  # out of reach, they would hold up every command for a minute

    def __init__(self, settings: Settings) -> None:
        """`settings` decide whether there is a workspace and a queue."""
        self._settings = settings
        self._here = LocalProfile(settings)  # for what is not in Azure without a workspace
        self.machines_cost = self._has_workspace
        self.watch_seconds = MANAGED_WATCH_SECONDS if self._has_workspace else LocalProfile.watch_seconds
        self.hears_events = bool(settings.azure.events_queue_url)

    @property
    def _has_workspace(self) -> bool:
        return bool(self._settings.azure_ml.workspace)

    def check(self, settings: Settings) -> None:
        """Raises `SettingsError`, naming the addresses that are missing."""
        if missing := [name for name in NEEDED if not getattr(settings.azure, name)]:
            raise SettingsError(f"profile = 'azure' needs {', '.join(f'azure.{name}' for name in missing)}")

    def blobs(self, platform: Platform) -> BlobStore:
        """A container."""
        from al_resources.blobs.azure import AzureBlobStore

        return AzureBlobStore(self._settings.azure)

    def ledgers(self, platform: Platform) -> Ledgers:
        """Tables in Data Explorer."""
        from al_resources.ledgers.kusto import KustoLedgers

        return KustoLedgers(self._kusto)

    def predictions(self, platform: Platform) -> PredictionStore:
        """A table in Data Explorer."""
        from al_resources.prediction_store.kusto import KustoPredictionStore

        return KustoPredictionStore(self._kusto)

    def embeddings(self, platform: Platform) -> EmbeddingStore:
        """A table in Data Explorer."""
        from al_resources.embedding_store.kusto import KustoEmbeddingStore

        return KustoEmbeddingStore(self._kusto)

    def datasets(self, platform: Platform) -> DatasetStore:
        """Files in the container; with a workspace, data assets as well."""
        from al_resources.datasets.azure_ml import AzureMLDatasetStore

        if not self._has_workspace:
            return self._here.datasets(platform)
        name = self._settings.model.name
        return AzureMLDatasetStore(platform.blobs, name, self._arm, self._settings.azure_ml)

    def registry(self, platform: Platform) -> ModelRegistry:
        """Folders in the container; with a workspace, its models as well."""
        from al_resources.model_registry.azure_ml import AzureMLModelRegistry

        if not self._has_workspace:
            return self._here.registry(platform)
        name, cache = self._settings.model.name, self._settings.home / "cache" / "models"
        return AzureMLModelRegistry(platform.blobs, name, cache, self._workspace, self._settings.azure_ml)

    def endpoint(self, platform: Platform) -> Endpoint:
        """A managed online endpoint; without a workspace, a scoring service of one's own."""
        if not self._has_workspace:
            return self._here.endpoint(platform)
        from al_resources.endpoint.azure_ml_online import AzureMLOnlineEndpoint

        return AzureMLOnlineEndpoint(
            self._workspace,
            self._arm,
            self._settings.azure_ml,
            model_name=self._settings.model.name,
            endpoint=self._settings.deployment.endpoint,
            architecture_of=lambda version: platform.registry.manifest(version).architecture,
        )

    def batch(self, platform: Platform) -> AzureMLBatchEndpoint | None:
        """A batch endpoint, where the settings name one."""
        azure_ml = self._settings.azure_ml
        if not (self._has_workspace and azure_ml.batch_endpoint):
            return None
        from al_resources.endpoint.azure_ml_batch import AzureMLBatchEndpoint

        return AzureMLBatchEndpoint(
            self._workspace,
            self._arm,
            azure_ml,
            platform.blobs,
            model_name=self._settings.model.name,
            architecture_of=lambda version: platform.registry.manifest(version).architecture,
        )

    def labeling(self, platform: Platform) -> LabelingProject:
        """As `labeling.project` says."""
        return labeling_project(platform)

    def trainer(self, platform: Platform) -> Trainer:
        """`training.trainer`, here or as a job in the workspace."""
        from al_resources.training import azure_ml_automl, azure_ml_job

        azure_ml = self._settings.azure_ml
        by_automl = self._settings.training.trainer == azure_ml_automl.TRAINER
        if not self._has_workspace or not (by_automl or azure_ml.training == "job"):
            return self._here.trainer(platform)
        trainer = azure_ml_automl.AutoMLTrainer if by_automl else azure_ml_job.AzureMLTrainer
        return trainer(self._workspace, platform.blobs, azure_ml, self._settings.model.name)

    def events(self, platform: Platform) -> EventQueue:
        """The queue that Event Grid writes to; only with `azure.events_queue_url`."""
        from al_resources.event_queue.azure import AzureEventQueue

        # Several ticks: they delete at the next one, and it may be late.
        hidden = max(SHORTEST_HIDING_SECONDS, 10 * self._settings.sensors.export_interval_seconds)
        return AzureEventQueue(self._settings.azure, hidden_seconds=hidden)

    def upgrade_steps(self, platform: Platform) -> list[UpgradeStep]:
        """The commands that make the tables what this version writes; they can be repeated."""
        from al_resources.azure.data_explorer import setup_commands
        from al_resources.format_versions import UpgradeStep

        commands = setup_commands(self._settings.azure.kusto_retention_days)
        return [UpgradeStep(command, partial(self._kusto.command, command)) for command in commands]

    def findings(self, settings: Settings) -> list[Finding]:
        """One finding per address."""
        from al_resources.azure.checks import check_azure

        return check_azure(settings)

    def dagster_yaml(self, settings: Settings) -> str:
        """The section that keeps the logs of runs in the container; empty where Dagster cannot.

        It knows accounts in Azure only, and with a SAS it fails at the links to its logs.
        """
        azure = settings.azure
        found = STORAGE_ACCOUNT.fullmatch(azure.blob_account_url)
        if found is None or azure.storage_credential == "sas":
            return ""
        if azure.storage_credential == "key":
            credential = "access_key_or_sas_token: {env: AZURE_STORAGE_ACCOUNT_KEY}"
        else:
            identity = {"managed_identity_client_id": azure.client_id} if azure.client_id else {}
            identity |= {"authority": azure.authority} if azure.authority != AUTHORITY else {}
            credential = f"default_azure_credential: {json.dumps(identity)}"
        return COMPUTE_LOGS.format(**found.groupdict(), container=azure.container, credential=credential)

    @cached_property
    def _kusto(self) -> KustoDatabase:
        from al_resources.azure.data_explorer import KustoDatabase

        return KustoDatabase(self._settings.azure)

    @cached_property
    def _workspace(self) -> MLClient:
        from al_resources.azure.workspace import workspace_client

        return workspace_client(self._settings.azure_ml, self._settings.azure)

    @cached_property
    def _arm(self) -> Arm:
        from al_resources.azure.workspace import Arm

        return Arm(self._settings.azure_ml, self._settings.azure)
