"""What differs between numpy arrays and torch tensors, so that the algorithms above need not know."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import numpy as np

from al_core.errors import InvalidInput

Array = Any  # a numpy array or a torch tensor; the functions and operators used on it are named alike in both


def namespace(array: Array) -> ModuleType:
    """The library an array belongs to: numpy or torch (which is not imported for this)."""
    torch = sys.modules.get("torch")
    return torch if torch is not None and isinstance(array, torch.Tensor) else np


def float32(array: Array) -> Array:
    """The same values as float32, on the same device; no copy where they are already."""
    return np.asarray(array, np.float32) if namespace(array) is np else array.float()


def to_numpy(array: Array) -> np.ndarray:
    """The same values in the memory of the processor."""
    return np.asarray(array) if namespace(array) is np else array.detach().cpu().numpy()


def to_device(array: np.ndarray, device: str) -> Array:
    """The array as it is for "cpu", else as a torch tensor on that device ("cuda"); "auto": a GPU where there is one.

    Raises:
        InvalidInput: "cuda" is asked for and there is no GPU.
    """
    if device == "cpu":
        return array
    import torch

    if device == "auto":
        return torch.tensor(array, device="cuda") if torch.cuda.is_available() else array
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise InvalidInput(f'selection.device is "{device}", but torch sees no GPU; set it to "auto" or "cpu"')
    return torch.tensor(array, device=device)


def like(array: Array, values: Any, dtype: str = "float32") -> Array:
    """`values` as an array of the kind and on the device of another one."""
    xp = namespace(array)
    if xp is np:
        return np.asarray(values, dtype)
    return xp.as_tensor(values, dtype=getattr(xp, dtype), device=array.device)


def full(array: Array, size: int, value: float) -> Array:
    """(size,) float32 filled with `value`, of the kind and on the device of `array`."""
    xp = namespace(array)
    if xp is np:
        return np.full(size, value, np.float32)
    return xp.full((size,), value, dtype=xp.float32, device=array.device)


def largest(array: Array, count: int) -> Array:
    """Positions of the `count` largest values, in no particular order."""
    xp = namespace(array)
    if xp is np:
        return np.argpartition(array, len(array) - count)[len(array) - count :]
    return xp.topk(array, count, sorted=False).indices


def unit_length(rows: Array) -> Array:
    """Rows divided by their length; rows of zeros stay zeros."""
    xp = namespace(rows)
    lengths = xp.sqrt(xp.einsum("nd,nd->n", rows, rows))[:, None]
    return rows / xp.where(lengths > 0, lengths, like(rows, 1.0))
