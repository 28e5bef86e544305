"""Profiles: which adapter stands behind each port. One class a profile, all with the same parts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from al_resources.settings import Settings

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


class Profile(Protocol):
    """The parts of a platform. Each method opens one; what it builds on it takes from the platform."""

    packages: tuple[str, ...]  # distributions needed beside those that every profile needs
    state_poll_seconds: float  # how often a scoring service looks who is to serve
    watch_seconds: float  # how long a step of a rollout is watched, where the settings do not say
    disk_lasts: bool  # whether what a scoring service leaves on its disk is there for the next
    blobs_at_hand: bool  # whether the blob store answers at once, so that every command can look at the home's format
    machines_cost: bool  # whether a deployment that only stands by is paid for
    hears_events: bool  # whether new exports announce themselves; otherwise the inbox is listed

    def check(self, settings: Settings) -> None:
        """Raises `SettingsError` where the settings cannot work with this profile."""

    def blobs(self, platform: Platform) -> BlobStore:
        """Images, staged batches, exports, datasets, models."""

    def ledgers(self, platform: Platform) -> Ledgers:
        """Selections, labels, exports, rejected images, deployments."""

    def predictions(self, platform: Platform) -> PredictionStore:
        """The prediction log."""

    def embeddings(self, platform: Platform) -> EmbeddingStore:
        """What encoders made of images."""

    def datasets(self, platform: Platform) -> DatasetStore:
        """The versions of the labeled dataset."""

    def registry(self, platform: Platform) -> ModelRegistry:
        """The model's versions."""

    def endpoint(self, platform: Platform) -> Endpoint:
        """What answers requests."""

    def batch(self, platform: Platform) -> AzureMLBatchEndpoint | None:
        """What scores whole folders elsewhere; None: whoever asks does it in its own process."""

    def labeling(self, platform: Platform) -> LabelingProject:
        """Who labels."""

    def trainer(self, platform: Platform) -> Trainer:
        """What turns labels into a checkpoint."""

    def events(self, platform: Platform) -> EventQueue:
        """Where new blobs are announced, where they are."""

    def upgrade_steps(self, platform: Platform) -> list[UpgradeStep]:
        """What the profile's stores need to be up to date."""

    def findings(self, settings: Settings) -> list[Finding]:
        """What the services say that the profile depends on, within seconds."""

    def dagster_yaml(self, settings: Settings) -> str:
        """What the profile adds to an instance's dagster.yaml."""


def profile_of(settings: Settings) -> Profile:
    """The profile that the settings name."""
    if settings.profile == "azure":
        from al_resources.profiles.azure import AzureProfile

        return AzureProfile(settings)
    from al_resources.profiles.local import LocalProfile

    return LocalProfile(settings)
