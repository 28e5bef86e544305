"""A trainer for the tests of jobs: starts at once, says that it does, and takes as long as it is told to."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

from al_core.learning.contract import TrainingRequest, TrainingResult
from al_core.records import Preprocessing


class SlowTrainer:
    """Trains for `settings.epochs` tenths of a second; what it leaves is no network."""

    def fit(self, request: TrainingRequest, report: Callable[[str], None]) -> TrainingResult:
        report("training begins")
        time.sleep(request.settings.epochs / 10)
        weights = request.output / "model.safetensors"
        weights.write_text(json.dumps([image.image_id for image in request.train]))
        preprocessing = Preprocessing(size=8, channels=1, mean=(0.5,), std=(0.25,))
        return TrainingResult(weights, "none", request.classes, preprocessing, 1.0, {"images": len(request.train)})
