"""What kinds of data want of the training, and known protocols."""

from __future__ import annotations

from typing import Any

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
# Of an encoder that was learned on the pool: large steps undo what it has learned (1 650 labels of CIFAR-10: .691, with
# 3e-3 .672).
PRETRAINED: dict[str, Any] = {"learning_rate": 1e-3, "incremental_learning_rate": 1e-3}
PRESETS: dict[str, dict[str, Any]] = {
    # Teaching Machine Learning System Efficiently with Active Learning: 30 rounds of 50 of 500 scored images
    "article": {
        "strategies": ("random", "least_confidence", "margin", "entropy"),
        "initial": 200,
        "rounds": 30,
        "budget": 50,
        "score_sample": 500,
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
