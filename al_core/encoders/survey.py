"""Which encoders can be used on this machine, how large they are, and how fast."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from al_core.encoders.contract import EncoderRequest, NoEncoder
from al_core.encoders.registry import build_encoder, find_encoder
from al_core.learning.settings import resolve_weights

if TYPE_CHECKING:
    import torch

# what to begin with, from the smallest on; every other model of a family can be named as well
SUGGESTED = {
    "small_cnn": "from nothing, for small pictures like digits",
    "resnet18": "torchvision; downloads ImageNet weights with training.weights = default",
    "vit_b_16": "torchvision; the vision transformer that AutoML takes by default",
    "timm:tf_efficientnet_lite0.in1k": "the lightest with good features: for a machine without a GPU",
    "timm:vit_small_patch14_dinov2.lvd142m": "DINOv2: strong features; much faster with training.image_size = 224",
    "timm:vit_small_patch16_dinov3.lvd1689m": "DINOv3",
    "hf:facebook/dinov2-small": "DINOv2, as Hugging Face publishes it",
    "hf:openai/clip-vit-base-patch32": "CLIP: can be searched by text",
    "hf:google/siglip-base-patch16-224": "SigLIP: can be searched by text",
    "open_clip:ViT-B-32/laion2b_s34b_b79k": "CLIP trained on LAION: can be searched by text",
}


@dataclass(frozen=True)
class Surveyed:
    """One encoder; where it cannot be used here, `problem` says why and what helps, and the rest is empty."""

    architecture: str
    what: str
    pixels: int | None = None
    width: int | None = None  # of the embeddings
    megabytes: float | None = None  # of the weights in float32
    per_second: float | None = None  # pictures
    problem: str | None = None


def survey(architecture: str, device: torch.device, *, seconds: float = 0.5) -> Surveyed:
    """Build the encoder without weights, which are as fast as any, and show it pictures for about `seconds`."""
    what = SUGGESTED.get(architecture, "")
    try:
        family, name = find_encoder(architecture)
        weights = resolve_weights(architecture, "auto")
        size = family.preprocessing(name, size=None, channels=3, weights=weights).size
        encoder = build_encoder(architecture, EncoderRequest(name, size, 3))
    except NoEncoder as error:
        return Surveyed(architecture, what, problem=str(error))
    module = encoder.module.to(device).eval()
    megabytes = sum(value.numel() for value in module.state_dict().values()) * 4 / 1e6
    return Surveyed(architecture, what, size, encoder.dimension, megabytes, _per_second(module, size, device, seconds))


def _per_second(module: torch.nn.Module, size: int, device: torch.device, seconds: float) -> float:
    """Pictures embedded in a second, in batches, without decoding them."""
    import torch

    images = torch.zeros(max(1, (1 << 21) // (3 * size**2)), 3, size, size, device=device)
    with torch.inference_mode():
        module(images[:1])  # the first call allocates
        done, began = 0, time.perf_counter()
        while True:
            module(images)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            done += len(images)
            took = time.perf_counter() - began
            if took >= seconds:
                return done / took
