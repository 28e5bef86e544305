"""Folders of pictures, one a class: Ultralytics, Roboflow, FiftyOne's directory tree, CVAT's ImageNet.

Sources: Ultralytics' documentation (datasets/classify); FiftyOne's (ImageClassificationDirectoryTree).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath

from al_resources.labeling.formats.contract import Row

SPLITS = frozenset({"train", "training", "val", "valid", "validation", "test", "images", "data"})
NO_CLASS = frozenset({"_unlabeled", "unlabeled", "no_label", "__unlabeled__"})  # FiftyOne, Roboflow, CVAT


def rows_of_class_folders(pictures: Mapping[str, str]) -> list[Row]:
    """Rows of pictures (path -> content id) by the folder each lies in; those in no folder of a class are left out."""
    rows = []
    for path, content in sorted(pictures.items()):
        folder = PurePosixPath(path).parent.name
        if folder and folder.lower() not in SPLITS:
            unanswered = folder.lower() in NO_CLASS
            rows.append(
                Row(
                    image=path,
                    label=None if unanswered else folder,
                    source={"file": path},
                    outcome="unanswered" if unanswered else "label",
                    content=content,
                )
            )
    return rows
