"""What AutoML for images trained, as a checkpoint of this platform: a job of seconds, where torch is at hand.

    python -m al_resources.training.automl_job --request FILE --trained DIR --output DIR --messages DIR

AutoML leaves `model.pt`: a dictionary with `model_name`, `specs` (the labels, in its order) and `model_state`, the
tensors of a torchvision network under torchvision's names. It is read as data: nothing in it is run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from al_core.errors import InvalidInput
from al_core.learning.checkpoint import WEIGHTS_FILE, save_weights
from al_core.learning.contract import TrainingResult
from al_core.learning.settings import SMALL_SIZE
from al_resources.training.job import RemoteRequest, run

if TYPE_CHECKING:
    import torch

TRAINED_FILE = "model.pt"
# architecture here -> its name there, and torchvision's name of its head
NETWORKS = {
    "resnet18": ("resnet18", "fc"),
    "resnet34": ("resnet34", "fc"),
    "resnet50": ("resnet50", "fc"),
    "resnet101": ("resnet101", "fc"),
    "resnet152": ("resnet152", "fc"),
    "mobilenet_v2": ("mobilenetv2", "classifier.1"),
}
NEVER = -30.0  # bias of a class that AutoML was shown no image of


def convert(given: argparse.Namespace, request: RemoteRequest, report: Callable[[str], None]) -> TrainingResult:
    """Write AutoML's network as safetensors, its classes in our order.

    Raises:
        ValueError: it is another network than was asked for, or its tensors do not fit.
    """
    import torch

    from al_core.learning.networks import build_network, load_state, preprocessing_for

    settings, file = request.settings, given.trained / TRAINED_FILE
    trained = torch.load(file, map_location="cpu", weights_only=True)
    name, head = NETWORKS[settings.architecture]
    if trained["model_name"] != name:
        raise InvalidInput(f"{file} holds a {trained['model_name']}; expected {name} for {settings.architecture}")
    size, channels = settings.image_size or SMALL_SIZE, settings.channels
    network = build_network(settings.architecture, classes=len(request.classes), size=size, channels=channels)
    labels = [str(label) for label in trained["specs"]["labels"]]
    load_state(network, renamed(trained["model_state"], head, labels, request.classes), str(file))
    report(f"{name} with {len(labels)} classes taken over from AutoML")
    weights = given.output / WEIGHTS_FILE
    save_weights(network, weights)
    log: dict[str, Any] = {"trainer": "AutoML", "unseen_classes": sorted(set(request.classes) - set(labels))}
    preprocessing = preprocessing_for(settings.architecture, size=size, channels=channels)
    return TrainingResult(
        weights, settings.architecture, request.classes, preprocessing, 1.0, log, encoder=network.record
    )


def renamed(
    state: Mapping[str, torch.Tensor], head: str, labels: Sequence[str], classes: Sequence[str]
) -> dict[str, torch.Tensor]:
    """torchvision's tensors under our names; the head's rows, (labels, d), in the order of `classes`."""
    import torch

    strangers = set(labels) - set(classes)
    if strangers:
        raise InvalidInput(f"AutoML was trained on {sorted(strangers)}, not among the classes {list(classes)}")
    weight, bias = state[f"{head}.weight"], state[f"{head}.bias"]
    rows, biases = weight.new_zeros(len(classes), weight.shape[1]), bias.new_full((len(classes),), NEVER)
    positions = torch.tensor([list(classes).index(label) for label in labels])
    rows[positions], biases[positions] = weight, bias
    encoder = {f"encoder.{name}": value for name, value in state.items() if not name.startswith(f"{head}.")}
    return {**encoder, "head.weight": rows, "head.bias": biases}


def main(arguments: list[str] | None = None) -> int:
    """Entry point of the job."""
    return run(convert, arguments, needed=("trained",))


if __name__ == "__main__":
    sys.exit(main())
