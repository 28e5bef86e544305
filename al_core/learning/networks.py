"""The networks: any encoder of `al_core.encoders` with a linear head."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import nn

from al_core.encoders.contract import Encoder, EncoderRequest, NoEncoder
from al_core.encoders.registry import build_encoder, preprocessing_for
from al_core.encoders.weight_files import file_hash, load_state, read_state
from al_core.errors import InvalidInput
from al_core.learning.settings import SMALL_CNN, TrainingSettings
from al_core.records import EncoderRecord, Preprocessing

__all__ = [
    "SMALL_CNN",
    "Classifier",
    "build_network",
    "encoder_hash",
    "half_precision_of",
    "has_fast_bfloat16",
    "load_state",
    "preprocessing_for",
    "resolve_device",
]


class Classifier(nn.Module):
    """An encoder that gives (N, d) embeddings, and a linear head on top of it.

    Every architecture has this form, so that heads grow, encoders freeze and embeddings are logged in one way.
    Grey images enter a colour encoder as three equal channels.
    """

    def __init__(self, encoder: Encoder, classes: int) -> None:
        super().__init__()
        self.encoder = encoder.module
        self.head = nn.Linear(encoder.dimension, classes)
        self.input_channels = encoder.channels
        self.record: EncoderRecord = encoder.record

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """Penultimate activations, (N, d), of normalised images (N, channels, size, size)."""
        if images.shape[1] != self.input_channels:
            images = images.expand(-1, self.input_channels, -1, -1)
        return self.encoder(images.contiguous(memory_format=torch.channels_last))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits, (N, C)."""
        return self.head(self.embed(images))


def build_network(
    architecture: str,
    *,
    classes: int,
    size: int,
    channels: int,
    weights: str = "none",
    configuration: dict[str, Any] | None = None,
) -> Classifier:
    """A fresh classifier; `weights` (none, default, or a local file) fill the encoder, never the head.

    With `configuration`, as `EncoderRecord` holds it, the network is built as it was, and nobody is asked for it.

    Raises:
        NoEncoder: unknown architecture, an image size it cannot take, or weights that do not fit it.
    """
    own = _own_encoder(weights)
    request = EncoderRequest("", size, channels, _in_family(architecture, weights, own), configuration or {})
    encoder = build_encoder(architecture, request)
    if weights not in ("none", "default") and request.weights == "none":
        file = Path(weights)
        _fill(encoder, own if own is not None else read_state(file), file, size)
        record = encoder.record.model_copy(update={"source": file.name, "sha256": file_hash([file])})
        encoder = Encoder(encoder.module, encoder.dimension, encoder.channels, record, encoder.head)
    return Classifier(encoder, classes).to(memory_format=torch.channels_last)


def _own_encoder(weights: str) -> dict[str, torch.Tensor] | None:
    """The encoder's tensors where the file is a checkpoint of this project."""
    if weights in ("none", "default"):
        return None
    state = read_state(Path(weights))
    if not all(name.startswith(("encoder.", "head.")) for name in state) or "head.weight" not in state:
        return None
    return {name.removeprefix("encoder."): value for name, value in state.items() if name.startswith("encoder.")}


def _in_family(architecture: str, weights: str, own: dict[str, torch.Tensor] | None) -> str:
    """Which weights the family loads itself: files in its own format, with all that it does to fit them."""
    return weights if weights in ("none", "default") or (":" in architecture and own is None) else "none"


def _fill(encoder: Encoder, state: dict[str, torch.Tensor], file: Path, size: int) -> None:
    """Fill the encoder from tensors under its names; a head among them is left out."""
    from torchvision import models
    from torchvision.models.vision_transformer import interpolate_embeddings

    if encoder.head:
        state = {name: value for name, value in state.items() if not name.startswith(f"{encoder.head}.")}
    module = encoder.module
    if isinstance(module, models.VisionTransformer) and "encoder.pos_embedding" in state:
        try:
            state = dict(interpolate_embeddings(size, module.patch_size, state))
        except ValueError as error:
            raise NoEncoder(f"{file} cannot be fitted to images of {size} pixels: {error}") from error
    load_state(module, state, str(file))


def encoder_hash(network: Classifier, preprocessing: Preprocessing) -> str:
    """Content hash of all that makes an embedding: the encoder's tensors and what becomes of a picture before it."""
    digest = hashlib.blake2b(preprocessing.model_dump_json().encode(), digest_size=16)
    for name, tensor in sorted(network.encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.cpu().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def resolve_device(device: str) -> torch.device:
    """`auto` is the GPU where there is one.

    Raises:
        InvalidInput: cuda is asked for and there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise InvalidInput('training.device is "cuda", but torch sees no GPU; set it to "auto" or "cpu"')
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 in hardware: most GPUs since 2020, CPUs with AVX512-BF16 or AMX."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    known: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # an older torch cannot tell
    return bool(known.get("avx512_bf16") or known.get("amx_bf16"))


def half_precision_of(settings: TrainingSettings, device: torch.device) -> torch.dtype | None:
    """What layers compute in; None where that is float32."""
    if settings.precision == "bfloat16":
        return torch.bfloat16
    if settings.precision == "float32" or device.type == "cpu":
        return None
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
