"""Labeling: candidates are staged for people, people release exports, exports become labels."""

from __future__ import annotations

from typing import Protocol

from pydantic import BaseModel, ConfigDict


class StagedImage(BaseModel):
    """One image of a staged round, as the manifest names it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    image_id: str
    file_name: str  # within the round's folder
    image_uri: str
    reason: str
    rank: int


class LabelingStatus(BaseModel):
    """How far people have come with a round."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    total: int
    labeled: int
    skipped: int = 0


class LabelingProject(Protocol):
    """What every labeling tool can do. Staging and exports are files in the blob store, the same for all."""

    def announce(self, round_: int) -> None:
        """Tell the tool that a round was staged under `labeling/input/<round>/`."""

    def status(self, round_: int) -> LabelingStatus:
        """Progress of one round."""
