"""The labels of the ledger as a file that other tools read."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from al_core.errors import GiveUp

if TYPE_CHECKING:
    from al_resources.labeling.exports import ExportedLabel
    from al_resources.platform import Platform


def export(platform: Platform, format_: str) -> tuple[bytes, int]:
    """The file and how many answers are in it.

    Formats with a place for annotators hold everybody's last word, the others the label that counts.

    Raises:
        GiveUp: nothing is labeled yet.
        InvalidInput: a class cannot be written in this format.
    """
    from al_resources.labeling.writers import FILES, FOLDERS, to_folders

    labels = labels_of(platform, one_an_image=format_ in FOLDERS or FILES[format_][2])
    if not labels:
        raise GiveUp("nothing is labeled yet, so there is nothing to export")
    if format_ in FILES:
        return FILES[format_][1](labels), len(labels)
    splits = None
    if format_ == "ultralytics":
        dataset = platform.datasets.latest()
        splits = {} if dataset is None else dict(dataset.rows.select("image_id", "split").iter_rows())

    def files(image_id: str) -> tuple[str, bytes]:
        path = platform.images.path_of(image_id)
        return PurePosixPath(path).suffix, platform.blobs.read(path)

    return to_folders(labels, files, splits), len(labels)


def labels_of(platform: Platform, *, one_an_image: bool) -> list[ExportedLabel]:
    """The last word of every annotator, or the one label an image that counts (`labeling.resolve`)."""
    from al_core.answers import votes
    from al_loop.consensus import counting_labels
    from al_resources.labeling.exports import ExportedLabel
    from al_resources.labeling.merge import UNKNOWN_ANNOTATOR

    if one_an_image:
        return [ExportedLabel(*row) for row in counting_labels(platform).select("image_id", "label").iter_rows()]
    return [
        ExportedLabel(
            image_id=row["image_id"],
            label=row["label"],
            annotator=None if row["annotator"] == UNKNOWN_ANNOTATOR else row["annotator"],
            labeled_at=row["labeled_at"],
            confidence=row["confidence"],
            annotation_seconds=row["annotation_seconds"],
            outcome=row["outcome"] or "label",
        )
        for row in votes(platform.ledgers.read("labels")).sort("image_id", maintain_order=True).iter_rows(named=True)
        if row["outcome"] != "removed"
    ]
