"""Labeling: candidates are staged for people, people release exports, exports become labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict

from al_core.errors import ActiveLearningError


class StagedImage(BaseModel):
    """One image of a staged round, as the manifest names it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    image_id: str
    file_name: str  # within the round's folder
    image_uri: str
    reason: str
    rank: int


class LabelingStatus(BaseModel):
    """How far people have come: with a round, or with a whole project where the tool counts no rounds."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    total: int
    labeled: int
    skipped: int = 0
    project: str = ""  # the tool's project, where the numbers are of all its rounds together


class Prediction(NamedTuple):
    """What a model says of an image."""

    image_id: str
    label: str
    uncertainty: float  # in [0, 1]; 1 minus the margin


Predict = Callable[[Sequence[str]], Iterable[Prediction]]  # of these image ids, those that can be read


class LabelingError(ActiveLearningError):
    """The labeling tool cannot be asked or is set up so that it cannot work; the message says what helps."""


class LabelingProject(Protocol):
    """What every labeling tool can do. Staging and exports are files in the blob store, the same for all."""

    def announce(self, round_: int) -> None:
        """Tell the tool that a round was staged under `labeling/input/<round>/`. Raises `LabelingError`."""

    def status(self, round_: int) -> LabelingStatus:
        """Progress of one round. Raises `LabelingError`."""

    def collect(self) -> list[str]:
        """Bring what people released in the tool into the inbox, each once; returns the paths there.

        Called at every look for exports, so it must not wait for the tool. Raises `LabelingError`.
        """

    def refresh(self, version: int, predict: Predict) -> int:
        """Let what this version of the model says decide in which order open images are asked for.

        Returns for how many it was asked: 0 where the tool looks the predictions up itself. Raises `LabelingError`.
        """
