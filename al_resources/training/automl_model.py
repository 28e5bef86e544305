"""What AutoML for images leaves behind, read as data, and its tensors under our names.

AutoML writes `model.pt`: a dictionary with `model_name`, `specs` (the labels, in its order), `model_state` (the tensors
of the network) and, beside them, scores and the state of its optimizer, numbers of numpy among them
(azureml-automl-dnn-vision 1.62, artifacts_utils). Nothing in it is run: torch's reader without pickles, to which only
numpy's numbers and arrays are added.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from al_core.errors import InvalidInput

if TYPE_CHECKING:
    import torch

NEVER = -30.0  # bias of a class that AutoML was shown no image of


class AutoMLNetwork(NamedTuple):
    """How AutoML calls a network and its head, and how the rest of its tensors is called here."""

    name: str
    head: str
    encoder: Callable[[str], str] = str


def _vit(name: str) -> str:
    """The name in torchvision's ViT of a tensor in timm's, which AutoML uses; the tensors are the same."""
    whole = {
        "cls_token": "class_token",
        "pos_embed": "encoder.pos_embedding",
        "patch_embed.proj": "conv_proj",
        "norm": "encoder.ln",
    }
    inside = {
        "norm1": "ln_1",
        "attn.qkv": "self_attention.in_proj",
        "attn.proj": "self_attention.out_proj",
        "norm2": "ln_2",
        "mlp.fc1": "mlp.0",
        "mlp.fc2": "mlp.3",
    }
    if name in whole:
        return whole[name]
    part, _, kind = name.rpartition(".")
    if part in whole:
        return f"{whole[part]}.{kind}"
    _, number, within = (*part.split(".", 2), "", "")[:3]
    if within not in inside:
        return name  # it will be named as what does not fit
    joint = "_" if within == "attn.qkv" else "."
    return f"encoder.layers.encoder_layer_{number}.{inside[within]}{joint}{kind}"


NETWORKS = {
    "resnet18": AutoMLNetwork("resnet18", "fc"),
    "resnet34": AutoMLNetwork("resnet34", "fc"),
    "resnet50": AutoMLNetwork("resnet50", "fc"),
    "resnet101": AutoMLNetwork("resnet101", "fc"),
    "resnet152": AutoMLNetwork("resnet152", "fc"),
    "mobilenet_v2": AutoMLNetwork("mobilenetv2", "classifier.1"),
    "vit_b_16": AutoMLNetwork("vitb16r224", "head", _vit),
    "vit_l_16": AutoMLNetwork("vitl16r224", "head", _vit),
}


def read_model(file: Path) -> dict[str, Any]:
    """The dictionary in `model.pt`.

    Raises:
        InvalidInput: it holds something else than tensors and numbers, or not what AutoML writes.
    """
    import torch

    try:
        with torch.serialization.safe_globals(list(_numbers())):
            trained = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        said = str(error).strip().splitlines()[0]
        raise InvalidInput(f"{file} cannot be read without running code in it: {said}") from error
    missing = [key for key in ("model_name", "specs", "model_state") if key not in trained]
    if missing:
        raise InvalidInput(f"{file} is no model of AutoML: it lacks {', '.join(missing)}")
    return trained


def _numbers() -> Iterator[Any]:
    """numpy's numbers and arrays, under the names that the old numpy of AutoML and newer ones give them."""
    import numpy as np
    from numpy._core import multiarray

    yield from (np.dtype, np.ndarray)
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        yield (multiarray.scalar, f"{module}.scalar")
        yield (multiarray._reconstruct, f"{module}._reconstruct")
    yield from {type(np.dtype(kind)) for kind in "?bBhHiIlLqQefdU"}


def renamed(
    state: Mapping[str, torch.Tensor], network: AutoMLNetwork, labels: Sequence[str], classes: Sequence[str]
) -> dict[str, torch.Tensor]:
    """AutoML's tensors under our names; the head's rows, (labels, d), in the order of `classes`.

    Raises:
        InvalidInput: a label is no class, or the head is not there.
    """
    import torch

    head = network.head
    strangers = set(labels) - set(classes)
    if strangers:
        raise InvalidInput(f"AutoML was trained on {sorted(strangers)}, not among the classes {list(classes)}")
    if f"{head}.weight" not in state:
        raise InvalidInput(f"the {network.name} of AutoML has no {head}.weight")
    weight, bias = state[f"{head}.weight"], state[f"{head}.bias"]
    rows, biases = weight.new_zeros(len(classes), weight.shape[1]), bias.new_full((len(classes),), NEVER)
    positions = torch.tensor([list(classes).index(label) for label in labels])
    rows[positions], biases[positions] = weight, bias
    encoder = {
        f"encoder.{network.encoder(name)}": value for name, value in state.items() if not name.startswith(f"{head}.")
    }
    return {**encoder, "head.weight": rows, "head.bias": biases}
