"""Which epoch's weights are kept: the last, unless the validation images clearly say otherwise."""

import pytest
import torch
from torch import nn

from al_core.learning.early_stopping import EarlyStopping, clearly_worse


@pytest.fixture
def network() -> nn.Linear:
    return nn.Linear(1, 1, bias=False)


def watch(stopping: EarlyStopping, network: nn.Linear, epochs: list[torch.Tensor]) -> int:
    """The epochs that were run; the weight is the number of the epoch."""
    for number, losses in enumerate(epochs, 1):
        nn.init.constant_(network.weight, number)
        if stopping.watch(losses):
            return number
    return len(epochs)


def noisy(level: float, seed: int) -> torch.Tensor:
    return level + torch.rand(30, generator=torch.Generator().manual_seed(seed))


def test_a_minimum_by_chance_is_not_kept(network):
    stopping = EarlyStopping(network, patience=3, begin=0)
    epochs = [noisy(0.3, seed) for seed in range(10)]  # one model, looked at ten times
    assert watch(stopping, network, epochs) == 10
    assert min(stopping.mean_losses) < stopping.mean_losses[-1]
    assert stopping.settle() == 10
    assert network.weight.item() == 10


def test_of_losses_that_rise_the_best_weights_come_back(network):
    stopping = EarlyStopping(network, patience=3, begin=0)
    epochs = [noisy(level, 0) for level in (0.5, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)]
    assert watch(stopping, network, epochs) == 5
    assert stopping.settle() == 2
    assert network.weight.item() == 2


def test_patience_counts_from_where_it_begins(network):
    stopping = EarlyStopping(network, patience=2, begin=4)
    epochs = [noisy(level, 0) for level in (0.1, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1)]
    assert watch(stopping, network, epochs) == 7
    assert stopping.settle() == 1


def test_an_epoch_that_recovers_starts_patience_anew(network):
    stopping = EarlyStopping(network, patience=2, begin=0)
    epochs = [noisy(level, 0) for level in (0.1, 0.5, 0.1, 0.5, 0.1)]
    assert watch(stopping, network, epochs) == 5
    assert stopping.settle() == 5


@pytest.mark.parametrize(
    ("added", "worse"),
    [
        pytest.param([0.0] * 30, False, id="the same losses"),
        pytest.param([0.1] * 30, True, id="a little on every image"),
        pytest.param([3.0] + [0.0] * 29, False, id="one image that went wrong"),
        pytest.param([0.1] * 15 + [-0.1] * 15, False, id="as many better as worse"),
        pytest.param([0.5] * 10 + [0.0] * 20, True, id="a third of the images"),
    ],
)
def test_worse_is_what_chance_does_not_explain(added, worse):
    best = noisy(0.2, 1)
    assert clearly_worse(best + torch.tensor(added), best) is worse
