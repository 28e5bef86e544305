"""An encoder learned from the unlabeled pool itself, for when no pretrained weights can be had.

SimCLR: two random views of an image shall be closest to each other among all images of the batch. Its recipe is
the settings beside it in `study.json`; the checkpoint is `encoder.safetensors` in the study's folder.
Source: Chen, Kornblith, Norouzi & Hinton (2020), A Simple Framework for Contrastive Learning of Visual
Representations, ICML.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from al_core.learning.networks import Classifier, build_network, has_fast_bfloat16, resolve_device
from al_core.learning.preprocessing import normalise
from al_core.learning.settings import TrainingSettings
from al_core.learning.torch_trainer import warm_up_and_cosine
from al_core.records import Preprocessing
from simulation.datasets import LabeledData
from simulation.study import PretrainSettings, Study

ENCODER_FILE = "encoder.safetensors"
STATE_FILE = "pretraining.safetensors"  # where it stands, after each epoch; gone when it is done
PROJECTION = 128  # width of the space in which views are compared; thrown away afterwards
EMBED_ROWS = 256


def pretrain_on_pool(
    study: Study, data: LabeledData, preprocessing: Preprocessing, folder: Path, say: Callable[[str], None]
) -> Path:
    """The encoder of the study, learned on its pool unless that was done before; test images are not seen."""
    from al_core.learning.checkpoint import save_weights

    assert study.pretrain is not None
    file = folder / ENCODER_FILE
    if not file.exists():
        pixels = np.load(folder / "images" / "pixels.npy", mmap_mode="r")
        position = {image.image_id: row for row, image in enumerate(data.images)}
        pool, _ = data.split(0, study.test_images, study.imbalance)
        rows = np.array(sorted(position[image.image_id] for image in pool))
        state = folder / STATE_FILE
        network = pretrain(torch.from_numpy(pixels[rows]), preprocessing, study.training, study.pretrain, say, state)
        part = file.with_suffix(".part")
        save_weights(network, part)
        part.rename(file)
        state.unlink(missing_ok=True)
    return file


def pretrain(
    pixels: torch.Tensor,
    preprocessing: Preprocessing,
    training: TrainingSettings,
    settings: PretrainSettings,
    say: Callable[[str], None],
    state: Path | None = None,
) -> Classifier:
    """A network whose encoder tells the images (N, channels, size, size), uint8, apart; its head means nothing.

    Where it stands is written to the file `state` after each epoch. Stopped and called again it goes on from there,
    and on the CPU ends with the same weights.
    """
    device = resolve_device(training.device)
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        network = build_network(
            training.architecture, classes=2, size=preprocessing.size, channels=preprocessing.channels
        )
        width = network.head.in_features
        model = nn.ModuleDict(
            {
                "network": network,
                "projection": nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, PROJECTION)),
            }
        ).to(device)
        views = _Views(preprocessing, mirror=training.augment == "shift_flip")
        size = min(settings.batch_size, len(pixels))
        steps = len(pixels) // size
        optimizer = torch.optim.AdamW(model.parameters(), settings.learning_rate, weight_decay=1e-2, fused=True)
        rate = warm_up_and_cosine(steps * settings.epochs)
        generator = torch.Generator().manual_seed(settings.seed)
        first = _load_state(state, model, optimizer, generator) if state is not None and state.exists() else 0
        autocast = torch.autocast(device.type, dtype=torch.bfloat16, enabled=has_fast_bfloat16(device))
        began = time.monotonic()
        model.train()
        for epoch in range(first, settings.epochs):
            order = torch.randperm(len(pixels), generator=generator)
            total = 0.0
            for step in range(steps):
                rows = order[step * size : (step + 1) * size]
                batch = pixels[rows].to(device)
                with autocast:
                    both = torch.cat([views(batch, generator), views(batch, generator)])
                    projected = model["projection"](network.embed(both))
                loss = contrastive_loss(projected.float(), settings.temperature)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                for group in optimizer.param_groups:
                    group["lr"] = settings.learning_rate * rate(epoch * steps + step)
                optimizer.step()
                total += loss.item()
            done = epoch + 1
            if state is not None:
                _save_state(state, model, optimizer, generator, done)
            if done == first + 1 or done % max(1, settings.epochs // 10) == 0:
                left = (time.monotonic() - began) / 60 / (done - first) * (settings.epochs - done)
                say(f"pretraining, epoch {done}/{settings.epochs}: loss {total / steps:.3f}, {left:.1f} min left")
    return network.cpu().eval()


def _save_state(
    file: Path, model: nn.Module, optimizer: torch.optim.Optimizer, generator: torch.Generator, epochs: int
) -> None:
    """Everything that the next epoch depends on, as tensors only."""
    from safetensors.torch import save_file

    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for number, values in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": value for name, value in values.items()}
    tensors |= {"generator": generator.get_state(), "torch": torch.get_rng_state(), "epochs": torch.tensor(epochs)}
    part = file.with_suffix(".part")
    save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, part)
    part.replace(file)


def _load_state(file: Path, model: nn.Module, optimizer: torch.optim.Optimizer, generator: torch.Generator) -> int:
    """Bring everything to where `_save_state` left it; returns the epochs that are done."""
    from safetensors.torch import load_file

    tensors = load_file(file)
    model.load_state_dict(
        {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}
    )
    weights = list(model.parameters())
    moments: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, number, moment = name.split(".")
            weight = weights[int(number)]
            # the fused step wants the moments to lie in memory as their weights do
            laid = torch.empty_like(weight, requires_grad=False).copy_(value) if value.shape == weight.shape else value
            moments.setdefault(int(number), {})[moment] = laid
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    generator.set_state(tensors["generator"])
    torch.set_rng_state(tensors["torch"])
    return int(tensors["epochs"])


def contrastive_loss(projected: torch.Tensor, temperature: float) -> torch.Tensor:
    """NT-Xent of (2 B, d) projections, where rows i and B + i are views of one image."""
    points = functional.normalize(projected)
    similarity = points @ points.T / temperature
    similarity.fill_diagonal_(-math.inf)
    half = len(points) // 2
    partner = torch.arange(2 * half, device=points.device).roll(half)
    return functional.cross_entropy(similarity, partner)


def embed_all(training: TrainingSettings, preprocessing: Preprocessing, images: Path) -> None:
    """Write the frozen encoder's embeddings of `pixels.npy` beside it."""
    network = build_network(
        training.architecture,
        classes=2,
        size=preprocessing.size,
        channels=preprocessing.channels,
        weights=training.initial_weights,
    )
    device = resolve_device(training.device)
    network.to(device).eval()
    pixels = np.load(images / "pixels.npy", mmap_mode="r")
    parts = []
    with torch.inference_mode():
        for start in range(0, len(pixels), EMBED_ROWS):
            batch = torch.from_numpy(pixels[start : start + EMBED_ROWS].copy()).to(device)
            parts.append(network.embed(normalise(batch, preprocessing)).float().cpu().numpy())
    part = images / "embeddings.part.npy"
    np.save(part, np.concatenate(parts))
    part.rename(images / "embeddings.npy")


class _Views:
    """Random views of a batch in one piece: crop, mirror, brightness and contrast, and for colour its strength."""

    def __init__(self, preprocessing: Preprocessing, *, mirror: bool) -> None:
        self.preprocessing = preprocessing
        self.mirror = mirror
        # a grey picture has little but its shape: a small crop of a digit is no digit any more
        self.least_area = 0.2 if preprocessing.channels == 3 else 0.5

    def __call__(self, pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        count, channels = pixels.shape[:2]

        def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
            return (low + (high - low) * torch.rand(count, *shape, generator=generator)).to(pixels.device)

        scale = uniform(self.least_area, 1).sqrt()
        aspect = uniform(-0.28, 0.28).exp()  # 3/4 to 4/3
        width, height = (scale * aspect.sqrt()).clamp(max=1), (scale / aspect.sqrt()).clamp(max=1)
        theta = torch.zeros(count, 2, 3, device=pixels.device)
        theta[:, 0, 0], theta[:, 1, 1] = width, height
        theta[:, 0, 2] = uniform(-1, 1) * (1 - width)
        theta[:, 1, 2] = uniform(-1, 1) * (1 - height)
        if self.mirror:
            theta[:, 0, 0] *= torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
        grid = functional.affine_grid(theta, list(pixels.shape), align_corners=False)
        images = normalise(pixels, self.preprocessing)
        images = functional.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
        images = images * uniform(0.6, 1.4, 1, 1, 1) + uniform(-0.4, 0.4, 1, 1, 1)
        if channels == 3:
            grey = images.mean(1, keepdim=True)
            strength = uniform(0.2, 1.8, 1, 1, 1) * (uniform(0, 1, 1, 1, 1) > 0.2)  # a fifth becomes grey
            images = grey + strength * (images - grey) + uniform(-0.2, 0.2, 3, 1, 1)
        return images
