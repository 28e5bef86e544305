"""Files of weights: read as data and never run, fetched from the Hugging Face hub or its cache, named by their hash."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from al_core.encoders.contract import NoEncoder

if TYPE_CHECKING:
    import torch
    from torch import nn

BLOCK = 1 << 20
# what describes a model, and its licence
CARDS = ("README.md", "*config*.json")


def load_state(module: nn.Module, state: Mapping[str, torch.Tensor], source: str) -> None:
    """`load_state_dict` with an error that names what does not fit.

    Raises:
        ValueError: tensors are missing, unexpected, or of another shape.
    """
    wanted = module.state_dict()
    problems = [f"{name} is missing" for name in wanted if name not in state]
    problems += [f"{name} is unexpected" for name in state if name not in wanted]
    problems += [
        f"{name} has shape {tuple(state[name].shape)} instead of {tuple(value.shape)}"
        for name, value in wanted.items()
        if name in state and state[name].shape != value.shape
    ]
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise NoEncoder(f"{source} does not fit this network: {'; '.join(problems[:5])}{more}")
    module.load_state_dict(dict(state))


def read_state(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file: safetensors, or a PyTorch file whose every object is a tensor or a container.

    Raises:
        NoEncoder: there is no such file, it is cut short, or it cannot be read without running code.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not file.is_file():
        raise NoEncoder(f"training.weights: there is no file {file}; expected none, default, or a local file")
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise _unreadable(file, error) from error
    for wrapper in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise NoEncoder(f"{file} holds no state dict (names of parameters with their tensors)")
    return state


def check_complete(files: Sequence[Path]) -> None:
    """Look at the beginning and the length of safetensors files, without reading their tensors.

    Raises:
        NoEncoder: one of them is cut short or no such file.
    """
    from safetensors import SafetensorError, safe_open

    for file in files:
        if file.suffix == ".safetensors":
            try:
                with safe_open(file, framework="pt"):
                    pass
            except (SafetensorError, OSError) as error:
                raise _unreadable(file, error) from error


def _unreadable(file: Path, error: Exception) -> NoEncoder:
    return NoEncoder(
        f"{file} ({file.stat().st_size:,} bytes) is no state dict that can be read without running code: {error}; "
        "was the download complete? Fetch the file again, as safetensors where there is one"
    )


def file_hash(files: Sequence[Path]) -> str:
    """SHA-256 over the content of the files in the order of their names, as hex."""
    digest = hashlib.sha256()
    for file in sorted(files):
        with file.open("rb") as stream:
            while block := stream.read(BLOCK):
                digest.update(block)
    return digest.hexdigest()


def hub_folder(repository: str, patterns: Sequence[str]) -> Path:
    """The files of a repository that match, from the hub or, without a connection, from its cache on this machine.

    Nothing but data is fetched: no Python file of a repository ever reaches this machine.

    Raises:
        NoEncoder: there is no such repository, it is not open to this user, or neither connection nor cache has it.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(repository, allow_patterns=[*CARDS, *patterns]))
    except HFValidationError as error:
        raise NoEncoder(f"{repository!r} is neither a folder here nor a name ORG/NAME on the hub: {error}") from error
    except GatedRepoError as error:
        raise NoEncoder(
            f"{repository} is there for those who accepted its terms: do so at https://huggingface.co/{repository}, "
            "then `hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise NoEncoder(
            f"there is no model {repository} on the hub that this machine may see; look its name up at "
            "https://huggingface.co/models, or `hf auth login` where it is private"
        ) from error
    except (OSError, HfHubHTTPError) as error:
        raise NoEncoder(
            f"{repository} is not in the cache of this machine and the hub cannot be asked ({_first_line(error)}); "
            f"where there is internet: `hf download {repository} --local-dir DIR`, then name that folder in its place"
        ) from error


def weight_files(folder: Path) -> list[Path]:
    """The files of weights in a folder: safetensors where there are any, else those of PyTorch.

    Raises:
        NoEncoder: there is none.
    """
    for pattern in ("*.safetensors", "*.bin", "*.pt", "*.pth"):
        if found := sorted(folder.glob(pattern)):
            return found
    raise NoEncoder(
        f"{folder} holds no weights (*.safetensors, *.bin); was the download stopped half-way? Fetch it again"
    )


def licence_of(folder: Path) -> str | None:
    """What the card of a model says its licence is; None where it says nothing."""
    import yaml

    card = folder / "README.md"
    if not card.is_file():
        return None
    parts = card.read_text(errors="replace").split("---\n", 2)
    if len(parts) < 3 or parts[0].strip():
        return None
    try:
        facts: Any = yaml.safe_load(parts[1])
    except yaml.YAMLError:
        return None
    licence = facts.get("license") if isinstance(facts, dict) else None
    if licence == "other":
        licence = facts.get("license_name") or facts.get("license_link") or licence
    return str(licence) if licence else None


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
