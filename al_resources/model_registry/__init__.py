"""The model registry: numbered versions of a model, each weights plus manifest, published as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from al_core.errors import ActiveLearningError
from al_core.records import ModelManifest


class ModelRegistry(Protocol):
    """What every registry can do. Versions are numbers 1, 2, 3 ..."""

    def register(
        self, checkpoint: Path, manifest: ModelManifest, extra_files: dict[str, bytes] | None = None
    ) -> ModelManifest:
        """Publish the weights file under the next free version; returns the manifest with that version.

        A training key that is already registered is not published twice: its manifest is returned.
        """

    def versions(self) -> list[int]:
        """All published versions, ascending."""

    def manifest(self, version: int) -> ModelManifest:
        """Raises `KeyError`, naming the versions there are."""

    def by_training_key(self, training_key: str) -> ModelManifest | None:
        """The version that this training already produced, if any."""

    def fetch(self, version: int) -> Path:
        """A local folder with `model.safetensors` and `manifest.json`, verified against the recorded hash.

        Raises `TamperedModel` where the weights are not those that were published.
        """

    def file(self, version: int, name: str) -> bytes:
        """An extra file of a version, as given to `register`. Raises `FileNotFoundError`."""


class TamperedModel(ActiveLearningError):
    """The stored weights differ from those that were published."""
