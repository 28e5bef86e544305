"""The people of a simulation: they know the truth, err, hesitate and cost time, as the settings say.

What an annotator answers to an image depends on the two and the seed alone, never on when it is asked: in a
paired comparison every strategy meets the same people.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from al_core.learning.contract import LabeledImage
from al_core.records import LABELS, table_of
from simulation.datasets import BadData

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)  # labels are dated by round: a simulation has no clock


class OracleSettings(BaseModel):
    """How good, how many, how willing and how fast the annotators are."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    noise: float = Field(0.0, ge=0, lt=1, description="share of answers that name another class, drawn uniformly")
    class_noise: dict[str, Annotated[float, Field(ge=0, lt=1)]] = Field(
        {}, description="the same for single classes, like {'cat': 0.3}"
    )
    annotators: int = Field(1, ge=1, description="people who answer every image; the majority counts")
    abstention: float = Field(0.0, ge=0, lt=1, description="share of answers that are 'unsure': no label, same cost")
    seconds_per_label: float = Field(3.0, ge=0, description="median time of an answer; times are log-normal")
    class_seconds: dict[str, Annotated[float, Field(ge=0)]] = Field(
        {}, description="the same for single classes, like {'cat': 9}"
    )


class Oracle:
    """Answers for images of `classes`. Raises `BadData` where the settings name a class that is not there."""

    def __init__(self, settings: OracleSettings, classes: Sequence[str], seed: int) -> None:
        for setting in ("class_noise", "class_seconds"):
            if unknown := set(getattr(settings, setting)) - set(classes):
                raise BadData(f"{setting} names {sorted(unknown)}; the classes are {list(classes)}")
        self.settings = settings
        self.classes = tuple(classes)
        self.seed = seed

    def label(self, images: Sequence[LabeledImage], round_: int) -> tuple[pa.Table, float]:
        """Rows of `LABELS` for what was answered, and the seconds that all answers took."""
        rows, spent = [], 0.0
        for image in images:
            for annotator in range(self.settings.annotators):
                rng = self._rng(image.image_id, annotator)
                median = self.settings.class_seconds.get(image.label, self.settings.seconds_per_label)
                seconds = median * float(np.exp(0.5 * rng.standard_normal()))
                spent += seconds
                unsure, wrong, other = rng.random(3)
                if unsure < self.settings.abstention:
                    continue
                label = image.label
                if wrong < self.settings.class_noise.get(label, self.settings.noise):
                    others = [name for name in self.classes if name != label]
                    label = others[int(other * len(others))]
                rows.append(
                    {
                        "image_id": image.image_id,
                        "label": label,
                        "annotator": f"oracle-{annotator}",
                        "labeled_at": _EPOCH + timedelta(hours=round_),
                        "export_id": f"simulated-{round_}",
                        "round": round_,
                        "annotation_seconds": seconds,
                    }
                )
        return table_of(LABELS, rows), spent

    def _rng(self, image_id: str, annotator: int) -> np.random.Generator:
        digest = hashlib.blake2b(f"{self.seed}:{annotator}:{image_id}".encode(), digest_size=16).digest()
        return np.random.default_rng(int.from_bytes(digest, "big"))
