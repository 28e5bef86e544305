"""The networks: a small CNN for small images, and every classifier of torchvision, as encoder + linear head."""

from __future__ import annotations

import difflib
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import nn
from torchvision import models
from torchvision.models.vision_transformer import interpolate_embeddings

from al_core.errors import InvalidInput
from al_core.records import Preprocessing

SMALL_CNN = "small_cnn"
IMAGENET_CLASSES = 1000  # the width of every torchvision head before it is replaced
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Classifier(nn.Module):
    """An encoder that gives (N, d) embeddings, and a linear head on top of it.

    Every architecture has this form, so that heads grow, encoders freeze and embeddings are logged in one way.
    Grey images enter a colour encoder as three equal channels.
    """

    def __init__(self, encoder: nn.Module, dimension: int, classes: int, input_channels: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(dimension, classes)
        self.input_channels = input_channels

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """Penultimate activations, (N, d), of normalised images (N, channels, size, size)."""
        if images.shape[1] != self.input_channels:
            images = images.expand(-1, self.input_channels, -1, -1)
        return self.encoder(images.contiguous(memory_format=torch.channels_last))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits, (N, C)."""
        return self.head(self.embed(images))


def build_network(architecture: str, *, classes: int, size: int, channels: int, weights: str = "none") -> Classifier:
    """A fresh classifier; `weights` (none, default, or a local file) fill the encoder, never the head.

    Raises:
        ValueError: unknown architecture, an image size it cannot take, or weights that do not fit it.
    """
    try:
        if architecture == SMALL_CNN:
            encoder, dimension = _small_cnn(size, channels)
            head, inputs = "head", channels
        else:
            encoder, head, dimension = _torchvision(architecture, size, weights)
            inputs = 3
    except (RuntimeError, AssertionError, TypeError) as error:
        raise InvalidInput(f"{architecture} cannot be built for images of {size} pixels: {error}") from error
    if weights not in ("none", "default"):
        _load_encoder(encoder, head, Path(weights), size)
    elif architecture == SMALL_CNN and weights == "default":
        raise InvalidInput('small_cnn has no weights to download; set training.weights to "none" or to a file')
    network = Classifier(encoder, dimension, classes, inputs)
    return network.to(memory_format=torch.channels_last)


def preprocessing_for(architecture: str, *, size: int, channels: int, weights: str = "none") -> Preprocessing:
    """The input a network of that architecture expects."""
    if architecture == SMALL_CNN:
        return Preprocessing(size=size, channels=channels, mean=(0.5,) * channels, std=(0.25,) * channels)
    mean, std = _IMAGENET_MEAN, _IMAGENET_STD
    if weights == "default":
        preset = models.get_model_weights(_known(architecture)).DEFAULT.transforms()
        mean, std = tuple(preset.mean), tuple(preset.std)
    if channels == 1:  # the three channels carry the same picture
        return Preprocessing(size=size, channels=1, mean=(sum(mean) / 3,), std=(sum(std) / 3,))
    return Preprocessing(size=size, channels=channels, mean=mean, std=std)


def resolve_device(device: str) -> torch.device:
    """`auto` is the GPU where there is one.

    Raises:
        ValueError: cuda is asked for and there is none.
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


def _small_cnn(size: int, channels: int) -> tuple[nn.Module, int]:
    """VGG-like (Simonyan & Zisserman 2015): pairs of 3x3 convolutions, halved down to a 2x2 map, then averaged.

    Measured on digits (16x16, six seeds): the pairs and the last convolution at 2x2 lift 25 labels from .71
    to .81; BatchNorm is 3 to 9 points better than GroupNorm from 25 to 300 labels; residual sums, wider
    layers and dropout bring nothing. Colour gets twice the width.
    """
    width = 16 if channels == 1 else 32
    layers: list[nn.Module] = [*_convolution(channels, width)]
    resolution, inputs, outputs = size, width, 2 * width
    if size >= 16:  # a smaller picture cannot spare the detail
        layers.append(nn.MaxPool2d(2))
        resolution //= 2
    while resolution >= 4:
        layers += [*_convolution(inputs, outputs), *_convolution(outputs, outputs), nn.MaxPool2d(2)]
        resolution, inputs, outputs = resolution // 2, outputs, min(2 * outputs, 8 * width)
    layers += [*_convolution(inputs, inputs), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers), inputs


def _convolution(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def _torchvision(architecture: str, size: int, weights: str) -> tuple[nn.Module, str, int]:
    """The network without its head, the head's name, and the width of the embedding."""
    options: dict[str, Any] = {}
    if architecture.startswith("vit_"):
        options["image_size"] = size
    elif architecture.startswith("maxvit"):
        options["input_size"] = (size, size)
    elif architecture in ("googlenet", "inception_v3"):
        # auxiliary heads answer in tuples while training
        options |= {"aux_logits": False, "init_weights": False} if weights != "default" else {}
    name = _known(architecture)
    if weights != "default":
        network = models.get_model(name, weights=None, **options)
    else:
        network = _downloaded(name, size, options)
    return network, *_take_head(network)


def _downloaded(architecture: str, size: int, options: dict[str, Any]) -> nn.Module:
    published = models.get_model_weights(architecture).DEFAULT
    try:
        if "image_size" not in options:
            return models.get_model(architecture, weights=published, **options)
        network = models.get_model(architecture, weights=None, **options)
        state = published.get_state_dict(progress=False, check_hash=True)
    except (URLError, RuntimeError) as error:  # RuntimeError: the download's hash is wrong
        raise InvalidInput(
            f"the weights of {architecture} could not be downloaded ({error}); "
            "set training.weights to a local file, or to none"
        ) from error
    network.load_state_dict(interpolate_embeddings(size, network.patch_size, state))
    return network


def _known(architecture: str) -> str:
    names = models.list_models(module=models)
    if architecture not in names:
        near = difflib.get_close_matches(architecture, [SMALL_CNN, *names], n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "see torchvision.models.list_models()"
        raise InvalidInput(f"unknown architecture {architecture!r}; {SMALL_CNN} or a torchvision classifier: {hint}")
    return architecture


def _take_head(network: nn.Module) -> tuple[str, int]:
    """Replace the classifying layer by the identity; its name and the width of what reaches it.

    The head is the last layer with 1000 outputs, whatever the model calls it. SqueezeNet's is a 1x1
    convolution before the average: linear, so the average of its inputs serves as the embedding.
    """
    for name, layer in reversed(list(network.named_modules())):
        if isinstance(layer, nn.Linear) and layer.out_features == IMAGENET_CLASSES:
            width = layer.in_features
        elif isinstance(layer, nn.Conv2d) and layer.out_channels == IMAGENET_CLASSES:
            width = layer.in_channels
        else:
            continue
        network.set_submodule(name, nn.Identity())
        return name, width
    raise InvalidInput(f"{type(network).__name__} has no layer with {IMAGENET_CLASSES} outputs to replace")


def _load_encoder(encoder: nn.Module, head: str, file: Path, size: int) -> None:
    """Fill the encoder from a checkpoint of this project or of torchvision; its head, if any, is left out."""
    state = _read_state(file)
    own = all(name.startswith(("encoder.", "head.")) for name in state)
    if own:
        state = {name.removeprefix("encoder."): value for name, value in state.items() if name.startswith("encoder.")}
    else:
        state = {name: value for name, value in state.items() if not name.startswith(f"{head}.")}
    if isinstance(encoder, models.VisionTransformer) and "encoder.pos_embedding" in state:
        state = dict(interpolate_embeddings(size, encoder.patch_size, state))
    load_state(encoder, state, str(file))


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
        raise InvalidInput(f"{source} does not fit this network: {'; '.join(problems[:5])}{more}")
    module.load_state_dict(state)


def _read_state(file: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not file.is_file():
        raise InvalidInput(f"training.weights: there is no file {file}; expected none, default, or a local file")
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise InvalidInput(f"{file} is no state dict that can be read without running code: {error}") from error
    for wrapper in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise InvalidInput(f"{file} holds no state dict (names of parameters with their tensors)")
    return state
