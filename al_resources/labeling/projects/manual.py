"""Labeling by hand: people label the staged folder with any tool and put its export into the inbox."""

from __future__ import annotations

from typing import TYPE_CHECKING

from al_core.answers import answered, standing
from al_resources.labeling import LabelingStatus
from al_resources.labeling.staging import staged_images

if TYPE_CHECKING:
    from al_resources.blobs import BlobStore
    from al_resources.labeling import Predict
    from al_resources.ledgers import Ledgers


class ManualLabeling:
    """No tool to talk to: the folder is the announcement, the ledger is the progress."""

    def __init__(self, blobs: BlobStore, ledgers: Ledgers) -> None:
        self.blobs = blobs
        self.ledgers = ledgers

    def announce(self, round_: int) -> None:
        """Nothing to do: the staged folder is there."""

    def status(self, round_: int) -> LabelingStatus:
        """Labeled is what came back with a class, skipped what came back without."""
        staged = {image.image_id for image in staged_images(self.blobs, round_)}
        labels = self.ledgers.read("labels")
        labeled = staged & set(standing(labels)["image_id"])
        skipped = staged & set(answered(labels)) - labeled
        return LabelingStatus(total=len(staged), labeled=len(labeled), skipped=len(skipped))

    def collect(self) -> list[str]:
        """Nothing to do: people put exports into the inbox themselves."""
        return []

    def refresh(self, version: int, predict: Predict) -> int:
        """Nothing to do: there is no tool to tell."""
        return 0
