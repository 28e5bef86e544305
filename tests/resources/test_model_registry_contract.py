"""The contract of every model registry, and what a crash or a tampered file does to the one in the blob store."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from al_core.records import ModelManifest, Preprocessing
from al_resources.blobs import BlobStore
from al_resources.blobs.local import FsspecBlobStore
from al_resources.model_registry import ModelRegistry, TamperedModel
from al_resources.model_registry.directory import DirectoryModelRegistry

REGISTRIES: dict[str, Callable[[Path], ModelRegistry]] = {
    "local folder": lambda folder: DirectoryModelRegistry(
        FsspecBlobStore(folder / "blobs"), "digits", folder / "cache"
    ),
    "object store": lambda folder: DirectoryModelRegistry(
        FsspecBlobStore(f"memory://{folder.as_posix().lstrip('/')}"), "digits", folder / "cache"
    ),
}


AZURE = "azure ml"


@pytest.fixture(params=[*REGISTRIES, AZURE])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> ModelRegistry:
    if request.param == AZURE:
        return request.getfixturevalue("workspace").registry_of("digits")
    return REGISTRIES[request.param](tmp_path)


def manifest(training_key: str = "key", **changes: object) -> ModelManifest:
    facts = {
        "name": "digits",
        "version": 0,
        "architecture": "small_cnn",
        "classes": ("a", "b"),
        "preprocessing": Preprocessing(size=8, channels=1, mean=(0.5,), std=(0.5,)),
        "dataset_version": "d1",
        "training_key": training_key,
        "code_version": "c1",
        "labels": 10,
        "created_at": datetime(2026, 1, 1, tzinfo=UTC),
        "weights_sha256": "",
    }
    return ModelManifest.model_validate(facts | changes)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    file = tmp_path / "trained.safetensors"
    file.write_bytes(b"weights" * 100)
    return file


def test_versions_count_from_one(registry: ModelRegistry, weights: Path) -> None:
    assert registry.versions() == []
    published = [registry.register(weights, manifest(f"key {number}")) for number in range(11)]
    assert [one.version for one in published] == registry.versions() == list(range(1, 12))
    assert registry.manifest(11) == published[-1]


def test_a_fetched_version_holds_the_weights_and_the_manifest(registry: ModelRegistry, weights: Path) -> None:
    published = registry.register(weights, manifest(), {"evaluation.npz": b"\1\2"})
    folder = registry.fetch(1)
    assert (folder / "model.safetensors").read_bytes() == weights.read_bytes()
    assert ModelManifest.model_validate_json((folder / "manifest.json").read_bytes()) == published
    assert published.weights_sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert registry.fetch(1) == folder
    assert registry.file(1, "evaluation.npz") == b"\1\2"
    with pytest.raises(FileNotFoundError):
        registry.file(1, "nothing")


def test_an_unknown_version_names_those_there_are(registry: ModelRegistry, weights: Path) -> None:
    with pytest.raises(KeyError, match="digits has no version 1; there are: none yet"):
        registry.manifest(1)
    registry.register(weights, manifest())
    with pytest.raises(KeyError, match="no version 7; there are: 1"):
        registry.fetch(7)


def test_the_same_training_is_published_once(registry: ModelRegistry, weights: Path) -> None:
    first = registry.register(weights, manifest())
    weights.write_bytes(b"other weights of the same training")
    assert registry.register(weights, manifest()) == first
    assert registry.versions() == [1]
    assert registry.by_training_key("key") == first
    assert registry.by_training_key("other") is None


def test_of_many_that_register_the_same_training_one_publishes(registry: ModelRegistry, tmp_path: Path) -> None:
    barrier = threading.Barrier(6)
    published: list[ModelManifest] = []

    def register(number: int) -> None:
        file = tmp_path / f"{number}.safetensors"
        file.write_bytes(bytes([number]) * 100)
        barrier.wait()
        published.append(registry.register(file, manifest("same" if number < 4 else f"own {number}")))

    threads = [threading.Thread(target=register, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({one.version for one in published if one.training_key == "same"}) == 1
    assert len(registry.versions()) == 3
    for version in registry.versions():
        registry.fetch(version)


def test_extra_files_have_simple_names(registry: ModelRegistry, weights: Path) -> None:
    for name in ("../x", "a/b", "manifest.json", "model.safetensors", "", ".hidden"):
        with pytest.raises(ValueError, match="expected a simple file name"):
            registry.register(weights, manifest(), {name: b""})
    assert registry.versions() == []


def test_the_manifest_of_another_model_is_refused(registry: ModelRegistry, weights: Path) -> None:
    with pytest.raises(ValueError, match="'faces' in the registry of 'digits'"):
        registry.register(weights, manifest(name="faces"))


# ---------------------------------------------------------------------- the one in the blob store
@pytest.fixture
def local(tmp_path: Path) -> tuple[DirectoryModelRegistry, BlobStore]:
    blobs = FsspecBlobStore(tmp_path / "blobs")
    return DirectoryModelRegistry(blobs, "digits", tmp_path / "cache"), blobs


def test_tampered_weights_are_named_with_both_hashes(
    local: tuple[DirectoryModelRegistry, BlobStore], weights: Path
) -> None:
    registry, blobs = local
    published = registry.register(weights, manifest())
    blobs.write("models/digits/1/model.safetensors", b"evil")
    found = hashlib.sha256(b"evil").hexdigest()
    with pytest.raises(TamperedModel, match=f"digits v1.*{found}.*{published.weights_sha256}"):
        registry.fetch(1)


def test_a_spoiled_cache_is_replaced(local: tuple[DirectoryModelRegistry, BlobStore], weights: Path) -> None:
    registry, _ = local
    registry.register(weights, manifest())
    folder = registry.fetch(1)
    (folder / "model.safetensors").write_bytes(b"cut")
    assert (registry.fetch(1) / "model.safetensors").read_bytes() == weights.read_bytes()


def test_a_manifest_that_is_not_its_own_is_tampered(
    local: tuple[DirectoryModelRegistry, BlobStore], weights: Path
) -> None:
    registry, blobs = local
    registry.register(weights, manifest("one"))
    registry.register(weights, manifest("two"))
    blobs.copy("models/digits/1/manifest.json", "models/digits/2/manifest.json")
    with pytest.raises(TamperedModel, match="v2 says it is digits v1"):
        registry.fetch(2)
    blobs.write("models/digits/2/manifest.json", b"{")
    with pytest.raises(TamperedModel, match="v2 cannot be read"):
        registry.manifest(2)


class Crash(Exception):
    pass


class CrashingBlobs(FsspecBlobStore):
    """Dies at the n-th write."""

    writes_left = 0

    def write(self, path: str, data: bytes, *, if_absent: bool = False) -> bool:
        if self.writes_left == 0:
            raise Crash
        self.writes_left -= 1
        return super().write(path, data, if_absent=if_absent)


@pytest.mark.parametrize("writes", range(5))
def test_a_registration_that_dies_anywhere_is_repeated_to_one_whole_version(
    tmp_path: Path, weights: Path, writes: int
) -> None:
    dying = CrashingBlobs(tmp_path / "blobs")
    dying.writes_left = writes
    registry = DirectoryModelRegistry(FsspecBlobStore(tmp_path / "blobs"), "digits", tmp_path / "cache")
    try:
        DirectoryModelRegistry(dying, "digits", tmp_path / "cache").register(weights, manifest(), {"extra": b"x"})
    except Crash:
        assert registry.versions() == []
    published = registry.register(weights, manifest(), {"extra": b"x"})
    assert registry.versions() == [published.version]
    assert registry.fetch(published.version).is_dir()
    assert registry.file(published.version, "extra") == b"x"
    later = registry.register(weights, manifest("later"))
    assert later.version > published.version


def test_a_version_that_somebody_removed_can_be_trained_again(
    local: tuple[DirectoryModelRegistry, BlobStore], weights: Path
) -> None:
    registry, blobs = local
    registry.register(weights, manifest())
    for blob in list(blobs.list("models/digits/1")):
        blobs.delete(blob.path)
    assert registry.by_training_key("key") is None
    again = registry.register(weights, manifest()).version
    assert registry.versions() == [again]
    assert registry.fetch(again).is_dir()


def test_a_manifest_whose_class_order_was_changed_is_refused(tmp_path: Path, weights: Path) -> None:
    blobs = FsspecBlobStore(tmp_path / "blobs")
    registry = DirectoryModelRegistry(blobs, "digits", tmp_path / "cache")
    version = registry.register(weights, manifest()).version
    path = f"models/digits/{version}/manifest.json"
    changed = json.loads(blobs.read(path))
    changed["classes"] = changed["classes"][::-1]
    blobs.write(path, json.dumps(changed).encode())
    with pytest.raises(TamperedModel, match=r"the manifest of digits v1 was changed: .* restore "):
        registry.fetch(version)


def test_a_manifest_of_a_version_of_the_code_that_knew_more_or_no_hash_is_read(tmp_path: Path, weights: Path) -> None:
    blobs = FsspecBlobStore(tmp_path / "blobs")
    registry = DirectoryModelRegistry(blobs, "digits", tmp_path / "cache")
    registry.register(weights, manifest())
    older = json.loads(blobs.read("models/digits/1/manifest.json"))
    del older["content_sha256"]
    blobs.write("models/digits/1/manifest.json", json.dumps(older).encode())
    assert registry.manifest(1).content_sha256 is None
    assert (registry.fetch(1) / "model.safetensors").is_file()


@pytest.mark.parametrize("spoiled", ["model.safetensors", "manifest.json"])
@pytest.mark.parametrize("content", [b"", b"{}"])
def test_a_cached_model_that_is_not_the_stored_one_is_fetched_again(
    tmp_path: Path, weights: Path, spoiled: str, content: bytes
) -> None:
    registry = DirectoryModelRegistry(FsspecBlobStore(tmp_path / "blobs"), "digits", tmp_path / "cache")
    registry.register(weights, manifest())
    whole = (registry.fetch(1) / spoiled).read_bytes()
    (registry.fetch(1) / spoiled).write_bytes(content)
    assert (registry.fetch(1) / spoiled).read_bytes() == whole
