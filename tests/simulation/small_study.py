"""A study small enough to run in a test: striped pictures in two or three classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from al_core.learning.settings import TrainingSettings
from simulation.study import Study

CLASSES = ("across", "down", "spots")


def write_images(root: Path, per_class: int = 40, classes: tuple[str, ...] = CLASSES, seed: int = 0) -> Path:
    """`root/<class>/<n>.png`, noisy 8x8 pictures."""
    rng = np.random.default_rng(seed)
    for name in classes:
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(per_class):
            pixels = rng.integers(0, 170, (8, 8))
            if name == "across":
                pixels[::2] += 80
            elif name == "down":
                pixels[:, ::2] += 80
            elif name == "spots":
                pixels[2:4, 2:4] += 80
                pixels[5:7, 4:6] += 80
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{number:03d}.png")
    return root


def small_study(root: Path, **changes: Any) -> Study:
    facts: dict[str, Any] = {
        "data": f"imagefolder:{root}",
        "strategies": ("random", "margin"),
        "seeds": 2,
        "rounds": 2,
        "budget": 4,
        "score_sample": 20,
        "initial": 8,
        "test_images": 30,
        "training": TrainingSettings(image_size=8, channels=1, epochs=2, device="cpu"),
    }
    return Study(**(facts | changes))
