"""A GPU that is there and cannot be used: a machine that costs like one and is as slow as one without."""

from __future__ import annotations

import os
import re
from pathlib import Path

ROOT = Path("/")  # Linux lists its GPUs below dev and the driver below proc
HIDDEN = ("", "-1")  # values of CUDA_VISIBLE_DEVICES by which people say that no GPU is to be used


def unusable_gpu(device: str) -> str | None:
    """Why torch computes on the CPU of a machine that has an NVIDIA GPU; None where it does not, or was told to.

    `device` is `training.device`: with "cpu" nobody expects a GPU.
    """
    import torch

    if device == "cpu" or torch.cuda.is_available() or os.environ.get("CUDA_VISIBLE_DEVICES") in HIDDEN:
        return None
    there = sorted(each.name for each in (ROOT / "dev").glob("nvidia[0-9]*"))
    if not there:
        return None
    version = ROOT / "proc/driver/nvidia/version"
    found = re.search(r"\s(\d+(?:\.\d+)+)\s", version.read_text()) if version.is_file() else None
    built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
    driver = f"driver {found[1]}" if found else "a driver that does not tell its version"
    return f"this machine has a GPU ({', '.join(there)}, {driver}), but torch {torch.__version__}, {built}, sees none"
