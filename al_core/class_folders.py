"""Folders of pictures, one a class: which folder is the class of which picture, and what belongs to the test set.

What could be read in two ways is refused: a study on wrong classes says nothing, and looks as if it did.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

TEST_FOLDERS = ("test", "val", "valid", "validation")
SPLIT_FOLDERS = ("train", "training", *TEST_FOLDERS)
NO_CLASS = ("_unlabeled", "__unlabeled__", "unlabeled", "no_label")  # where tools put pictures without an answer


class UnclearFolders(ValueError):
    """The folders do not say which of them are classes; the message names an example and the way out."""


@dataclass(frozen=True)
class Placed:
    """Picture -> (class, whether it is a test picture); and those in no folder of a class."""

    classes: dict[PurePosixPath, tuple[str, bool]] = field(default_factory=dict)
    loose: tuple[PurePosixPath, ...] = ()
    has_test: bool = False


def place(paths: Iterable[PurePosixPath]) -> Placed:
    """Read the classes of pictures from their paths: [wrapper/]*[train|test/]class/[anything/]picture.

    Raises:
        UnclearFolders: a class's folder holds folders only, so that either could be the class.
    """
    everything = sorted(paths)
    unanswered = [path for path in everything if any(part.lower() in NO_CLASS for part in path.parts[:-1])]
    left_out = set(unanswered)
    pictures = [path for path in everything if path not in left_out]
    inner = {path: _unwrapped(path, pictures) for path in pictures}
    firsts = {parts[0].lower() for parts in inner.values() if len(parts) > 2}
    has_test = bool(firsts & set(SPLIT_FOLDERS[:2])) and bool(firsts & set(TEST_FOLDERS))
    is_split = has_test or (bool(firsts) and firsts <= set(SPLIT_FOLDERS))
    below = {
        path: parts[1:] if is_split and parts[0].lower() in SPLIT_FOLDERS else parts for path, parts in inner.items()
    }
    loose = tuple(path for path, parts in below.items() if len(parts) < 2)
    direct = {parts[0] for parts in below.values() if len(parts) == 2}
    for path, parts in below.items():
        if path not in loose and parts[0] not in direct:
            raise UnclearFolders(
                f"{path}: is the class {parts[0]!r} or {parts[-2]!r}? Pictures have to lie in the folder of their "
                "class, CLASS/picture or train/CLASS/picture; name the folder that holds the classes"
            )
    return Placed(
        {
            path: (parts[0], has_test and inner[path][0].lower() in TEST_FOLDERS)
            for path, parts in below.items()
            if path not in set(loose)
        },
        (*loose, *unanswered),
        has_test,
    )


def _unwrapped(path: PurePosixPath, pictures: Sequence[PurePosixPath]) -> tuple[str, ...]:
    """The parts of a path below the folders that all pictures share, the folder of the class kept."""
    depth = 0
    first, last = pictures[0].parts, pictures[-1].parts  # sorted: what these share, all share
    while depth < min(len(first), len(last)) - 2 and first[depth] == last[depth]:
        depth += 1
    return path.parts[depth:]
