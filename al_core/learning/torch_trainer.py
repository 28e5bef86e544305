"""The trainer for image classifiers in torch: incremental, reproducible, at home with few labels."""

from __future__ import annotations

import copy
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from al_core.errors import InvalidInput
from al_core.learning.calibration import fit_temperature
from al_core.learning.checkpoint import WEIGHTS_FILE, load_weights, read_manifest, save_weights
from al_core.learning.contract import LabeledImage, TrainingRequest, TrainingResult
from al_core.learning.devices import unusable_gpu
from al_core.learning.early_stopping import EarlyStopping
from al_core.learning.embedding import embedded_chunks
from al_core.learning.networks import (
    Classifier,
    build_network,
    encoder_hash,
    half_precision_of,
    load_state,
    preprocessing_for,
    resolve_device,
)
from al_core.learning.preprocessing import normalise, read_in_chunks
from al_core.learning.settings import TrainingSettings, resolve_weights
from al_core.learning.softmax_regression import MOST_UNLABELED, TAUGHT_UP_TO, LinearHead, fit_linear_head
from al_core.records import ModelManifest, Preprocessing

MIN_VALIDATION = 20  # images; fewer say nothing about when to stop
MIN_STEPS = 4  # per epoch: twenty labels are one batch, and a network learns little in sixty steps
TELL_AFTER = 5.0  # seconds of embedding between two lines
LONGEST_SILENCE = 60.0  # seconds between two epochs; whoever watches a job takes a silent one for stuck
MAX_IN_MEMORY = 2 << 30  # bytes of decoded images; more lie in a scratch file that the system pages in
WARM_UP = 0.2  # share of the steps with a rising learning rate
EVALUATION_VALUES = 1 << 24  # pixels looked at together without gradients


@dataclass(frozen=True)
class Labeled:
    """Decoded images, or their embeddings where these are known, with the position of their label."""

    pixels: torch.Tensor  # (N, channels, size, size) uint8
    targets: torch.Tensor  # (N,) int64
    embeddings: torch.Tensor | None = None  # (N, d) float32

    def __len__(self) -> int:
        return len(self.targets)


class TorchTrainer:
    """Trains on all labels there are, from the champion's weights where it fits.

    * Warm start with replay: the parent's weights, all labels again, so nothing is forgotten; shrink-and-
      perturb (Ash & Adams 2020) where the settings ask for it. A parent of another architecture or
      preprocessing cannot be continued: training starts cold, and the log says why.
    * New classes get new rows in the head, after the parent's rows.
    * AdamW with warm-up and cosine decay. An epoch is one pass, but at least `MIN_STEPS` steps.
    * Early stopping where the validation loss is clearly above its best, see `EarlyStopping`. Patience counts
      from the middle of the schedule: before the learning rate falls a warm start looks worse than its parent
      (stopping there cost 1 to 3 points on digits). With fewer than `MIN_VALIDATION` validation images all
      epochs are run and the last weights count. There validation images are never trained on.
    * Uneven classes: the loss weighs a class by 1/sqrt(its share). Active learning asks for the hard classes
      more often; full balancing would let a class of three labels rule, none would let the large ones.
    * Published weights that are trained whole begin, from `head_first` labels on, with the head that is found on their
      embeddings as for `frozen` (LP-FT, Kumar et al. 2022): one drawn at random would first distort what they know.
    * `frozen`: embeddings once, a chunk of images at a time, then the head as logistic regression, a convex problem
      solved to its end. Every label teaches, those of the validation images too: how strongly the weights are held
      down, and the temperature, come from answers out of fold (`fit_linear_head`). Images are not augmented, and
      the optimizer's weight decay and label smoothing are not the head's. While labels are few it learns from its
      surest answers to `request.unlabeled` as well, where answers out of fold say that this helps.
    * Temperature scaling (Guo et al. 2017), otherwise on the validation images, however few: the prior weighs the
      more the fewer they are.
    * The same request gives the same weights on the same machine.

    Args:
        embeddings: Of the frozen encoder, by image id, where somebody has computed them already: with `frozen`
            set, these images are not even read.
        pixels: Images (channels, size, size), uint8, by image id, decoded and resized already as the settings'
            preprocessing does it; these are not read either.
    """

    def __init__(
        self, embeddings: Mapping[str, np.ndarray] | None = None, pixels: Mapping[str, np.ndarray] | None = None
    ) -> None:
        self.embeddings = embeddings
        self.pixels = pixels

    def fit(self, request: TrainingRequest, report: Callable[[str], None]) -> TrainingResult:
        """Train; see `Trainer`.

        Raises:
            ValueError: no usable training image, one class only, a label outside the classes, an image both in
                train and in validation, classes that do not continue the parent's, settings that do not fit,
                or a loss that diverged.
            BadCheckpoint: the parent was tampered with.
        """
        began = time.monotonic()
        settings = request.settings
        _check(request)
        device = resolve_device(settings.device)
        if unused := unusable_gpu(settings.device):
            report(f"training on the CPU: {unused}")
        preprocessing = _preprocessing(request)
        parent, cold_reason = _usable_parent(request, preprocessing)
        if settings.frozen and parent is None and settings.initial_weights == "none":
            raise InvalidInput(
                "training.frozen needs an encoder that has learned something: set training.weights, or train "
                "a first version with frozen = false"
            )
        with tempfile.TemporaryDirectory(dir=request.output) as scratch, _reproducible(settings.seed):
            network = _starting_network(request, preprocessing, parent).to(device)
            glance = _Glance(network, preprocessing, device, half_precision_of(settings, device))
            train, unreadable = self._load(request.train, request, glance, Path(scratch), report)
            validation, unreadable_validation = self._load(request.validation, request, glance, Path(scratch), report)
            skipped = unreadable | unreadable_validation
            for image_id, reason in list(skipped.items())[:10]:
                report(f"image {image_id} is left out: {reason}")
            if settings.frozen:  # its head sets no label aside
                train = _joined(train, validation)
            _check_decoded(train, request, skipped)
            task = _Task(glance, train, validation, settings, parent is not None, report)
            history, temperature = task.fit_head(request.unlabeled) if settings.frozen else task.fit_all()
            del task, train, validation  # the scratch file is about to go
        weights = request.output / WEIGHTS_FILE
        save_weights(network, weights)
        log = history | {
            "train_images": len(request.train) - len(unreadable),
            "validation_images": len(request.validation) - len(unreadable_validation),
            "skipped": skipped,
            "warm_start": parent is not None,
            "cold_start_reason": cold_reason,
            "parent_version": parent.version if parent else None,
            "temperature": round(temperature, 4),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            "seconds": round(time.monotonic() - began, 3),
        }
        return TrainingResult(
            weights, settings.architecture, request.classes, preprocessing, temperature, log, network.record
        )

    def _load(
        self,
        images: Sequence[LabeledImage],
        request: TrainingRequest,
        glance: _Glance,
        scratch: Path,
        report: Callable[[str], None],
    ) -> tuple[Labeled, dict[str, str]]:
        """What is known of the images, or else all of them read once; and why some are missing."""
        frozen = request.settings.frozen
        known = self.embeddings if frozen and self.embeddings is not None else self.pixels
        if known is None or not images:
            if frozen:
                return _read_embedded(images, request, glance, report)
            return _read(images, request, glance.preprocessing, scratch)
        position = {label: i for i, label in enumerate(request.classes)}
        rows = torch.from_numpy(np.stack([known[image.image_id] for image in images]))
        targets = torch.tensor([position[image.label] for image in images])
        if not frozen:
            return Labeled(rows, targets), {}
        if known is self.pixels:
            rows = glance.in_chunks(glance.network.embed, rows).cpu()
        return Labeled(torch.empty(0, dtype=torch.uint8), targets, rows), {}


@dataclass(frozen=True)
class _Glance:
    """A network looking at pictures without learning from them."""

    network: Classifier
    preprocessing: Preprocessing
    device: torch.device
    half: torch.dtype | None  # what layers compute in; None is float32

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=self.half, enabled=self.half is not None)

    def to_device(self, pixels: torch.Tensor) -> torch.Tensor:
        return normalise(pixels.to(self.device, non_blocking=True), self.preprocessing)

    @torch.no_grad()
    def in_chunks(self, apply: Callable[[torch.Tensor], torch.Tensor], pixels: torch.Tensor) -> torch.Tensor:
        self.network.eval()
        rows = max(1, EVALUATION_VALUES // max(1, pixels[:1].numel()))
        parts = []
        for part in pixels.split(rows):
            with self.autocast():
                parts.append(apply(self.to_device(part)).float())
        return torch.cat(parts)


@dataclass
class _Task:
    """One fit: network, data and settings together."""

    glance: _Glance
    train: Labeled
    validation: Labeled
    settings: TrainingSettings
    warm: bool
    report: Callable[[str], None]

    def __post_init__(self) -> None:
        self.network, self.device, self.half = self.glance.network, self.glance.device, self.glance.half
        classes = self.network.head.out_features
        self.class_weights = _class_weights(self.train.targets, classes).to(self.device)
        self.judges = len(self.validation) >= MIN_VALIDATION
        self.epochs = self.settings.epochs_from(warm=self.warm)
        self.told = time.monotonic()

    def fit_all(self) -> tuple[dict[str, Any], float]:
        """Every weight, by gradient descent; how it went, and the temperature."""
        settings = self.settings
        begun_with = self._head_first() if settings.begins_with_head(len(self.train), warm=self.warm) else None
        batch = min(settings.batch_size, len(self.train))
        steps = max(MIN_STEPS, math.ceil(len(self.train) / batch))
        rate = settings.learning_rate_from(warm=self.warm)
        optimizer = _optimizer(self.network, rate, settings.weight_decay)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, warm_up_and_cosine(self.epochs * steps))
        scaler = torch.amp.GradScaler(self.device.type, enabled=self.half is torch.float16)
        generator = torch.Generator().manual_seed(settings.seed)
        batches = _batches(len(self.train), batch, generator)
        losses: list[float] = []
        stopping = EarlyStopping(self.network, settings.patience, self.epochs // 2)
        for epoch in range(self.epochs):
            self.network.train()
            total = torch.zeros((), device=self.device)
            for _ in range(steps):
                rows = next(batches)
                pixels = augment(self.train.pixels[rows], settings.augment, generator, share=settings.shift)
                images, targets = self.glance.to_device(pixels), self.train.targets[rows].to(self.device)
                with self.glance.autocast():
                    logits = self.network(images)
                loss = functional.cross_entropy(
                    logits.float(), targets, self.class_weights, label_smoothing=settings.label_smoothing
                )
                optimizer.zero_grad(set_to_none=True)
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
                scheduler.step()
                total += loss.detach()
            losses.append(total.item() / steps)
            if not math.isfinite(losses[-1]):
                raise InvalidInput(
                    f"training diverged in epoch {epoch + 1} (loss {losses[-1]}); "
                    f"lower training.{'incremental_' if self.warm else ''}learning_rate, now {rate:g}"
                )
            stop = self.judges and stopping.watch(self._validation_losses())
            self._tell(epoch, losses, stopping.mean_losses)
            if stop:
                break
        history = {
            "epochs": len(losses),
            "best_epoch": stopping.settle() if self.judges else len(losses),
            "steps_per_epoch": steps,
            "train_loss": [round(loss, 5) for loss in losses],
            "validation_loss": [round(loss, 5) for loss in stopping.mean_losses],
            "precision": str(self.half or torch.float32).removeprefix("torch."),
            "head_first": begun_with,
        }
        return history, self._temperature()

    def fit_head(self, unlabeled: Callable[[str, int], np.ndarray] | None = None) -> tuple[dict[str, Any], float]:
        """The head only, on embeddings; how it went, and the temperature.

        `unlabeled` gives embeddings of images without a label, as `TrainingRequest` has it; asked while labels are few.
        """
        assert self.train.embeddings is not None
        more = None
        if unlabeled is not None and len(self.train) <= TAUGHT_UP_TO:
            found_more = unlabeled(encoder_hash(self.network, self.glance.preprocessing), MOST_UNLABELED)
            more = torch.from_numpy(found_more).to(self.device) if len(found_more) else None
        found = fit_linear_head(
            self.train.embeddings.to(self.device),
            self.train.targets.to(self.device),
            self.class_weights,
            seed=self.settings.seed,
            unlabeled=more,
        )
        self._set_head(found.weight, found.bias)
        history = {
            "epochs": found.evaluations,
            "train_loss": [round(found.loss, 5)],
            "precision": "float32",
            "weight_decay": found.weight_decay,
            "weight_decays": found.tried,
            "out_of_fold": None if found.out_of_fold is None else asdict(found.out_of_fold),
            "unlabeled_images": found.taught_by,
            "self_taught_loss": found.taught_loss,
        }
        self._tell_of_head(found)
        return history, found.temperature

    def _head_first(self) -> dict[str, Any]:
        """Give the network the head that suits its embeddings, as sure as it may be; how that was found.

        A head drawn at random pulls the encoder about before it points anywhere (LP-FT, Kumar et al. 2022). Measured on
        EfficientNet-Lite0 and CIFAR-10 at 64 pixels, 8 epochs, accuracy without and with it: 60 labels .307 -> .348,
        300 labels .536 -> .585 (3 seeds, each better).
        """
        embeddings = self.glance.in_chunks(self.network.embed, self.train.pixels)
        found = fit_linear_head(
            embeddings, self.train.targets.to(self.device), self.class_weights, seed=self.settings.seed
        )
        self._set_head(found.weight / found.temperature, found.bias / found.temperature)
        self._tell_of_head(found)
        return {
            "weight_decay": found.weight_decay,
            "out_of_fold": None if found.out_of_fold is None else asdict(found.out_of_fold),
        }

    def _set_head(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        with torch.no_grad():
            self.network.head.weight.copy_(weight)
            self.network.head.bias.copy_(bias)

    def _tell_of_head(self, found: LinearHead) -> None:
        if found.out_of_fold is None:
            return
        told = found.out_of_fold
        self.report(
            f"head on {told.labels} labels: weight decay {found.weight_decay:.3g}; out of fold accuracy "
            f"{told.accuracy:.3f}, calibration error {told.ece:.3f}"
            + (f"; taught by its answers to {found.taught_by} images without a label" if found.taught_by else "")
        )

    def _temperature(self) -> float:
        """What the logits are divided by before the softmax; 1 without a validation image."""
        if not len(self.validation):
            return 1.0
        return fit_temperature(self._logits(self.validation), self.validation.targets.to(self.device))

    def _logits(self, images: Labeled) -> torch.Tensor:
        return self.glance.in_chunks(self.network, images.pixels)

    def _validation_losses(self) -> torch.Tensor:
        """Of each validation image, (V,)."""
        targets = self.validation.targets.to(self.device)
        return functional.cross_entropy(self._logits(self.validation), targets, reduction="none")

    def _tell(self, epoch: int, losses: Sequence[float], validation_losses: Sequence[float]) -> None:
        every = max(1, self.epochs // 5)
        silent = time.monotonic() - self.told
        if (epoch + 1) % every == 0 or silent > LONGEST_SILENCE:
            self.told = time.monotonic()
            validated = f", validation {validation_losses[-1]:.3f}" if validation_losses else ""
            self.report(f"epoch {epoch + 1}/{self.epochs}: loss {losses[-1]:.3f}{validated}")


def augment(pixels: torch.Tensor, kind: str, generator: torch.Generator, *, share: float) -> torch.Tensor:
    """A randomly changed copy of a batch (N, channels, size, size): each image moved by up to `share` of its
    size, but a pixel at least (edges repeated), and for `shift_flip` mirrored half of the time. All images in one
    indexing step.
    """
    if kind == "none":
        return pixels
    count, _, height, width = pixels.shape
    most = max(1, round(share * height))
    moves = torch.randint(-most, most + 1, (2, count, 1), generator=generator)
    rows = (torch.arange(height) + moves[0]).clamp_(0, height - 1)  # (N, height)
    columns = (torch.arange(width) + moves[1]).clamp_(0, width - 1)  # (N, width)
    if kind == "shift_flip":
        mirrored = torch.rand(count, 1, generator=generator) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    images = torch.arange(count)[:, None, None]
    return pixels[images, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def shrink_and_perturb(network: nn.Module, fresh: nn.Module, shrink: float, perturb: float) -> None:
    """Multiply the weights by `shrink` and add `perturb` times those of `fresh`, in place (Ash & Adams 2020)."""
    with torch.no_grad():
        for old, new in zip(network.parameters(), fresh.parameters(), strict=True):
            old.mul_(shrink).add_(new, alpha=perturb)


def _check(request: TrainingRequest) -> None:
    if not request.train:
        raise InvalidInput("there is no training image; label some first")
    unknown = {image.label for image in (*request.train, *request.validation)} - set(request.classes)
    if unknown:
        raise InvalidInput(f"label(s) {sorted(unknown)} are not among the classes {list(request.classes)}")
    shared = {image.image_id for image in request.train} & {image.image_id for image in request.validation}
    if shared:
        raise InvalidInput(f"{len(shared)} image(s) are both in train and in validation, like {min(shared)}")


def _check_decoded(train: Labeled, request: TrainingRequest, skipped: dict[str, str]) -> None:
    if not len(train):
        reason = next(iter(skipped.values()))
        raise InvalidInput(f"none of the {len(request.train)} training images can be read; the first: {reason}")
    present = train.targets.unique().tolist()
    if len(present) < 2:
        raise InvalidInput(
            f"all {len(train)} training images are labeled {request.classes[present[0]]!r}; "
            "a classifier needs at least two classes: label more images"
        )


def _usable_parent(request: TrainingRequest, preprocessing: Preprocessing) -> tuple[ModelManifest | None, str | None]:
    """The parent's manifest where training can go on from it, else why not."""
    if request.parent is None:
        return None, "there is no parent"
    if not request.settings.warm_start:
        return None, "training.warm_start is off"
    parent = read_manifest(request.parent)
    if parent.architecture != request.settings.architecture:
        return (
            None,
            f"v{parent.version} is a {parent.architecture}, the settings ask for {request.settings.architecture}",
        )
    if parent.preprocessing != preprocessing:
        return (
            None,
            f"v{parent.version} was trained on {_in_words(parent.preprocessing)} images, "
            f"now {_in_words(preprocessing)}",
        )
    if (reason := _other_weights(parent, request.settings)) is not None:
        return None, reason
    if parent.classes != request.classes[: len(parent.classes)]:
        raise InvalidInput(
            f"the classes {list(request.classes)} do not begin with those of v{parent.version}, "
            f"{list(parent.classes)}; the rows of its head would change their meaning"
        )
    return parent, None


def _preprocessing(request: TrainingRequest) -> Preprocessing:
    """The model's input. A parent of the same encoder knows it: nobody has to be asked, a connection is not needed."""
    settings = request.settings
    if request.parent is not None and settings.warm_start:
        parent = read_manifest(request.parent)
        found = parent.preprocessing
        if (
            parent.encoder is not None
            and parent.encoder.configuration
            and parent.architecture == settings.architecture
            and settings.image_size in (None, found.size)
            and settings.crop in (None, found.crop)
            and settings.channels == found.channels
        ):
            return found
    return preprocessing_for(
        settings.architecture,
        size=settings.image_size,
        channels=settings.channels,
        weights=settings.initial_weights,
        crop=settings.crop,
    )


def _other_weights(parent: ModelManifest, settings: TrainingSettings) -> str | None:
    """Why the encoder has to begin anew: other weights are asked for than the parent began with."""
    said = parent.training_settings.get("weights")
    began = said and resolve_weights(parent.architecture, said)
    if settings.initial_weights == "none" or began in (None, settings.initial_weights):
        return None
    return f"v{parent.version} began with the weights {began}, the settings ask for {settings.initial_weights}"


def _in_words(preprocessing: Preprocessing) -> str:
    colour = "grey" if preprocessing.channels == 1 else "colour"
    return f"{preprocessing.size}x{preprocessing.size} {colour} (mean {preprocessing.mean}, std {preprocessing.std})"


def _starting_network(
    request: TrainingRequest, preprocessing: Preprocessing, parent: ModelManifest | None
) -> Classifier:
    settings = request.settings
    # a frozen encoder stays as it is, and its head is solved to the end from anywhere
    blends = not settings.frozen and (settings.shrink != 1 or settings.perturb > 0)
    fresh = build_network(
        settings.architecture,
        classes=len(request.classes),
        size=preprocessing.size,
        channels=preprocessing.channels,
        weights=settings.initial_weights if parent is None or (blends and settings.perturb) else "none",
        configuration=parent.encoder.configuration if parent is not None and parent.encoder is not None else None,
    )
    if parent is not None and parent.encoder is not None:
        fresh.record = parent.encoder  # its tensors are the parent's, wherever those came from
    if parent is None or request.parent is None:
        return fresh
    network = copy.deepcopy(fresh) if blends else fresh
    state = dict(load_weights(request.parent, parent))
    known = len(parent.classes)
    for name in ("head.weight", "head.bias"):
        if name in state:
            state[name] = torch.cat([state[name], fresh.state_dict()[name][known:]])
    load_state(network, state, str(request.parent / WEIGHTS_FILE))
    if blends:
        shrink_and_perturb(network, fresh, settings.shrink, settings.perturb)
    return network


def _joined(*parts: Labeled) -> Labeled:
    """The embeddings of all of them, with their targets."""
    rows = [part.embeddings for part in parts if part.embeddings is not None]
    return Labeled(parts[0].pixels, torch.cat([part.targets for part in parts]), torch.cat(rows))


def _read_embedded(
    images: Sequence[LabeledImage], request: TrainingRequest, glance: _Glance, report: Callable[[str], None]
) -> tuple[Labeled, dict[str, str]]:
    """The embeddings of all images, in chunks whose pixels are gone afterwards, and why some are missing.

    Where they are new to the encoder, because another one was chosen say, it says how long they will take.
    """
    position = {label: i for i, label in enumerate(request.classes)}
    rows = [torch.empty(0, glance.network.head.in_features)]
    labels: list[int] = []
    skipped: dict[str, str] = {}

    def embed(pixels: torch.Tensor) -> np.ndarray:
        return glance.in_chunks(glance.network.embed, pixels).cpu().numpy()

    encoder = encoder_hash(glance.network, glance.preprocessing) if request.known is not None else ""
    label_of = {image.image_id: position[image.label] for image in images}
    chunks = embedded_chunks(images, request.read_image, glance.preprocessing, embed, encoder, request.known)
    began = told = time.monotonic()
    for chunk in chunks:
        skipped |= chunk.skipped
        done = len(labels) + len(chunk.image_ids) + len(skipped)
        if done and time.monotonic() - told > TELL_AFTER:
            told = time.monotonic()
            report(f"{done:,} of {len(images):,} embedded, {(told - began) / done * (len(images) - done):.0f} s left")
        if chunk.image_ids:
            rows.append(torch.from_numpy(chunk.embeddings))
            labels += [label_of[image_id] for image_id in chunk.image_ids]
    nothing = torch.empty(0, dtype=torch.uint8)
    return Labeled(nothing, torch.tensor(labels, dtype=torch.int64), torch.cat(rows)), skipped


def _read(
    images: Sequence[LabeledImage], request: TrainingRequest, preprocessing: Preprocessing, scratch: Path
) -> tuple[Labeled, dict[str, str]]:
    """All images decoded once, and why some of them are missing."""
    position = {label: i for i, label in enumerate(request.classes)}
    pixels = _pixel_memory((len(images), preprocessing.channels, preprocessing.size, preprocessing.size), scratch)
    labels: list[int] = []
    skipped: dict[str, str] = {}
    for chunk in read_in_chunks(images, request.read_image, preprocessing):
        pixels[len(labels) : len(labels) + len(chunk.positions)] = chunk.pixels
        labels += [position[images[row].label] for row in chunk.positions]
        skipped |= chunk.skipped
    return Labeled(pixels[: len(labels)], torch.tensor(labels, dtype=torch.int64)), skipped


def _pixel_memory(shape: tuple[int, ...], scratch: Path) -> torch.Tensor:
    """Room for decoded images: in memory or, where they are too many, in a scratch file."""
    if math.prod(shape) <= MAX_IN_MEMORY:
        return torch.empty(shape, dtype=torch.uint8)
    with tempfile.NamedTemporaryFile(dir=scratch, delete=False) as file:
        return torch.from_numpy(np.memmap(file.name, np.uint8, "w+", shape=shape))


def _class_weights(targets: torch.Tensor, classes: int) -> torch.Tensor:
    """1/sqrt(share) per class, one on average over the images; classes without an image weigh one."""
    counts = torch.bincount(targets, minlength=classes).float()
    weights = counts.clamp(min=1).rsqrt()
    weights = weights * counts.sum() / (weights * counts).sum()
    return torch.where(counts > 0, weights, 1.0)


def _optimizer(network: nn.Module, rate: float, weight_decay: float) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019); norms and biases are not decayed."""
    decayed = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=rate, fused=True)


def warm_up_and_cosine(steps: int) -> Callable[[int], float]:
    """The learning rate's factor at each step: a linear rise over `WARM_UP`, then half a cosine to zero."""
    warm_up = max(1, round(WARM_UP * steps))

    def factor(step: int) -> float:
        if step < warm_up:
            return (step + 1) / warm_up
        return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))

    return factor


def _batches(count: int, batch: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """Endless batches of row numbers, all of the same size: every image once before any comes again."""
    rest = torch.empty(0, dtype=torch.int64)
    while True:
        while len(rest) < batch:
            rest = torch.cat([rest, torch.randperm(count, generator=generator)])
        yield rest[:batch]
        rest = rest[batch:]


@contextmanager
def _reproducible(seed: int) -> Iterator[None]:
    """The seed decides inside; torch's global state is as it was outside."""
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        cudnn.deterministic, cudnn.benchmark = True, False
        try:
            yield
        finally:
            cudnn.deterministic, cudnn.benchmark = before
