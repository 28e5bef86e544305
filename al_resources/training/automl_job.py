"""What AutoML for images trained, as a checkpoint of this platform: a job of seconds, where torch is at hand.

    python -m al_resources.training.automl_job --request FILE --trained DIR --output DIR --messages DIR

What AutoML leaves is described in `automl_model`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

from al_core.errors import InvalidInput
from al_core.learning.checkpoint import WEIGHTS_FILE, save_weights
from al_core.learning.contract import TrainingResult
from al_core.learning.settings import SMALL_SIZE
from al_resources.training.automl_model import NETWORKS, read_model, renamed
from al_resources.training.job import RemoteRequest, run

TRAINED_FILE = "model.pt"


def convert(given: argparse.Namespace, request: RemoteRequest, report: Callable[[str], None]) -> TrainingResult:
    """Write AutoML's network as safetensors, its classes in our order.

    Raises:
        ValueError: it is another network than was asked for, or its tensors do not fit.
    """
    from al_core.learning.networks import build_network, load_state, preprocessing_for

    settings, file = request.settings, given.trained / TRAINED_FILE
    trained, theirs = read_model(file), NETWORKS[settings.architecture]
    if trained["model_name"] != theirs.name:
        raise InvalidInput(
            f"{file} holds a {trained['model_name']}; expected {theirs.name} for {settings.architecture}"
        )
    size, channels = settings.image_size or SMALL_SIZE, settings.channels
    network = build_network(settings.architecture, classes=len(request.classes), size=size, channels=channels)
    labels = [str(label) for label in trained["specs"]["labels"]]
    load_state(network, renamed(trained["model_state"], theirs, labels, request.classes), str(file))
    report(f"{theirs.name} with {len(labels)} classes taken over from AutoML")
    weights = given.output / WEIGHTS_FILE
    save_weights(network, weights)
    log: dict[str, Any] = {"trainer": "AutoML", "unseen_classes": sorted(set(request.classes) - set(labels))}
    preprocessing = preprocessing_for(settings.architecture, size=size, channels=channels)
    return TrainingResult(
        weights, settings.architecture, request.classes, preprocessing, 1.0, log, encoder=network.record
    )


def main(arguments: list[str] | None = None) -> int:
    """Entry point of the job."""
    return run(convert, arguments, needed=("trained",))


if __name__ == "__main__":
    sys.exit(main())
