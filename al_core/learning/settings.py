"""How a model is trained: settings only, free of torch, so that Dagster can load them."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

SMALL_CNN = "small_cnn"
SMALL_SIZE = 32  # pixels, of networks that start from nothing


class TrainingSettings(BaseModel):
    """How a model is trained: the same for every query strategy, or comparing strategies means nothing."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    trainer: str = Field(
        "al_core.learning.torch_trainer:TorchTrainer", description="dotted path `module:attribute` of the trainer"
    )
    architecture: str = Field(
        SMALL_CNN,
        description="small_cnn; a torchvision classifier: resnet18, vit_b_16, ...; timm:NAME; hf:ORG/NAME or "
        "hf:FOLDER; open_clip:NAME/TAG; see `al encoders`",
    )
    weights: str = Field(
        "auto",
        description="of the encoder at the start: none, default (the published ones), or a local file; auto is "
        "default for timm, hf and open_clip, and none for the others",
    )
    frozen: bool = Field(False, description="train the head only, the encoder stays as it is")
    image_size: int | None = Field(
        None,
        ge=8,
        le=1024,
        description="images are resized to this many pixels square; by default what the published weights were "
        f"trained on, {SMALL_SIZE} for networks that start from nothing",
    )
    crop: float | None = Field(
        None,
        gt=0,
        le=1,
        description="the share of a picture's shorter side that the model sees, around its middle; by default what the "
        "published weights were validated on (1, or about .9); 1 where what matters may lie at the border",
    )
    channels: Literal[1, 3] = Field(3, description="1 for grey images, 3 for colour")
    epochs: int = Field(30, ge=1, description="at most this many passes over the labels")
    incremental_epochs: int | None = Field(
        None, ge=1, description="of a model that goes on from the champion; by default as many as from the start"
    )
    patience: int = Field(
        10,
        ge=1,
        description="stop after this many epochs whose validation loss is clearly above the best, in the second half",
    )
    batch_size: int = Field(32, ge=2, description="images per step")
    learning_rate: float = Field(
        5e-3,
        gt=0,
        description="of a model trained from the start; downloaded weights want less: 1e-3, transformers 1e-4",
    )
    incremental_learning_rate: float = Field(2e-3, gt=0, description="of a model that goes on from the champion")
    weight_decay: float = Field(1e-2, ge=0, description="of AdamW; the head of a frozen encoder finds its own")
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="share of the target spread over all classes; not of a frozen encoder's head"
    )
    head_first: int = Field(
        50,
        ge=0,
        description="from so many labels on, fine-tuning published weights begins with the head that is found on their "
        "embeddings instead of one drawn at random (LP-FT); 0: never",
    )
    augment: Literal["none", "shift", "shift_flip"] = Field(
        "shift", description="random moves and mirror images while training"
    )
    shift: float = Field(
        1 / 16, gt=0, le=0.5, description="how far random moves go, as a share of the size; a pixel at least"
    )
    warm_start: bool = Field(
        True, description="go on from the champion's weights; false trains from the start each round"
    )
    shrink: float = Field(
        1.0, gt=0, le=1, description="shrink-and-perturb: the champion's weights are multiplied by this first"
    )
    perturb: float = Field(
        0.0, ge=0, description="shrink-and-perturb: this share of freshly initialised weights is added"
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto takes the GPU where there is one")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="of the layers: auto is half precision on a GPU and float32 on a CPU; bfloat16 is twice as fast "
        "on CPUs that multiply it (AVX512-BF16, AMX), for images in colour",
    )
    seed: int = Field(0, ge=0, description="of initialisation, order and augmentation")

    @property
    def initial_weights(self) -> str:
        """`weights` with auto resolved: none, default or a local file."""
        return resolve_weights(self.architecture, self.weights)

    def epochs_from(self, *, warm: bool) -> int:
        """At most this many passes over the labels, of a model that goes on (`warm`) or starts anew."""
        return self.incremental_epochs if warm and self.incremental_epochs else self.epochs

    def begins_with_head(self, labels: int, *, warm: bool) -> bool:
        """Whether a network that is trained whole first gets the head that suits its embeddings."""
        learned = not self.frozen and not warm and self.initial_weights != "none"
        return learned and 0 < self.head_first <= labels

    def learning_rate_from(self, *, warm: bool) -> float:
        """The highest learning rate, of a model that goes on (`warm`) or starts anew."""
        return self.incremental_learning_rate if warm else self.learning_rate


def resolve_weights(architecture: str, weights: str) -> str:
    """What auto stands for: the published weights where an encoder is known by them, otherwise none."""
    if weights != "auto":
        return weights
    return "default" if ":" in architecture else "none"  # FAMILY:NAME is published, with weights
