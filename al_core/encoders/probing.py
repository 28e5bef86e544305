"""What a network makes of a picture, found out by showing it one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from al_core.encoders.contract import NoEncoder

if TYPE_CHECKING:
    from torch import nn


def embedding_width(module: nn.Module, size: int) -> int:
    """The width of the embeddings, from one black picture of `size` pixels.

    Raises:
        NoEncoder: what comes out is no vector a picture.
        RuntimeError, AssertionError, ValueError: the network takes no picture of that size.
    """
    import torch

    before = module.training
    module.eval()
    try:
        with torch.inference_mode():
            found = module(torch.zeros(1, 3, size, size))
    finally:
        module.train(before)
    if not isinstance(found, torch.Tensor) or found.ndim != 2 or len(found) != 1:
        shape = tuple(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
        raise NoEncoder(f"{type(module).__name__} answers {shape} for one picture; expected one vector, (1, width)")
    return int(found.shape[1])
