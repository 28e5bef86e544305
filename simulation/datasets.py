"""Labeled images to simulate on: built-in, from a folder, from an archive, or from torchvision.

Every source gives the same thing: files by content id with their true labels, read one by one where they lie.
Archives are read in memory, nothing of them is unpacked, and pickles are never opened.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from al_core.class_folders import UnclearFolders, alike, place, plain_class
from al_core.errors import ActiveLearningError
from al_core.images import BadImage, content_id, image_suffix
from al_core.learning.contract import LabeledImage
from al_core.picture_files import find_pictures, is_left_behind, name_in_zip

SOURCES = "digits, cifar10:FOLDER-or-TAR, imagefolder:PATH, torchvision:NAME"
LEAST_PER_CLASS = 2
_CIFAR_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
_CIFAR_ROW = 1 + 3 * 32 * 32


class BadData(ActiveLearningError, ValueError):
    """Images that cannot be simulated on; the message says what is wrong and what is expected."""


@dataclass(frozen=True)
class LabeledData:
    """Images with their true labels, sorted by content id."""

    name: str
    images: tuple[LabeledImage, ...]
    read: Callable[[str], bytes]
    classes: tuple[str, ...]
    version: str  # hash of ids and labels
    test_ids: frozenset[str] | None = None  # where the source brings its own test set
    notes: tuple[str, ...] = ()  # what was left out, and why

    def split(self, seed: int, test_images: int, imbalance: float = 1) -> tuple[list[LabeledImage], list[LabeledImage]]:
        """Pool and test set: the source's own, or `test_images` drawn from `seed`.

        With an `imbalance` the pool has a long tail, see `long_tailed`; the test set stays as it is.

        Raises:
            BadData: nothing would be left for the pool, or for one of its classes.
        """
        pool, test = self._divide(seed, test_images)
        return (long_tailed(pool, imbalance, seed) if imbalance > 1 else pool), test

    def _divide(self, seed: int, test_images: int) -> tuple[list[LabeledImage], list[LabeledImage]]:
        test = self.test_ids
        if test is None:
            if test_images >= len(self.images):
                raise BadData(f"{self.name} has {len(self.images)} images; a test set of {test_images} leaves no pool")
            drawn = np.random.default_rng(seed).choice(len(self.images), test_images, replace=False)
            test = frozenset(self.images[row].image_id for row in drawn)
        elif test_images < len(test):
            order = np.random.default_rng(0).permutation(sorted(test))  # the same part for every seed
            test, spare = frozenset(order[:test_images]), frozenset(order[test_images:])
            pool = [image for image in self.images if image.image_id not in test | spare]
            return pool, [image for image in self.images if image.image_id in test]
        pool = [image for image in self.images if image.image_id not in test]
        return pool, [image for image in self.images if image.image_id in test]


def long_tailed(images: Sequence[LabeledImage], imbalance: float, seed: int) -> list[LabeledImage]:
    """Fewer images of some classes: of C classes the i-th keeps `imbalance ** (-i / (C - 1))` of its images.

    Which classes are rare, and which of their images stay, follows from `seed`; the order of the images is kept.
    Source: Cui, Jia, Lin, Song & Belongie (2019), Class-Balanced Loss Based on Effective Number of Samples, CVPR,
    section 5.1 (long-tailed CIFAR).

    Raises:
        BadData: a class would have no image left.
    """
    generator = np.random.default_rng([seed, len(images)])
    labels = np.array([image.label for image in images])
    classes = generator.permutation(np.unique(labels))
    kept = []
    for number, name in enumerate(classes):
        rows = np.flatnonzero(labels == name)
        count = round(len(rows) * imbalance ** (-number / max(1, len(classes) - 1)))
        if count < 1:
            raise BadData(
                f"an imbalance of {imbalance:g} leaves none of the {len(rows)} images of class {str(name)!r}; "
                "ask for less"
            )
        kept.append(generator.choice(rows, count, replace=False))
    return [images[row] for row in np.sort(np.concatenate(kept))]


@dataclass
class _Collected:
    """Images as they are found; the same content is one image."""

    labels: dict[str, str] = field(default_factory=dict)
    uris: dict[str, str] = field(default_factory=dict)
    test: set[str] = field(default_factory=set)
    repeated: int = 0
    disputed: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)  # what was left out before

    def add(self, data: bytes, label: str, uri: str, *, test: bool) -> str:
        image_id = content_id(data)
        if image_id in self.labels:
            self.repeated += 1
            if self.labels[image_id] != label:
                self.disputed.add(image_id)
            elif test:
                self.test.discard(image_id)  # a test image that is in the pool as well tests nothing
            return image_id
        self.labels[image_id], self.uris[image_id] = label, uri
        if test:
            self.test.add(image_id)
        return image_id

    def finish(self, name: str, read: Callable[[str], bytes], *, has_test: bool) -> LabeledData:
        kept = sorted(set(self.labels) - self.disputed)
        images = tuple(LabeledImage(i, self.uris[i], self.labels[i]) for i in kept)
        counts: dict[str, int] = {}
        for image in images:
            counts[image.label] = counts.get(image.label, 0) + 1
        if len(counts) < 2:
            raise BadData(
                f"{name} has {len(counts)} class(es) ({', '.join(counts) or 'no image at all'}); "
                "a classifier needs at least two, one folder of images each"
            )
        rare = sorted(label for label, count in counts.items() if count < LEAST_PER_CLASS)
        if rare:
            raise BadData(f"class {rare[0]!r} of {name} has a single image; add some or remove the class")
        notes = list(self.notes)
        if self.repeated:
            notes.append(f"{self.repeated} files repeat the content of another and count once")
        if self.disputed:
            notes.append(f"{len(self.disputed)} images lie in two classes and were left out")
        digest = hashlib.blake2b(
            "\n".join(f"{image.image_id}\t{image.label}" for image in images).encode(), digest_size=8
        )
        test = frozenset(self.test - self.disputed) if has_test else None
        return LabeledData(name, images, read, tuple(sorted(counts)), digest.hexdigest(), test, tuple(notes))


def load_data(spec: str) -> LabeledData:
    """The data behind `digits`, `cifar10:PATH`, `imagefolder:PATH` or `torchvision:NAME`.

    Raises:
        BadData: there is no such source, or what is there cannot be used.
    """
    source, _, where = spec.partition(":")
    if source == "digits" and not where:
        return _from_arrays("digits", ((pixels, label, False) for pixels, label in digits()))
    if source in ("cifar10", "imagefolder") and where:
        path = Path(where).expanduser()
        if not path.exists():
            raise BadData(f"there is no {path}")
        if path.is_dir():
            return _from_folder(spec, path)
        return _from_archive(spec, path)
    if source == "torchvision" and where:
        return _from_torchvision(where)
    raise BadData(f"no data is called {spec!r}; expected one of {SOURCES}")


def digits() -> list[tuple[np.ndarray, str]]:
    """scikit-learn's 1 797 handwritten digits as ((8, 8) uint8, label). Source: UCI Optical Recognition of Digits."""
    from sklearn.datasets import load_digits

    loaded = load_digits()
    pixels = (loaded.images * (255 / 16)).astype(np.uint8)
    return [(picture, str(label)) for picture, label in zip(pixels, loaded.target, strict=True)]


def _from_arrays(name: str, arrays: Iterable[tuple[np.ndarray, str, bool]], *, has_test: bool = False) -> LabeledData:
    """Pictures as PNG files in memory, from (pixels, label, whether it is a test image)."""
    collected, files = _Collected(), {}
    for pixels, label, test in arrays:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        image_id = collected.add(buffer.getvalue(), label, "", test=test)
        collected.uris[image_id] = f"memory:{image_id}"
        files[f"memory:{image_id}"] = buffer.getvalue()
    return collected.finish(name, files.__getitem__, has_test=has_test)


def _from_folder(name: str, root: Path) -> LabeledData:
    if binaries := sorted(root.glob("*_batch*.bin")):
        return _from_arrays(name, _cifar_rows((file.name, file.read_bytes()) for file in binaries), has_test=True)
    found = find_pictures(root)
    files = {PurePosixPath(path.relative_to(root).as_posix()): path for path in found.pictures}
    notes = [f"{count} files passed over: {kind}" for kind, count in sorted(found.passed_over.items())]
    if found.rejected:
        notes.append(f"{len(found.rejected)} files are no readable pictures, like {next(iter(found.rejected))}")
    return _placed(name, files, lambda uri: Path(uri).read_bytes(), notes)


def _from_archive(name: str, path: Path) -> LabeledData:
    files = _members(path)
    if any(file.endswith(".bin") for file in files):
        rows = _cifar_rows((PurePosixPath(file).name, data) for file, data in sorted(files.items()))
        return _from_arrays(name, rows, has_test=True)
    pictures = {file: data for file, data in files.items() if not is_left_behind(file) and _is_picture(data)}
    notes = [f"{left} files of the archive are no pictures"] if (left := len(files) - len(pictures)) else []
    return _placed(name, {PurePosixPath(file): file for file in pictures}, pictures.__getitem__, notes)


def _members(path: Path) -> dict[str, bytes]:
    """The files of a tar or zip archive, in memory. Raises `BadData`."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as zipped:
                return {name_in_zip(entry): zipped.read(entry) for entry in zipped.infolist() if not entry.is_dir()}
        with tarfile.open(path) as archive:
            return {
                member.name: stream.read()
                for member in archive
                if member.isfile() and (stream := archive.extractfile(member)) is not None
            }
    except (tarfile.TarError, zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError, zlib.error) as error:
        raise BadData(f"{path} is neither a folder nor a tar archive nor a zip that can be read ({error})") from error


def _is_picture(data: bytes) -> bool:
    try:
        image_suffix(data)
    except BadImage:
        return False
    return True


def _placed(
    name: str, files: Mapping[PurePosixPath, Any], read: Callable[[str], bytes], notes: list[str]
) -> LabeledData:
    """The pictures by the folders of their classes. `files`: path below the root -> what, as text, `read` knows."""
    try:
        placed = place(files)
    except UnclearFolders as error:
        raise BadData(str(error)) from error
    if placed.loose:
        notes.append(f"{len(placed.loose)} pictures lie in no folder of a class, like {placed.loose[0]}")
    collected = _Collected(notes=notes)
    for path, (label, test) in placed.classes.items():
        try:
            data = read(str(files[path]))
        except OSError as error:  # gone or closed since it was listed
            notes.append(f"{path} cannot be read: {error.strerror or error}")
        else:
            collected.add(data, plain_class(label), str(files[path]), test=test)
    notes += [
        f"the classes {' and '.join(map(repr, names))} differ in case or spacing only; are they one?"
        for names in alike(collected.labels.values())
    ]
    return collected.finish(name, read, has_test=placed.has_test)


def _from_torchvision(name: str) -> LabeledData:
    from torchvision import datasets

    kind = getattr(datasets, name, None)
    if not (isinstance(kind, type) and issubclass(kind, datasets.VisionDataset)):
        raise BadData(f"torchvision has no dataset {name!r}; see torchvision.datasets for the names")
    root = Path.home() / ".cache" / "active-learning" / name
    try:
        parts = [(kind(str(root), train=train, download=True), not train) for train in (True, False)]
    except (TypeError, OSError, RuntimeError) as error:
        raise BadData(
            f"torchvision:{name} could not be loaded ({error}); expected one that downloads itself and has "
            "train and test parts, like MNIST, FashionMNIST or CIFAR10"
        ) from error

    def rows() -> Iterator[tuple[np.ndarray, str, bool]]:
        for part, test in parts:
            for picture, label in part:
                yield np.asarray(picture), part.classes[label], test

    return _from_arrays(f"torchvision:{name}", rows(), has_test=True)


def _cifar_rows(files: Iterable[tuple[str, bytes]]) -> Iterator[tuple[np.ndarray, str, bool]]:
    """Rows of CIFAR-10's binary version: one byte of label, then red, green and blue planes."""
    for name, data in files:
        if not name.endswith(".bin"):
            continue
        if len(data) % _CIFAR_ROW:
            raise BadData(f"{name} has {len(data)} bytes, no multiple of {_CIFAR_ROW}: it is no CIFAR-10 file")
        for row in np.frombuffer(data, np.uint8).reshape(-1, _CIFAR_ROW):
            pixels = row[1:].reshape(3, 32, 32).transpose(1, 2, 0)
            yield np.ascontiguousarray(pixels), _CIFAR_CLASSES[row[0]], name.startswith("test")
