"""A platform on a temporary folder whose Azure ML half is in the emulated workspace."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from azure.ai.ml import MLClient

from al_resources.azure.workspace import Arm, workspace_client
from al_resources.datasets.azure_ml import AzureMLDatasetStore
from al_resources.endpoint.azure_ml_online import AzureMLOnlineEndpoint
from al_resources.model_registry.azure_ml import AzureMLModelRegistry
from al_resources.platform import Platform
from al_resources.settings import load_settings
from al_resources.settings.azure_data import AzureDataSettings
from al_resources.settings.azure_ml import AzureMLSettings
from al_resources.training.azure_ml_job import AzureMLTrainer
from emulators.azure_ml import GROUP, SUBSCRIPTION, WORKSPACE, AzureML

IDENTITY = AzureDataSettings(credential="default")  # the emulator puts a service principal into the environment


@dataclass(frozen=True)
class Workspace:
    """What a test of the Azure ML adapters needs."""

    emulator: AzureML
    settings: AzureMLSettings
    client: MLClient
    arm: Arm
    platform: Platform
    registry: AzureMLModelRegistry
    endpoint: AzureMLOnlineEndpoint

    def registry_of(self, name: str) -> AzureMLModelRegistry:
        """The registry of another model in the same workspace."""
        cache = self.platform.settings.home / "cache" / "other"
        return AzureMLModelRegistry(self.platform.blobs, name, cache, self.client, self.settings)

    def keyed_endpoint(self) -> AzureMLOnlineEndpoint:
        """An endpoint that knows its callers by a key."""
        return self.endpoint_with("keyed", auth="key")

    def endpoint_with(
        self, endpoint: str = "classifier", sleep: Callable[[float], None] = time.sleep, **settings: Any
    ) -> AzureMLOnlineEndpoint:
        """An endpoint under other settings."""
        changed = self.settings.model_copy(update=settings)
        name = self.platform.settings.model.name
        return AzureMLOnlineEndpoint(self.client, self.arm, changed, model_name=name, endpoint=endpoint, sleep=sleep)

    @classmethod
    def new(cls, emulator: AzureML, folder: Path) -> Workspace:
        """Everything on an empty workspace and an empty blob store."""
        platform = Platform(load_settings(home=folder / "home"))
        emulator.reset(folder / "home" / "blobs", keep_code=True)
        settings = AzureMLSettings(
            subscription=SUBSCRIPTION, resource_group=GROUP, workspace=WORKSPACE, poll_seconds=0.05
        )
        client, arm = workspace_client(settings, IDENTITY), Arm(settings, IDENTITY)
        name = platform.settings.model.name
        registry = AzureMLModelRegistry(platform.blobs, name, folder / "cache", client, settings)
        endpoint = AzureMLOnlineEndpoint(client, arm, settings, model_name=name, endpoint="classifier")
        datasets = AzureMLDatasetStore(platform.blobs, name, arm, settings)
        trainer = AzureMLTrainer(client, platform.blobs, settings, name)
        platform = platform.with_parts(
            blobs=platform.blobs, registry=registry, endpoint=endpoint, datasets=datasets, trainer=trainer
        )
        return cls(emulator, settings, client, arm, platform, registry, endpoint)
