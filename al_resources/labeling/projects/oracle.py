"""The oracle: known labels answer in place of people, through the same export that a person's tool would write."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from al_resources.labeling import LabelingStatus, StagedImage
from al_resources.labeling.inbox import INBOX
from al_resources.labeling.staging import is_staged, round_folder, staged_images

if TYPE_CHECKING:
    from al_resources.blobs import BlobStore
    from al_resources.labeling import Predict


class OracleLabeling:
    """A labeling project whose annotator knows the truth. `labels`: image id -> class."""

    def __init__(self, blobs: BlobStore, labels: Mapping[str, str]) -> None:
        self.blobs = blobs
        self.labels = labels

    @classmethod
    def from_file(cls, blobs: BlobStore, file: str | Path) -> OracleLabeling:
        """The labels of a JSON file {image id: class}. A missing file is an oracle that knows nothing yet."""
        path = Path(file)
        return cls(blobs, json.loads(path.read_bytes()) if path.is_file() else {})

    def announce(self, round_: int) -> None:
        """Nothing to do: the oracle looks for staged rounds by itself."""

    def status(self, round_: int) -> LabelingStatus:
        """Labeled is what was exported."""
        done = len(self._known(round_)) if self._answered(round_) else 0
        return LabelingStatus(total=len(staged_images(self.blobs, round_)), labeled=done)

    def collect(self) -> list[str]:
        """Nothing to do: the oracle writes into the inbox."""
        return []

    def refresh(self, version: int, predict: Predict) -> int:
        """Nothing to do: the oracle knows the truth."""
        return 0

    def answer(self, round_: int) -> str:
        """Export the labels of a staged round; returns the path. Images the oracle does not know stay open."""
        folder = round_folder(round_)
        known = self._known(round_)
        classes = sorted({self.labels[image.image_id] for image in known})
        numbers = {name: number for number, name in enumerate(classes, start=1)}
        content = {
            "images": [
                {
                    "id": number,
                    "file_name": f"{folder}/{image.file_name}",
                    "coco_url": f"AmlDatastore://images/{folder}/{image.file_name}",
                }
                for number, image in enumerate(known, start=1)
            ],
            "annotations": [
                {
                    "id": number,
                    "image_id": number,
                    "category_id": numbers[self.labels[image.image_id]],
                    "annotator": "oracle",
                }
                for number, image in enumerate(known, start=1)
            ],
            "categories": [{"id": number, "name": name} for name, number in numbers.items()],
        }
        self.blobs.write(self._export(round_), json.dumps(content, indent=1).encode())
        return self._export(round_)

    def answer_all(self) -> list[str]:
        """Answer every staged round that has no export yet, as far as labels are known; returns the paths."""
        answered = []
        round_ = 0
        while is_staged(self.blobs, round_):
            if not self._answered(round_) and self._known(round_):
                answered.append(self.answer(round_))
            round_ += 1
        return answered

    def _known(self, round_: int) -> list[StagedImage]:
        return [image for image in staged_images(self.blobs, round_) if image.image_id in self.labels]

    def _export(self, round_: int) -> str:
        return f"{INBOX}/{round_:04d}-oracle.json"

    def _answered(self, round_: int) -> bool:
        return self.blobs.exists(self._export(round_))
