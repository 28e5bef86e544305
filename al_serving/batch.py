"""Scoring many files at once, from a folder or from the blob store, into the same log as requests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from al_core.errors import InvalidInput
from al_core.images import IMAGE_SUFFIXES
from al_core.picture_files import find_pictures, printable
from al_serving.collector import Collector
from al_serving.payloads import SentImage
from al_serving.scoring import Answer, ReadImage, RefusedImage, Scorer

if TYPE_CHECKING:
    from al_resources.blobs import BlobStore

CHUNK = 64  # images read ahead and predicted together: bounds the memory
READERS = 4
ROOM_SECONDS = 300.0  # how long a store may hold up the batch before it ends with an error


class NoImages(InvalidInput):
    """There is nothing to score; the message says where was looked, and for what."""


@dataclass(frozen=True)
class NamedFile:
    """A file to score, read when its turn comes."""

    name: str
    read: Callable[[], bytes]


@dataclass(frozen=True)
class BatchProgress:
    """How far a batch has come, and the answers of its latest chunk."""

    done: int
    total: int
    answers: list[Answer]


@dataclass(frozen=True)
class BatchSummary:
    """What a batch did."""

    files: int
    scored: int  # different images
    duplicates: dict[str, str]  # name -> the name of the file with the same content, scored in its place
    refused: dict[str, str]  # name -> why it could not be scored
    model_version: int


def files_of_folder(folder: Path, log: Callable[[str], None] = lambda line: None) -> list[NamedFile]:
    """All image files below `folder`, told by their first bytes, in the order of their paths; `log` hears what else
    lies there.

    Raises:
        NoImages: there is none, or no such folder.
    """
    if not folder.is_dir():
        raise NoImages(f"{folder} is no folder")
    found = find_pictures(folder)
    paths = sorted([*found.pictures, *map(Path, found.rejected)])  # these are refused by name when they are read
    if not paths:
        raise NoImages(f"{folder} holds no image: looked for {', '.join(sorted(IMAGE_SUFFIXES))} in it and below")
    for kind, count in sorted(found.passed_over.items()):
        log(f"{count} files passed over: {kind}")
    return [NamedFile(printable(path.relative_to(folder).as_posix()), path.read_bytes) for path in paths]


def files_of_store(blobs: BlobStore, prefix: str) -> list[NamedFile]:
    """All image blobs below `prefix`. Raises `NoImages` where there is none."""

    def file(path: str) -> NamedFile:
        return NamedFile(path, lambda: blobs.read(path))

    files = [file(blob.path) for blob in blobs.list(prefix) if Path(blob.path).suffix.lower() in IMAGE_SUFFIXES]
    if not files:
        raise NoImages(f"{blobs.url(prefix)} holds no image: looked for {', '.join(sorted(IMAGE_SUFFIXES))}")
    return files


def score_files(
    scorer: Scorer,
    files: list[NamedFile],
    collector: Collector | None = None,
    report: Callable[[BatchProgress], None] = lambda progress: None,
    named: Callable[[str, str], None] = lambda name, image_id: None,
    *,
    batch: str | None = None,
    is_logged: Callable[[list[str], list[str]], set[str]] = lambda image_ids, prediction_ids: set(),
) -> BatchSummary:
    """Score `files`, readers ahead of the model; one that cannot be scored is put on record and skipped.

    The same content under several names is scored once; the other names are answered with `same_as`. `named` hears
    of every file that is an image: its name, and the image's id.

    `batch` names the batch where it may be done again after it was killed: what the log holds of it by then, which
    `is_logged` says of image ids and their prediction ids, is not scored a second time, nor answered.

    Raises:
        TimeoutError: the log took nothing for minutes; what was scored until then is kept.
    """
    first_name: dict[str, str] = {}  # image id -> name
    duplicates: dict[str, str] = {}
    refused: dict[str, str] = {}
    done = 0
    with ThreadPoolExecutor(READERS, "al-reader") as readers:
        for chunk in _read_ahead(readers, scorer, files):
            if collector is not None and not collector.wait_for_room(ROOM_SECONDS):
                raise TimeoutError(f"the prediction log took nothing for {ROOM_SECONDS:.0f} s; {done} files are done")
            new: list[ReadImage | RefusedImage] = []
            for image in chunk:
                if isinstance(image, RefusedImage):
                    refused[image.name] = image.reason
                    new.append(image)
                    continue
                named(image.name, image.image_id)
                if image.image_id in first_name:
                    duplicates[image.name] = first_name[image.image_id]
                else:
                    first_name[image.image_id] = image.name
                    new.append(image)
            answers = scorer.answer(_unlogged(scorer, new, batch, is_logged), "batch", batch=batch)
            answers += [
                {"filename": image.name, "same_as": duplicates[image.name]}
                for image in chunk
                if image.name in duplicates
            ]
            done += len(chunk)
            report(BatchProgress(done, len(files), answers))
    return BatchSummary(len(files), len(first_name), duplicates, refused, scorer.manifest.version)


def _unlogged(
    scorer: Scorer,
    images: list[ReadImage | RefusedImage],
    batch: str | None,
    is_logged: Callable[[list[str], list[str]], set[str]],
) -> list[ReadImage | RefusedImage]:
    """Without those that an earlier attempt at this batch brought into the log."""
    if batch is None:
        return images
    ids = [image.image_id for image in images if isinstance(image, ReadImage)]
    own = {image_id: scorer.prediction_id(batch, image_id) for image_id in ids}
    logged = is_logged(ids, list(own.values())) if ids else set()
    return [image for image in images if isinstance(image, RefusedImage) or own[image.image_id] not in logged]


def _read_ahead(
    readers: ThreadPoolExecutor, scorer: Scorer, files: list[NamedFile]
) -> Iterator[list[ReadImage | RefusedImage]]:
    """The files in chunks, decoded; while one chunk is predicted, the next one is being read."""

    def read(file: NamedFile) -> ReadImage | RefusedImage:
        try:
            return scorer.read(SentImage(file.name, file.read()), "batch")
        except OSError as error:  # gone or unreadable since it was listed
            return scorer.read(SentImage(file.name, b"", f"cannot be read: {error}"), "batch")

    def start(chunk: list[NamedFile]) -> list[Future[ReadImage | RefusedImage]]:
        return [readers.submit(read, file) for file in chunk]

    chunks = (files[begin : begin + CHUNK] for begin in range(0, len(files), CHUNK))
    ahead: list[Future[ReadImage | RefusedImage]] = []
    for chunk in chunks:
        coming = start(chunk)
        if ahead:
            yield [future.result() for future in ahead]
        ahead = coming
    yield [future.result() for future in ahead]
