"""The platform: every port behind one object, adapters chosen by the profile and opened on first use.

Production, the demo and the simulation all work through this object; they differ in settings only.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, TypedDict, cast

from al_core.errors import NotThere
from al_resources.model_registry import TamperedModel
from al_resources.profiles import profile_of
from al_resources.settings import Settings, load_settings

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from al_core.learning.contract import Trainer
    from al_resources.blobs import BlobStore
    from al_resources.datasets import DatasetStore
    from al_resources.embedding_store import EmbeddingStore
    from al_resources.endpoint import Endpoint
    from al_resources.endpoint.azure_ml_batch import AzureMLBatchEndpoint
    from al_resources.event_queue import EventQueue
    from al_resources.image_store import ImageStore
    from al_resources.labeling import LabelingProject
    from al_resources.labeling.inbox import Inbox
    from al_resources.ledgers import Ledgers
    from al_resources.model_registry import ModelRegistry
    from al_resources.model_registry.directory import DirectoryModelRegistry
    from al_resources.prediction_store import PredictionStore


class Parts(TypedDict, total=False):
    """What can be handed to a platform instead of what its profile would open."""

    blobs: BlobStore
    ledgers: Ledgers
    predictions: PredictionStore
    embeddings: EmbeddingStore
    datasets: DatasetStore
    registry: ModelRegistry
    endpoint: Endpoint
    batch: AzureMLBatchEndpoint | None
    labeling: LabelingProject
    trainer: Trainer
    events: EventQueue


class Platform:
    """The ports of one instance. Nothing heavy is imported or opened before it is used.

    `parts` take the place of what the profile would open: `Platform(settings, endpoint=...)`.
    """

    def __init__(self, settings: Settings | None = None, **parts: Unpack[Parts]) -> None:
        self.settings = settings or load_settings()
        self.profile = profile_of(self.settings)
        self.profile.check(self.settings)
        self._parts = parts
        self._encoders: dict[tuple[str, int], str | None] = {}

    def with_parts(self, **parts: Unpack[Parts]) -> Platform:
        """The same settings with other parts; those that were handed over before stay."""
        return Platform(self.settings, **cast("Parts", {**self._parts, **parts}))

    @cached_property
    def blobs(self) -> BlobStore:
        """Images, staged batches, exports, datasets, models."""
        return self._parts["blobs"] if "blobs" in self._parts else self.profile.blobs(self)

    @cached_property
    def images(self) -> ImageStore:
        """The raw images, by content id."""
        from al_resources.image_store import ImageStore

        return ImageStore(self.blobs)

    @cached_property
    def ledgers(self) -> Ledgers:
        """Selections, labels, exports, rejected images, deployments."""
        return self._parts["ledgers"] if "ledgers" in self._parts else self.profile.ledgers(self)

    @cached_property
    def inbox(self) -> Inbox:
        """The exports that people release, and what reading them needs."""
        from al_resources.labeling.inbox import Inbox

        return Inbox(self.blobs, self.ledgers, self.images, self.settings.labeling)

    @cached_property
    def predictions(self) -> PredictionStore:
        """The prediction log, whose rows refer to `embeddings` where an encoder is frozen."""
        from al_resources.prediction_store.referring import ReferringPredictionStore

        log = self._parts["predictions"] if "predictions" in self._parts else self.profile.predictions(self)
        return ReferringPredictionStore(log, lambda: self.embeddings, self.encoder_of)

    @cached_property
    def embeddings(self) -> EmbeddingStore:
        """What encoders made of images."""
        return self._parts["embeddings"] if "embeddings" in self._parts else self.profile.embeddings(self)

    def encoder_of(self, model_name: str, version: int) -> str | None:
        """The content hash of a version's frozen encoder, as its manifest names it.

        None: it was trained whole, it was published by code that named none, or nothing is known of it here.
        """
        key = (model_name, version)
        if model_name == self.settings.model.name and key not in self._encoders:
            try:
                self._encoders[key] = self._manifests.manifest(version).encoder_hash
            except (NotThere, TamperedModel):
                return None
        return self._encoders.get(key)

    @cached_property
    def _manifests(self) -> DirectoryModelRegistry:
        """What is published, read where every profile keeps it: a scoring container has no workspace to ask."""
        from al_resources.model_registry.directory import DirectoryModelRegistry

        return DirectoryModelRegistry(self.blobs, self.settings.model.name, self.settings.home / "cache" / "models")

    @cached_property
    def datasets(self) -> DatasetStore:
        """The versions of the labeled dataset."""
        return self._parts["datasets"] if "datasets" in self._parts else self.profile.datasets(self)

    @cached_property
    def registry(self) -> ModelRegistry:
        """The model's versions."""
        return self._parts["registry"] if "registry" in self._parts else self.profile.registry(self)

    @cached_property
    def endpoint(self) -> Endpoint:
        """What answers requests."""
        return self._parts["endpoint"] if "endpoint" in self._parts else self.profile.endpoint(self)

    @cached_property
    def batch(self) -> AzureMLBatchEndpoint | None:
        """What scores whole folders elsewhere; None: whoever asks does it in its own process."""
        return self._parts["batch"] if "batch" in self._parts else self.profile.batch(self)

    @cached_property
    def labeling(self) -> LabelingProject:
        """Who labels."""
        return self._parts["labeling"] if "labeling" in self._parts else self.profile.labeling(self)

    @cached_property
    def trainer(self) -> Trainer:
        """What turns labels into a checkpoint: `training.trainer`, here or where the profile trains."""
        return self._parts["trainer"] if "trainer" in self._parts else self.profile.trainer(self)

    @cached_property
    def events(self) -> EventQueue:
        """Where new blobs are announced, where the profile hears of them."""
        return self._parts["events"] if "events" in self._parts else self.profile.events(self)

    def unlabeled_candidates(self) -> int:
        """How many selected images nobody has answered yet."""
        from al_core.answers import answered

        done = answered(self.ledgers.read("labels")).to_frame()
        return self.ledgers.read("selections").join(done, on="image_id", how="anti")["image_id"].n_unique()
