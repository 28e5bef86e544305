"""The model registry in Azure ML: files in the blob store, every version registered in the workspace as well."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from al_core.records import ModelManifest
from al_resources.azure.workspace import asked, checked_name, datastore_uri, lookup
from al_resources.model_registry.directory import DirectoryModelRegistry
from al_resources.settings.azure_ml import AzureMLSettings

if TYPE_CHECKING:
    from azure.ai.ml import MLClient

    from al_resources.blobs import BlobStore

LONGEST_TAG = 256


class AzureMLModelRegistry(DirectoryModelRegistry):
    """`ModelRegistry` whose versions are custom models of the workspace, under the same numbers.

    The files are published first; the workspace's entry points to them and carries what people look for as tags.
    A process that dies between the two has published a version that the workspace does not know: the next one
    that registers or looks up the same training registers it there.
    """

    def __init__(self, blobs: BlobStore, name: str, cache: Path, client: MLClient, settings: AzureMLSettings) -> None:
        super().__init__(blobs, checked_name("model", name), cache)
        self._client = client
        self._settings = settings

    def register(
        self, checkpoint: Path, manifest: ModelManifest, extra_files: dict[str, bytes] | None = None
    ) -> ModelManifest:
        """Publish under the next free version, see `ModelRegistry`. Raises `WorkspaceError`."""
        published = super().register(checkpoint, manifest, extra_files)
        self._enter(published)
        return published

    def by_training_key(self, training_key: str) -> ModelManifest | None:
        """The version that this training made, in the workspace as well. Raises `WorkspaceError`."""
        found = super().by_training_key(training_key)
        if found is not None:
            self._enter(found)
        return found

    def _enter(self, manifest: ModelManifest) -> None:
        """Register in the workspace what is not there yet."""
        from azure.ai.ml.constants import AssetTypes
        from azure.ai.ml.entities import Model

        version = str(manifest.version)
        if lookup(f"looking for model {self._name} v{version}", lambda: self._client.models.get(self._name, version)):
            return
        entry = Model(
            name=self._name,
            version=version,
            type=AssetTypes.CUSTOM_MODEL,
            path=datastore_uri(self._settings, f"models/{self._name}/{version}"),
            tags=tags_of(manifest),
        )
        asked(f"registering model {self._name} v{version}", lambda: self._client.models.create_or_update(entry))


def tags_of(manifest: ModelManifest) -> dict[str, str]:
    """What people search a model by; everything else is in its manifest."""
    tags = {
        "parent": "" if manifest.parent_version is None else str(manifest.parent_version),
        "dataset": manifest.dataset_version,
        "round": "" if manifest.round is None else str(manifest.round),
        "labels": str(manifest.labels),
        "architecture": manifest.architecture,
        "training_key": manifest.training_key,
        "dagster_run": manifest.run_id or "",
        "gate": "" if manifest.gate is None else ("passed" if manifest.gate.passed else "refused"),
        "gate_reason": "" if manifest.gate is None else manifest.gate.reason,
        **{f"holdout_{name}": str(interval) for name, interval in manifest.metrics.items()},
    }
    return {name: value[:LONGEST_TAG] for name, value in tags.items() if value}
