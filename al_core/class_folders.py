"""Folders of pictures, one a class: which folder is the class of which picture, and what belongs to the test set.

What could be read in two ways is refused: a study on wrong classes says nothing, and looks as if it did.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

TEST_FOLDERS = ("test", "val", "valid", "validation")
SPLIT_FOLDERS = ("train", "training", *TEST_FOLDERS)
# the word in the name of a folder that holds a part of a dataset: train2017, bounding_box_test
_SPLIT_WORD = re.compile(
    rf"(?<![a-z])({'|'.join(sorted(SPLIT_FOLDERS, key=len, reverse=True))})(?![a-z])", re.IGNORECASE
)
# folders by what kind of file is in them
_KINDS_OF_FILES = frozenset({
    "images", "imgs", "img", "jpegimages", "pictures", "photos", "masks", "mask", "labels", "annotations", "depth",
    "segmentation", "segmentationclass", "segmentationobject", "thumbnails", "thumbs", "previews",
})  # fmt: skip
NO_CLASS = ("_unlabeled", "__unlabeled__", "unlabeled", "no_label")  # where tools put pictures without an answer


class UnclearFolders(ValueError):
    """The folders do not say which of them are classes; the message names an example and the way out."""


@dataclass(frozen=True)
class Placed:
    """Picture -> (class, whether it is a test picture); and those in no folder of a class."""

    classes: dict[PurePosixPath, tuple[str, bool]] = field(default_factory=dict)
    loose: tuple[PurePosixPath, ...] = ()
    has_test: bool = False


def plain_class(name: str) -> str:
    """A class name as it counts: in Unicode's composed form, without spaces around it or doubled in it."""
    return " ".join(unicodedata.normalize("NFC", name).split())


def loosely(name: str) -> str:
    """What is left of a class name where case, spacing and punctuation are no difference."""
    return "".join(one for one in name.casefold() if one.isalnum()) or name


def alike(names: Iterable[str]) -> list[list[str]]:
    """Those of the names that differ in case or spacing only, together."""
    together: dict[str, list[str]] = {}
    for name in sorted(set(names)):
        together.setdefault(loosely(name), []).append(name)
    return [found for found in together.values() if len(found) > 1]


def place(paths: Iterable[PurePosixPath], classes: Collection[str] = ()) -> Placed:
    """Read the classes of pictures from their paths: [wrapper/]*[train|test/]class/[anything/]picture.

    `classes`: the names that are known. Where the folders could be read in two ways, these decide, and so they do where
    every picture lies in a folder of such a name.

    Raises:
        UnclearFolders: a class's folder holds folders only, so that either could be the class; or the folders are
            parts of a dataset, like `train2017` and `val2017`.
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
    named = _named(below, classes)
    try:
        label_of = named if named and len(named) == len(below) else _outermost(below)
    except UnclearFolders:
        if not named:
            raise
        label_of = named
    return Placed(
        {path: (label, has_test and inner[path][0].lower() in TEST_FOLDERS) for path, label in label_of.items()},
        (*(path for path in below if path not in label_of), *unanswered),
        has_test,
    )


def _outermost(below: Mapping[PurePosixPath, tuple[str, ...]]) -> dict[PurePosixPath, str]:
    """Picture -> its outermost folder. Raises `UnclearFolders`."""
    direct = {parts[0] for parts in below.values() if len(parts) == 2}
    label_of = {path: parts[0] for path, parts in below.items() if len(parts) > 1}
    for path, label in label_of.items():
        if label not in direct:
            raise UnclearFolders(
                f"{path}: is the class {label!r} or {below[path][-2]!r}? Pictures have to lie in the folder of their "
                "class, CLASS/picture or train/CLASS/picture; name the folder that holds the classes, or the classes "
                "themselves (labeling.classes)"
            )
    _refuse_parts_of_a_dataset(set(label_of.values()))
    return label_of


def _refuse_parts_of_a_dataset(labels: Collection[str]) -> None:
    """Folders like `bounding_box_train` and `bounding_box_test`, or `images` and `masks`, hold parts of a dataset, and
    any class.
    """
    if len(labels) > 1 and _KINDS_OF_FILES.issuperset(label.lower() for label in labels):
        one, other = sorted(labels)[:2]
        raise UnclearFolders(
            f"the folders {one!r} and {other!r} hold kinds of files and are no classes; expected CLASS/picture or "
            "train/CLASS/picture. Where they are classes, labeling.classes has to name them"
        )
    seen: dict[str, str] = {}
    for label in sorted(labels):
        if _SPLIT_WORD.search(label):
            other = seen.setdefault(_SPLIT_WORD.sub("", label).casefold(), label)
            if other != label:
                raise UnclearFolders(
                    f"the folders {other!r} and {label!r} look like parts of a dataset and not like classes; expected "
                    "CLASS/picture or train/CLASS/picture. Where they are classes, labeling.classes has to name them"
                )


def _named(below: Mapping[PurePosixPath, tuple[str, ...]], classes: Collection[str]) -> dict[PurePosixPath, str]:
    """Picture -> the folder of it that is called like a class; of pictures in two such folders the outer one counts
    only where the inner one is no other class. Pictures in none are left out.

    Raises:
        UnclearFolders: it lies in the folders of two classes.
    """
    known = {plain_class(name) for name in classes}
    label_of = {}
    for path, parts in below.items() if known else ():
        found = list(dict.fromkeys(part for part in parts[:-1] if plain_class(part) in known))
        if len({*map(plain_class, found)}) > 1:
            raise UnclearFolders(f"{path}: is the class {found[0]!r} or {found[-1]!r}? Both are classes")
        if found:
            label_of[path] = found[0]
    return label_of


def _unwrapped(path: PurePosixPath, pictures: Sequence[PurePosixPath]) -> tuple[str, ...]:
    """The parts of a path below the folders that all pictures share, the folder of the class kept."""
    depth = 0
    first, last = pictures[0].parts, pictures[-1].parts  # sorted: what these share, all share
    while depth < min(len(first), len(last)) - 2 and first[depth] == last[depth]:
        depth += 1
    return path.parts[depth:]
