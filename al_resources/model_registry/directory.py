"""The model registry in a blob store: `models/<name>/<version>/`, the manifest written last."""

from __future__ import annotations

import hashlib
import shutil
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from al_core.records import ModelManifest
from al_resources.model_registry import TamperedModel

if TYPE_CHECKING:
    from al_resources.blob_store import BlobStore

WEIGHTS = "model.safetensors"
MANIFEST = "manifest.json"
CLAIM = "claim"  # whoever writes it owns the number; without a manifest the version does not exist


class DirectoryModelRegistry:
    """`ModelRegistry` for one model name; `cache` holds verified local copies."""

    def __init__(self, blobs: BlobStore, name: str, cache: Path) -> None:
        self.blobs = blobs
        self.name = name
        self.cache = cache

    def register(
        self, checkpoint: Path, manifest: ModelManifest, extra_files: dict[str, bytes] | None = None
    ) -> ModelManifest:
        """Publish under the next free version, see `ModelRegistry`."""
        if done := self.by_training_key(manifest.training_key):
            return done
        weights = checkpoint.read_bytes()
        found = hashlib.sha256(weights).hexdigest()
        if found != manifest.weights_sha256:
            raise TamperedModel(f"{checkpoint}: sha256 {found}, the manifest says {manifest.weights_sha256}")
        version = self._claim_version(manifest.training_key)
        for name, data in {WEIGHTS: weights, **(extra_files or {})}.items():
            self.blobs.write(self._path(version, name), data)
        published = manifest.model_copy(update={"name": self.name, "version": version})
        self.blobs.write(self._path(version, MANIFEST), published.model_dump_json(indent=1).encode())
        return published

    def versions(self) -> list[int]:
        """All published versions, ascending."""
        return sorted(self._numbers(MANIFEST))

    def manifest(self, version: int) -> ModelManifest:
        """What is known of a version, see `ModelRegistry`."""
        try:
            return ModelManifest.model_validate_json(self.blobs.read(self._path(version, MANIFEST)))
        except FileNotFoundError:
            there = ", ".join(f"v{number}" for number in self.versions()) or "none yet"
            raise KeyError(f"model {self.name} has no version {version}; there are: {there}") from None

    def by_training_key(self, training_key: str) -> ModelManifest | None:
        """The version that this training made, newest first."""
        for version in reversed(self.versions()):
            manifest = self.manifest(version)
            if manifest.training_key == training_key:
                return manifest
        return None

    def fetch(self, version: int) -> Path:
        """A verified local folder, see `ModelRegistry`."""
        manifest = self.manifest(version)
        folder = self.cache / self.name / f"{version}-{manifest.weights_sha256[:16]}"
        if not (folder / MANIFEST).is_file():
            weights = self.blobs.read(self._path(version, WEIGHTS))
            _verify(weights, manifest, self.blobs.url(self._path(version, WEIGHTS)))
            partial = folder.with_name(f".partial-{uuid.uuid4().hex}")
            partial.mkdir(parents=True)
            (partial / WEIGHTS).write_bytes(weights)
            (partial / MANIFEST).write_text(manifest.model_dump_json(indent=1))
            try:
                partial.rename(folder)
            except OSError:  # another process was first; its copy was verified as well
                shutil.rmtree(partial)
        _verify((folder / WEIGHTS).read_bytes(), manifest, str(folder / WEIGHTS))
        return folder

    def file(self, version: int, name: str) -> bytes:
        """An extra file of a version. Raises `FileNotFoundError`."""
        return self.blobs.read(self._path(version, name))

    def _claim_version(self, training_key: str) -> int:
        """The next number that nobody owns; one that this training claimed before is taken up again."""
        version = max(self._numbers(CLAIM), default=0) + 1
        last = version - 1
        if (
            last
            and last not in self.versions()
            and self.blobs.read(self._path(last, CLAIM)) == training_key.encode()
        ):
            return last
        while not self.blobs.write(self._path(version, CLAIM), training_key.encode(), if_absent=True):
            version += 1
        return version

    def _numbers(self, name: str) -> set[int]:
        paths = (blob.path.split("/") for blob in self.blobs.list(f"models/{self.name}"))
        return {int(parts[2]) for parts in paths if parts[-1] == name and parts[2].isdigit()}

    def _path(self, version: int, name: str) -> str:
        return f"models/{self.name}/{version}/{name}"


def _verify(weights: bytes, manifest: ModelManifest, where: str) -> None:
    found = hashlib.sha256(weights).hexdigest()
    if found != manifest.weights_sha256:
        raise TamperedModel(
            f"{where} is not what was published as {manifest.name} v{manifest.version}: sha256 {found}, expected "
            f"{manifest.weights_sha256}; restore the file from a backup, or deploy another version"
        )
