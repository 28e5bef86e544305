"""The model registry in the blob store: one folder per version, visible once its manifest is there.

Layout, below `models/<name>/`:

    <version>/model.safetensors, <extra files>, manifest.json    the manifest is written last
    trainings/<hash of the training key>.json                    the manifest again: what this training produced

Weights are written create-only, which claims the version's number. The entry below `trainings` is create-only,
too: of two processes that register the same training one wins, and both return its manifest. A process that
dies before it leaves a number behind that is never used again; one that dies after it is finished by whoever
asks for that training next.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from al_core.errors import NotThere
from al_core.records import ModelManifest
from al_resources.model_registry import TamperedModel

if TYPE_CHECKING:
    from al_resources.blobs import BlobStore

WEIGHTS = "model.safetensors"
MANIFEST = "manifest.json"
_NUMBER = re.compile(r"[1-9][0-9]*")
_SIMPLE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class DirectoryModelRegistry:
    """`ModelRegistry` over a blob store; `cache_dir` holds what was fetched."""

    def __init__(self, blobs: BlobStore, name: str, cache_dir: Path) -> None:
        self._blobs = blobs
        self._name = name
        self._folder = f"models/{name}"
        self._cache = cache_dir / name
        self._published: set[int] = set()  # versions whose manifest was seen: it is there as long as their folder is
        self._read: dict[int, tuple[bytes, ModelManifest]] = {}  # parsed and found whole in this content

    def register(
        self, checkpoint: Path, manifest: ModelManifest, extra_files: dict[str, bytes] | None = None
    ) -> ModelManifest:
        """Publish a checkpoint under the next free version, see `ModelRegistry.register`.

        The version and hash in `manifest` are not looked at: the registry gives them.

        Raises:
            ValueError: the manifest is another model's, or an extra file has no simple name of its own.
        """
        if manifest.name != self._name:
            raise ValueError(f"a manifest of model {manifest.name!r} in the registry of {self._name!r}")
        files = _checked_names(extra_files or {})
        if done := self.by_training_key(manifest.training_key):
            return done
        weights = checkpoint.read_bytes()
        version = self._claim(weights)
        for name, content in files.items():
            self._blobs.write(self._path(version, name), content)
        published = manifest.model_copy(update={"version": version, "weights_sha256": _sha256(weights)})
        published = published.model_copy(update={"content_sha256": _content_sha256(_json(published))})
        if self._blobs.write(self._training(manifest.training_key), _json(published), if_absent=True):
            return self._finish(published, _json(published))
        # Another process registered the same training meanwhile. The weights go last: they hold the number.
        for name in (*files, WEIGHTS):
            self._blobs.delete(self._path(version, name))
        winner = self.by_training_key(manifest.training_key)
        assert winner is not None
        return winner

    def versions(self) -> list[int]:
        """All published versions, ascending."""
        claimed = self._claimed()
        unseen = (version for version in claimed if version not in self._published)
        self._published |= {version for version in unseen if self._blobs.exists(self._path(version, MANIFEST))}
        return [version for version in claimed if version in self._published]

    def manifest(self, version: int) -> ModelManifest:
        """Raises `KeyError`, naming the versions there are."""
        try:
            content = self._blobs.read(self._path(version, MANIFEST))
            read, known = self._read.get(version, (b"", None))
            if known is not None and content == read:
                return known
            manifest = ModelManifest.model_validate_json(content)
        except FileNotFoundError as error:
            self._published.discard(version)
            there_are = ", ".join(map(str, self.versions())) or "none yet"
            raise NotThere(f"{self._name} has no version {version}; there are: {there_are}") from error
        except ValidationError as error:
            raise TamperedModel(f"the manifest of {self._name} v{version} cannot be read: {error}") from error
        if (manifest.name, manifest.version) != (self._name, version):
            raise TamperedModel(
                f"the manifest of {self._name} v{version} says it is {manifest.name} v{manifest.version}"
            )
        if manifest.content_sha256 is not None and (found := _content_sha256(content)) != manifest.content_sha256:
            raise TamperedModel(
                f"the manifest of {self._name} v{version} was changed: its content has SHA-256 {found}, published was "
                f"{manifest.content_sha256}; restore {self._blobs.url(self._path(version, MANIFEST))} from a backup"
            )
        self._read[version] = content, manifest
        return manifest

    def by_training_key(self, training_key: str) -> ModelManifest | None:
        """The version that this training already produced, if any."""
        try:
            content = self._blobs.read(self._training(training_key))
            done = ModelManifest.model_validate_json(content)
        except FileNotFoundError:
            return None
        if not self._blobs.exists(self._path(done.version, WEIGHTS)):
            self._published.discard(done.version)
            self._blobs.delete(self._training(training_key))  # somebody removed the version: train it again
            return None
        return self._finish(done, content)

    def fetch(self, version: int) -> Path:
        """A local folder with weights and manifest, verified, see `ModelRegistry.fetch`."""
        manifest = self.manifest(version)
        folder = self._cache / f"{version}-{manifest.weights_sha256[:16]}"
        if not _holds(folder, manifest):
            self._download(manifest, folder)
        return folder

    def file(self, version: int, name: str) -> bytes:
        """An extra file of a version. Raises `FileNotFoundError`."""
        return self._blobs.read(self._path(version, name))

    def _claim(self, weights: bytes) -> int:
        """Write the weights under the first number that nobody has; returns it."""
        version = 1 + max(self._claimed(), default=0)
        while not self._blobs.write(self._path(version, WEIGHTS), weights, if_absent=True):
            version += 1
        return version

    def _claimed(self) -> list[int]:
        """The numbers that are taken, ascending; not all of them came to be published."""
        return sorted(int(name) for name in self._blobs.folders(self._folder) if _NUMBER.fullmatch(name))

    def _finish(self, manifest: ModelManifest, content: bytes) -> ModelManifest:
        self._blobs.write(self._path(manifest.version, MANIFEST), content, if_absent=True)
        return manifest

    def _download(self, manifest: ModelManifest, folder: Path) -> None:
        weights = self._blobs.read(self._path(manifest.version, WEIGHTS))
        if (found := _sha256(weights)) != manifest.weights_sha256:
            raise TamperedModel(
                f"{self._name} v{manifest.version}: the stored weights have SHA-256 {found}, published were "
                f"{manifest.weights_sha256}; restore {self._blobs.url(self._path(manifest.version, WEIGHTS))} "
                "from a backup, or deploy another version"
            )
        partial = folder.with_name(f".{folder.name}-{secrets.token_hex(4)}")
        partial.mkdir(parents=True)
        try:
            (partial / WEIGHTS).write_bytes(weights)
            (partial / MANIFEST).write_bytes(_json(manifest))
            _replace_folder(partial, folder, manifest)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _path(self, version: int, name: str) -> str:
        return f"{self._folder}/{version}/{name}"

    def _training(self, training_key: str) -> str:
        return f"{self._folder}/trainings/{_sha256(training_key.encode())[:32]}.json"


def _replace_folder(partial: Path, folder: Path, manifest: ModelManifest) -> None:
    """Move the download to its place. Another process may have put the same there, or a file there was spoiled."""
    try:
        partial.rename(folder)
    except OSError:
        if _holds(folder, manifest):
            return
        shutil.rmtree(folder)
        partial.rename(folder)


def _holds(folder: Path, manifest: ModelManifest) -> bool:
    """Whether the cached weights and manifest are whole, and those of the store."""
    try:
        weights, cached = (folder / WEIGHTS).read_bytes(), (folder / MANIFEST).read_bytes()
    except OSError:
        return False
    return cached == _json(manifest) and _sha256(weights) == manifest.weights_sha256


def _checked_names(files: dict[str, bytes]) -> dict[str, bytes]:
    for name in files:
        if not _SIMPLE_NAME.fullmatch(name) or name in (WEIGHTS, MANIFEST):
            raise ValueError(f"extra file {name!r}: expected a simple file name other than {WEIGHTS}, {MANIFEST}")
    return files


def _json(manifest: ModelManifest) -> bytes:
    return manifest.model_dump_json(indent=1).encode()


def _content_sha256(content: bytes) -> str:
    """Over all that a stored manifest says but this very hash, by whichever version of the code it was written."""
    said = json.loads(content)
    said.pop("content_sha256", None)
    return _sha256(json.dumps(said, sort_keys=True).encode())


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
