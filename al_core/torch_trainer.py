"""The name that `training.trainer` of older settings gives; the trainer lives in `al_core.learning.torch_trainer`."""

from al_core.learning.torch_trainer import TorchTrainer

__all__ = ["TorchTrainer"]
