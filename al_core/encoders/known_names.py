"""Whether anybody knows an architecture, read from the packages' own files: importing timm or torchvision for it takes
seconds, and every command wants to know.

What is not found like this is asked of the package itself: files may change their form, and a person's typo may wait.
"""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

from al_core.learning.settings import SMALL_CNN

TORCHVISION = "torchvision"


def check_architecture(architecture: str) -> None:
    """Nothing, where the architecture is known, or its package is not here to say so.

    Models of the Hugging Face hub are asked for when they are fetched: only the hub knows them.

    Raises:
        ValueError: nobody knows it; the message names what was meant.
    """
    if architecture == SMALL_CNN:
        return
    prefix, colon, name = architecture.partition(":")
    family, name = (prefix, name) if colon else (TORCHVISION, architecture)
    if family in _KNOWN and name:
        package = _folder("transformers" if family == "hf" else family)
        if package is None or Path(name).is_dir() or _KNOWN[family](package, name):
            return
    _ask_the_package(architecture)


def _ask_the_package(architecture: str) -> None:
    from al_core.encoders.registry import preprocessing_for

    preprocessing_for(architecture, size=None, channels=3)


def _folder(package: str) -> Path | None:
    """Where a package lies, without importing it; None where it is not installed."""
    spec = find_spec(package)
    return Path(spec.origin).parent if spec is not None and spec.origin else None


def _in_torchvision(package: Path, name: str) -> bool:
    return _is_registered(package / "models", name)


def _in_timm(package: Path, name: str) -> bool:
    model, dot, _ = name.partition(".")
    if not _is_registered(package / "models", model):
        return False
    return not dot or any(f"'{name}'" in text or f'"{name}"' in text for text in _sources(package / "models"))


def _in_open_clip(package: Path, name: str) -> bool:
    model, slash, tag = name.rpartition("/")
    if not slash or not (package / "model_configs" / f"{model}.json").is_file():
        return False
    return f'"{tag}"' in (package / "pretrained.py").read_text(encoding="utf-8")


def _in_hub(package: Path, name: str) -> bool:
    del package  # a name of the hub is no matter of the package
    return re.fullmatch(r"[\w.-]+/[\w.-]+", name) is not None


def _is_registered(models: Path, name: str) -> bool:
    """Both packages mark what is a model by a decorator."""
    defined = re.compile(rf"@register_model\b[^\n]*\n(?:@[^\n]*\n)*def {re.escape(name)}\(")
    return any(f"def {name}(" in text and defined.search(text) for text in _sources(models))


def _sources(folder: Path) -> list[str]:
    return [file.read_text(encoding="utf-8") for file in sorted(folder.glob("*.py"))]


_KNOWN = {TORCHVISION: _in_torchvision, "timm": _in_timm, "open_clip": _in_open_clip, "hf": _in_hub}
