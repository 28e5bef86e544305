"""What kinds of data want of the training, and known protocols."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from simulation.study import Start

Encoder = Literal["from scratch", "learned", "frozen"]

# data -> what its images want; anything can be overridden by --train
DATA_DEFAULTS: dict[str, dict[str, Any]] = {
    "digits": {"image_size": 16, "channels": 1, "epochs": 15, "incremental_epochs": 10, "augment": "shift"},
    "cifar10": {
        "image_size": 32,
        "channels": 3,
        "epochs": 50,
        "incremental_epochs": 5,
        "augment": "shift_flip",
        "label_smoothing": 0.1,
    },
    "imagefolder": {"image_size": 64, "channels": 3, "epochs": 20, "augment": "shift_flip"},
    "torchvision": {"image_size": 32, "channels": 3, "epochs": 20, "augment": "shift_flip"},
}
# Of a network that starts from nothing. Going on from memorised labels costs it what it could have learned, which
# shrink-and-perturb mends where there are steps enough (1 700 labels of CIFAR-10 at 24x24: .563, with these .625).
FROM_SCRATCH: dict[str, dict[str, Any]] = {"cifar10": {"incremental_epochs": 10, "shift": 1 / 8}}
FROM_SCRATCH_START: dict[str, Start] = {"cifar10": "shrink"}
# Of an encoder that has learned something: large steps undo it (1 650 labels of CIFAR-10: .691, with 3e-3 .672).
LEARNED: dict[str, Any] = {"learning_rate": 1e-3, "incremental_learning_rate": 1e-3}
WHOLE_POOL = 1_000_000_000  # images; as many as there are
PRESETS: dict[str, dict[str, Any]] = {
    # Teaching Machine Learning System Efficiently with Active Learning: 30 rounds of 50 of 500 scored images
    "article": {
        "strategies": ("random", "least_confidence", "margin", "entropy"),
        "initial": 200,
        "rounds": 30,
        "budget": 50,
        "score_sample": 500,
    },
    # from the first labels on, the whole pool each round
    "few-labels": {
        "strategies": ("random", "auto"),
        "initial": 10,
        "rounds": 19,
        "budget": 10,
        "score_sample": WHOLE_POOL,
    },
    "large-batches": {
        "strategies": ("random", "auto"),
        "initial": 500,
        "rounds": 9,
        "budget": 500,
        "score_sample": WHOLE_POOL,
    },
    "digits": {
        "strategies": ("random", "least_confidence", "margin", "entropy"),
        "initial": 20,
        "rounds": 30,
        "budget": 10,
        "score_sample": 500,
        "seeds": 10,
    },
}


def training_defaults(data: str, encoder: Encoder = "from scratch", *, published: bool = False) -> dict[str, Any]:
    """What the images of `data` (as in `al simulate --data`) want of the training.

    A `published` encoder wants pictures of its own size, in colour.
    """
    kind = data.partition(":")[0]
    further = {"from scratch": FROM_SCRATCH.get(kind, {}), "learned": LEARNED, "frozen": {}}
    wanted = DATA_DEFAULTS.get(kind, {}) | further[encoder]
    return (
        {key: value for key, value in wanted.items() if key not in ("image_size", "channels")} if published else wanted
    )


def default_start(data: str, encoder: Encoder = "from scratch") -> Start:
    """How each round's training begins where nobody says so."""
    return FROM_SCRATCH_START.get(data.partition(":")[0], "warm") if encoder == "from scratch" else "warm"
