"""Archives, zip and tar, as CVAT, Roboflow and Label Studio hand out their exports: read in memory."""

from __future__ import annotations

import contextlib
import io
import tarfile
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from al_core.picture_files import FIRST_BYTES, is_left_behind, name_in_zip
from al_resources.labeling.formats.columns import IMAGE, LABEL, find_column
from al_resources.labeling.formats.contract import BrokenExport, Row
from al_resources.labeling.formats.document import MOST_BYTES as MOST_BYTES_OF_LABELS
from al_resources.labeling.formats.document import (
    SEPARATORS,
    Document,
    images_and_words,
    is_tar,
    lines_of,
    names_an_image,
)

MOST_FILES = 500_000
MOST_BYTES = 20_000_000_000  # unpacked, all together
NO_LABELS = {".md", ".yaml", ".yml", ".names", ".html", ".pdf", ".db", ".ini"}
LABELS = {".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".manifest", ".xml", ".xlsx", ".parquet"}
DEPTH = 3  # archives in archives
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")


@dataclass(frozen=True)
class _Entry:
    name: str
    size: int
    read: Callable[[], bytes]


def members(archive: Document) -> tuple[dict[str, str], list[tuple[str, bytes]]]:
    """The pictures in an archive (name -> content id) and its other files (name, bytes).

    What operating systems and notebooks leave behind is passed over, and so are files that describe a dataset
    without labels.

    Raises:
        BrokenExport: it is cut off, damaged, encrypted, or a bomb.
    """
    from al_core.images import content_id

    pictures: dict[str, str] = {}
    documents: list[tuple[str, bytes]] = []
    with _readable(archive.data) as opened:
        for entry in _entries_of(opened):
            data = entry.read()
            if is_picture(entry.name, data[:FIRST_BYTES]):
                pictures[entry.name] = content_id(data)
            elif may_hold_labels(entry.name, lambda data=data: data):  # type: ignore[misc]
                documents.append((entry.name, data))
    return pictures, documents


@contextlib.contextmanager
def _readable(data: bytes) -> Iterator[zipfile.ZipFile | tarfile.TarFile]:
    """The archive, open. Raises `BrokenExport` for what goes wrong in reading it."""
    what = "tar" if is_tar(data) else "zip"
    try:
        with _opened(data) as opened:
            yield opened
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error) as error:
        raise BrokenExport(f"a {what} that cannot be read: {error}", incomplete=True) from error
    except (RuntimeError, NotImplementedError, OSError, ValueError) as error:  # encrypted, unknown method
        raise BrokenExport(f"a {what} that cannot be read: {error}") from error


def pictures_in(data: bytes, depth: int = DEPTH) -> Iterator[tuple[str, bytes]]:
    """Path and bytes of each picture in an archive and in archives in it; none where it is no archive.

    Raises:
        BrokenExport: it is cut off, damaged, encrypted, or a bomb.
    """
    archive = Document(data, "archive")
    if archive.kind != "zip":
        return
    with _readable(archive.data) as opened:
        for entry in _entries_of(opened):
            content = entry.read()
            if is_picture(entry.name, content[:FIRST_BYTES]):
                yield entry.name, content
            elif depth and (folder := _folder_of(entry.name)) is not None:
                yield from ((f"{folder}/{path}", inside) for path, inside in pictures_in(content, depth - 1))


def _opened(data: bytes) -> zipfile.ZipFile | tarfile.TarFile:
    return tarfile.open(fileobj=io.BytesIO(data)) if is_tar(data) else zipfile.ZipFile(io.BytesIO(data))


def _entries_of(opened: zipfile.ZipFile | tarfile.TarFile) -> list[_Entry]:
    """The files that somebody put there. Raises `BrokenExport` for a bomb."""
    entries = [entry for entry in _entries(opened) if not is_left_behind(entry.name)]
    _refuse_bombs(entries, "zip" if isinstance(opened, zipfile.ZipFile) else "tar")
    return entries


def _entries(opened: zipfile.ZipFile | tarfile.TarFile) -> list[_Entry]:
    if isinstance(opened, zipfile.ZipFile):
        return [
            _Entry(name_in_zip(entry), entry.file_size, lambda entry=entry: opened.read(entry))  # type: ignore[misc]
            for entry in opened.infolist()
            if not entry.is_dir()
        ]
    return [
        _Entry(entry.name, entry.size, lambda entry=entry: opened.extractfile(entry).read())  # type: ignore[misc, union-attr]
        for entry in opened.getmembers()
        if entry.isfile()
    ]


def is_picture(name: str, start: bytes) -> bool:
    """Whether a file is a picture, by its ending, or by its first bytes where its ending does not speak of labels."""
    from al_core.images import IMAGE_SUFFIXES, BadImage, image_suffix

    suffix = PurePosixPath(name).suffix.lower()
    if suffix in IMAGE_SUFFIXES or suffix in LABELS:
        return suffix in IMAGE_SUFFIXES
    try:
        image_suffix(start, name=name)
    except BadImage:
        return False
    return True


def may_hold_labels(name: str, read: Callable[[], bytes]) -> bool:
    """Whether a file that is no picture may be one of labels; a text is where its first line is one of a table."""
    path = PurePosixPath(name)
    if path.suffix.lower() == ".txt":
        return _is_table(read().decode("utf-8", "replace"))
    return path.suffix.lower() not in NO_LABELS and path.name != "MLTable"


def _is_table(text: str) -> bool:
    """Whether a text is a list of images and words, or a table with a column of images and one of labels."""
    first = next((line for line in lines_of(text.strip("\ufeff")) if line.strip()), "")
    for separator in SEPARATORS:
        cells = [cell.strip().strip('"') for cell in first.split(separator)]
        if len(cells) > 1 and (
            any(map(names_an_image, cells)) or (find_column(cells, IMAGE, None) and find_column(cells, LABEL, None))
        ):
            return True
    return images_and_words(text) is not None


def _folder_of(name: str) -> str | None:
    """What an archive is called as a folder: without its ending; None for any other file."""
    endings = [ending for ending in ARCHIVES if name.lower().endswith(ending)]
    return name[: -max(map(len, endings))] if endings else None


def unpacked(
    pictures: Mapping[str, str], documents: Sequence[tuple[str, bytes]], depth: int = DEPTH
) -> tuple[dict[str, str], list[tuple[str, bytes]], dict[str, str]]:
    """The same with the archives among the documents opened, and in words which of them cannot be.

    An archive's name without its ending is the folder of what is in it: `train.zip` is `train/`.
    """
    all_pictures, others, why_not = dict(pictures), [], {}
    for name, data in documents:
        folder = _folder_of(name)
        if folder is None:
            others.append((name, data))
            continue
        try:
            if depth == 0:
                raise BrokenExport("an archive in an archive in an archive; unpack it")
            inner_pictures, inner_documents, inner_why_not = unpacked(*members(Document(data, name)), depth - 1)
        except BrokenExport as error:
            why_not[name] = error.reason
        else:
            all_pictures |= {f"{folder}/{path}": image_id for path, image_id in inner_pictures.items()}
            others += [(f"{folder}/{path}", inside) for path, inside in inner_documents]
            why_not |= {f"{folder}/{path}": reason for path, reason in inner_why_not.items()}
    return all_pictures, others, why_not


def with_pictures(rows: Iterable[Row], pictures: Mapping[str, str]) -> list[Row]:
    """The rows, each knowing the content of the picture in the archive that it names (name -> content id)."""
    by_file: dict[str, list[str]] = defaultdict(list)
    for path in pictures:
        by_file[PurePosixPath(path).name].append(path)

    def content_of(image: str) -> str | None:
        name = image.replace("\\", "/").lstrip("/")
        paths = by_file.get(PurePosixPath(name).name, [])
        found = {pictures[path] for path in paths if path == name or path.endswith(f"/{name}")}
        return found.pop() if len(found) == 1 else None

    return [replace(row, content=row.content or content_of(row.image)) for row in rows]


def _refuse_bombs(entries: list[_Entry], what: str) -> None:
    from al_core.images import IMAGE_SUFFIXES

    size = sum(entry.size for entry in entries)
    if len(entries) > MOST_FILES or size > MOST_BYTES:
        raise BrokenExport(
            f"a {what} of {len(entries):,} files and {size:,} bytes; at most {MOST_FILES:,} files and {MOST_BYTES:,} "
            "bytes are read: export the labels without the pictures"
        )
    for entry in entries:
        no_picture = PurePosixPath(entry.name).suffix.lower() not in (*IMAGE_SUFFIXES, *ARCHIVES)
        if no_picture and entry.size > MOST_BYTES_OF_LABELS:
            raise BrokenExport(f"{entry.name} in the {what} has {entry.size:,} bytes; no file of labels is so large")
