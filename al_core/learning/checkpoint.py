"""Checkpoints: a folder with `model.safetensors` and `manifest.json`, and what names a training.

Importing this module costs nothing: torch is loaded when a network is.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from al_core.errors import ActiveLearningError
from al_core.learning.settings import TrainingSettings
from al_core.records import ModelManifest

if TYPE_CHECKING:
    import torch

    from al_core.learning.networks import Classifier

WEIGHTS_FILE = "model.safetensors"
MANIFEST_FILE = "manifest.json"
_SOURCE = Path(__file__).resolve().parents[2]


class BadCheckpoint(ActiveLearningError, ValueError):
    """A checkpoint that must not be used; the message says what is wrong with it."""


def training_key(
    dataset_version: str, parent_version: int | None, settings: TrainingSettings, code_version: str
) -> str:
    """The name of a training: the same labels, parent, settings and code give the same key."""
    facts = [dataset_version, parent_version, settings.model_dump(mode="json"), code_version]
    return hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=16).hexdigest()


@cache
def code_version() -> str:
    """`git describe` of the checkout this code runs from, else the version of the installed package."""
    if (_SOURCE / ".git").exists():
        command = ["git", "-C", str(_SOURCE), "describe", "--always", "--dirty", "--tags"]
        try:
            return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
        except (OSError, subprocess.SubprocessError):
            pass  # no git, or a checkout of somebody else: the package's version is the next best name
    try:
        return version("active-learning-platform")
    except PackageNotFoundError:
        return "unknown"


def sha256_of(file: Path) -> str:
    """SHA-256 of a file, as hex."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_manifest(folder: Path) -> ModelManifest:
    """The manifest of a checkpoint folder.

    Raises:
        BadCheckpoint: there is none, or it is no manifest.
    """
    file = folder / MANIFEST_FILE
    try:
        return ModelManifest.model_validate_json(file.read_bytes())
    except FileNotFoundError as error:
        raise BadCheckpoint(f"{folder} is no checkpoint: it has no {MANIFEST_FILE}") from error
    except ValidationError as error:
        raise BadCheckpoint(f"{file} is no model manifest: {error}") from error


def save_weights(network: Classifier, file: Path) -> None:
    """Write the network's tensors as safetensors: data only, nothing that could run."""
    from safetensors.torch import save_file

    save_file({name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}, file)


def load_weights(folder: Path, manifest: ModelManifest) -> Mapping[str, torch.Tensor]:
    """The tensors of a checkpoint, after the file's hash was compared with the manifest.

    Raises:
        BadCheckpoint: the file is missing, is not the one that was published, or is no safetensors file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = folder / WEIGHTS_FILE
    if not file.is_file():
        raise BadCheckpoint(f"{folder} is no checkpoint: it has no {WEIGHTS_FILE}")
    found = sha256_of(file)
    if found != manifest.weights_sha256:
        raise BadCheckpoint(
            f"{file} was changed after it was published: its SHA-256 is {found[:12]}..., the manifest of "
            f"{manifest.name} v{manifest.version} says {manifest.weights_sha256[:12]}...; fetch the version again"
        )
    try:
        return load_file(file)
    except SafetensorError as error:
        raise BadCheckpoint(f"{file} is no safetensors file: {error}") from error


def load_network(folder: Path, manifest: ModelManifest) -> Classifier:
    """The network of a checkpoint folder, on the CPU.

    Raises:
        BadCheckpoint: see `load_weights`; or the architecture is unknown or does not fit the tensors.
    """
    from al_core.learning.networks import build_network, load_state

    weights = load_weights(folder, manifest)
    try:
        network = build_network(
            manifest.architecture,
            classes=len(manifest.classes),
            size=manifest.preprocessing.size,
            channels=manifest.preprocessing.channels,
            configuration=manifest.encoder.configuration if manifest.encoder else None,
        )
        load_state(network, weights, str(folder / WEIGHTS_FILE))
    except ValueError as error:
        raise BadCheckpoint(f"{manifest.name} v{manifest.version}: {error}") from error
    return network
