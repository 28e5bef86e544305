"""Which family an architecture belongs to. Free of torch until a network is built."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from al_core.encoders.contract import EncoderFamily, EncoderRequest, NoEncoder
from al_core.learning.settings import SMALL_CNN

if TYPE_CHECKING:
    from al_core.encoders.contract import Encoder
    from al_core.records import Preprocessing

# prefix of the architecture -> module and class
_FAMILIES = {
    "timm": ("al_core.encoders.timm", "Timm"),
    "hf": ("al_core.encoders.hugging_face", "HuggingFace"),
    "open_clip": ("al_core.encoders.open_clip", "OpenClip"),
}
# families of plain names
_PLAIN = {
    "small_cnn": ("al_core.encoders.small_cnn", "SmallCnn"),
    "torchvision": ("al_core.encoders.torchvision", "Torchvision"),
}


def find_encoder(architecture: str) -> tuple[EncoderFamily, str]:
    """The family of an architecture, and the model's name in it.

    Raises:
        NoEncoder: the prefix is unknown, or the package of the family is not installed.
    """
    prefix, colon, name = architecture.partition(":")
    if not colon:
        return family("small_cnn" if architecture == SMALL_CNN else "torchvision"), architecture
    if prefix not in _FAMILIES:
        raise NoEncoder(
            f"training.architecture is {architecture!r}: there are no models of {prefix!r}; expected {SMALL_CNN}, a "
            f"torchvision classifier like resnet18, or one of {', '.join(f'{known}:...' for known in _FAMILIES)}"
        )
    if not name:
        raise NoEncoder(f"training.architecture is {architecture!r}: the name of a model is missing after the colon")
    found = family(prefix)
    if not is_installed(found):
        raise NoEncoder(
            f"{architecture} needs {found.package}, which is not installed: "
            f"pip install 'active-learning-platform[{found.extra}]'"
        )
    return found, name


@cache
def family(name: str) -> EncoderFamily:
    """A family by its prefix, or small_cnn and torchvision."""
    module, class_name = (_FAMILIES | _PLAIN)[name]
    make: Callable[[], Any] = getattr(importlib.import_module(module), class_name)
    return make()


def families() -> tuple[str, ...]:
    """The names of all of them."""
    return (*_PLAIN, *_FAMILIES)


def is_installed(found: EncoderFamily) -> bool:
    """Whether the package that a family needs is there."""
    return not found.package or find_spec(found.package) is not None


def build_encoder(architecture: str, request: EncoderRequest) -> Encoder:
    """The encoder of an architecture; the request's name is taken from there. Raises `NoEncoder`."""
    found, name = find_encoder(architecture)
    return found.build(replace(request, name=name))


def preprocessing_for(
    architecture: str, *, size: int | None, channels: int, weights: str = "none", crop: float | None = None
) -> Preprocessing:
    """The input a network of that architecture expects; `size` and `crop` None take the model's own.

    Raises:
        NoEncoder: there is no such model, or its configuration cannot be had.
    """
    found, name = find_encoder(architecture)
    own = found.preprocessing(name, size=size, channels=channels, weights=weights)
    return own if crop is None else own.model_copy(update={"crop": crop})
