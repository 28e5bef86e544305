"""Folders of pictures, one a class: Ultralytics, Roboflow, FiftyOne's directory tree, CVAT's ImageNet.

Sources: Ultralytics' documentation (datasets/classify); FiftyOne's (ImageClassificationDirectoryTree).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from al_core.class_folders import NO_CLASS, UnclearFolders, place, plain_class
from al_resources.labeling.formats.contract import BrokenExport, Row, listed

WRAPPERS = frozenset({"images", "imgs", "jpegimages", "data"})  # what tools call the folder of all pictures


def rows_of_class_folders(pictures: Mapping[str, str], *, alone: bool = True, classes: Sequence[str] = ()) -> list[Row]:
    """Rows of pictures (path -> content id) by the folders of their classes; those in no folder of one are left out.

    `alone`: nothing else lies beside the pictures. Where something does, a single folder is no class: it is rather
    where some tool puts all pictures, and the labels are in what could not be read.

    `classes`: the names that are known; of any other name a single folder is no class.

    Raises:
        BrokenExport: the folders do not say which of them are classes.
    """
    inner = {_inner(path): path for path in pictures}
    if len(inner) < len(pictures):
        inner = {PurePosixPath(path): path for path in pictures}
    try:
        placed = place(inner, classes) if inner else None
    except UnclearFolders as error:
        raise BrokenExport(str(error)) from error
    if placed is None or not placed.classes:
        return []
    unanswered = [path for path in placed.loose if any(part.lower() in NO_CLASS for part in path.parts)]
    loose = [path for path in placed.loose if path not in unanswered]
    labels = {label for label, _ in placed.classes.values()}
    if loose or not alone or not unanswered:  # a tool that puts those without an answer apart puts the others by class
        _refuse_one_folder(labels, loose, alone, classes)
    rows = [
        Row(inner[path], label, {"file": inner[path]}, content=pictures[inner[path]])
        for path, (label, _) in placed.classes.items()
    ]
    rows += [
        Row(inner[path], None, {"file": inner[path]}, outcome="unanswered", content=pictures[inner[path]])
        for path in placed.loose
    ]
    return sorted(rows, key=lambda row: row.image)


def _refuse_one_folder(labels: set[str], loose: Sequence[PurePosixPath], alone: bool, classes: Sequence[str]) -> None:
    """A single folder is rather where some tool puts all pictures than a class, unless it is called like one."""
    if len(labels) > 1 or {plain_class(name) for name in classes} & {*map(plain_class, labels)}:
        return
    beside = f", and {len(loose)} pictures beside it, like {loose[0]}" if loose else ""
    beside = beside or ("" if alone else ", and files that are no labels here")
    raise BrokenExport(
        f"one folder of pictures, {listed(map(repr, labels))}{beside}: it is no class for sure; expected one folder a "
        "class, CLASS/picture or train/CLASS/picture. Where it is a class, labeling.classes has to name it"
    )


def _inner(path: str) -> PurePosixPath:
    """The path without the folders in front of it that only hold all pictures."""
    parts = list(PurePosixPath(path).parts)
    while len(parts) > 1 and parts[0].lower() in WRAPPERS:
        del parts[0]
    return PurePosixPath(*parts)
