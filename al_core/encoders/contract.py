"""What every family of encoders can do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from al_core.errors import InvalidInput
from al_core.records import EncoderRecord, Preprocessing

if TYPE_CHECKING:
    import torch
    from torch import nn


class NoEncoder(InvalidInput):
    """An encoder that cannot be had as asked for; the message says why, and the way out."""


@dataclass(frozen=True)
class Encoder:
    """A network that gives (N, dimension) embeddings of normalised images (N, channels, size, size)."""

    module: nn.Module
    dimension: int
    channels: int  # of its input; a grey picture enters three channels three times
    record: EncoderRecord
    head: str = ""  # what its files call the classifying layer, if any: left out when they are read


@dataclass(frozen=True)
class EncoderRequest:
    """What is asked of a family.

    `weights` is none (start from nothing), default (those that were published) or a local file. With `configuration`,
    as a manifest holds it, the network is built from that alone: nothing is looked up, nothing is downloaded.
    """

    name: str
    size: int
    channels: int
    weights: str = "none"
    configuration: dict[str, Any] = field(default_factory=dict)


class EncoderFamily(Protocol):
    """Where a kind of encoders comes from."""

    @property
    def extra(self) -> str:
        """The extra of this project that installs what the family needs; empty where nothing is needed."""

    @property
    def package(self) -> str:
        """The package that has to be there."""

    def names(self) -> Sequence[str]:
        """Names that can be asked for, those of `suggestions` aside; for spelling errors."""

    def preprocessing(self, name: str, *, size: int | None, channels: int, weights: str) -> Preprocessing:
        """The input that the model wants, from its own configuration; `size` where another one is asked for.

        Raises:
            NoEncoder: there is no such model, or its configuration cannot be had.
        """

    def build(self, request: EncoderRequest) -> Encoder:
        """The encoder.

        Raises:
            NoEncoder: there is no such model, its weights cannot be had or do not fit it, or it cannot take images
                of that size.
        """


class TextEncoder(Protocol):
    """What the families can do besides whose models know text: open_clip, and CLIP and SigLIP of Hugging Face."""

    def embed_text(self, name: str, texts: Sequence[str], *, weights: str) -> torch.Tensor:
        """(T, d) unit vectors in the space of the images' embeddings.

        Raises:
            NoEncoder: the model knows no text, or its text part cannot be had.
        """
