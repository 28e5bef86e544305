"""When training stops, and which weights it keeps: decided by validation images that may be few."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import nn

SURE = 3.0  # standard errors by which an epoch is clearly worse; two would do, were the best not the least of many


@dataclass
class EarlyStopping:
    """Keeps the last weights, unless those of an earlier epoch are clearly better.

    The least of many noisy losses is no better a model: on thirty images the minimum falls on an epoch of the
    rising learning rate as often as not, and to keep its weights throws the rest of the schedule away (digits at
    320 labels: half a point to a whole one). So an epoch counts as worse than the best one only where the mean of
    the paired differences of the images' losses exceeds `SURE` of its standard errors, in the spirit of the
    one-standard-error rule (Breiman, Friedman, Olshen & Stone 1984, Classification and Regression Trees, 3.4.3).

    Args:
        network: Whose weights are kept.
        patience: Stop after so many epochs in a row that are clearly worse.
        begin: The epoch that patience counts from, at the earliest.
    """

    network: nn.Module
    patience: int
    begin: int
    mean_losses: list[float] = field(default_factory=list)  # per epoch
    _best: torch.Tensor | None = None
    _best_epoch: int = 0
    _best_weights: dict[str, torch.Tensor] = field(default_factory=dict)
    _held: int = 0  # the last epoch that was not clearly worse

    def watch(self, losses: torch.Tensor) -> bool:
        """Take note of an epoch by the losses of the validation images, (V,); whether to stop."""
        epoch = len(self.mean_losses)
        self.mean_losses.append(losses.mean().item())
        if self._best is None or self.mean_losses[-1] < self.mean_losses[self._best_epoch]:
            self._best, self._best_epoch = losses, epoch
            self._best_weights = {name: value.clone() for name, value in self.network.state_dict().items()}
        if not clearly_worse(losses, self._best):
            self._held = epoch
        return epoch - max(self._held, self.begin) >= self.patience

    def settle(self) -> int:
        """Put the weights to keep into the network; their epoch, counted from 1."""
        last = len(self.mean_losses)
        if self._held == last - 1:
            return last
        self.network.load_state_dict(self._best_weights)
        return self._best_epoch + 1


def clearly_worse(losses: torch.Tensor, best: torch.Tensor) -> bool:
    """Whether the losses of the same images, (V,), are above the best ones by more than chance."""
    differences = (losses - best).double()
    error = differences.std().item() / math.sqrt(len(differences))
    return differences.mean().item() > SURE * error
