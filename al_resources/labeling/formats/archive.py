"""Zip archives, as CVAT, Roboflow and Label Studio hand out their exports: read in memory, nothing is unpacked."""

from __future__ import annotations

import io
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import PurePosixPath

from al_core.picture_files import is_left_behind
from al_resources.labeling.formats.contract import BrokenExport, Row
from al_resources.labeling.formats.document import Document, images_and_words

MOST_FILES = 500_000
MOST_BYTES = 20_000_000_000  # unpacked, all together
MOST_BYTES_OF_LABELS = 1_000_000_000  # of one file that is no picture
NO_LABELS = {".txt", ".md", ".yaml", ".yml", ".names", ".html", ".pdf", ".db", ".ini"}


def members(archive: Document) -> tuple[dict[str, str], list[tuple[str, bytes]]]:
    """The pictures in an archive (name -> content id) and its other files (name, bytes).

    What operating systems and notebooks leave behind is passed over, and so are files that describe a dataset
    without labels.

    Raises:
        BrokenExport: it is cut off, damaged, encrypted, or a bomb.
    """
    from al_core.images import IMAGE_SUFFIXES, content_id

    pictures: dict[str, str] = {}
    documents: list[tuple[str, bytes]] = []
    try:
        with zipfile.ZipFile(io.BytesIO(archive.data)) as opened:
            files = (entry for entry in opened.infolist() if not entry.is_dir())
            entries = [entry for entry in files if not is_left_behind(entry.filename)]
            _refuse_bombs(entries)
            for entry in entries:
                suffix = PurePosixPath(entry.filename).suffix.lower()
                name = entry.filename.replace("\\", "/")
                if suffix in IMAGE_SUFFIXES:
                    pictures[name] = content_id(opened.read(entry))
                elif may_hold_labels(name, lambda entry=entry: opened.read(entry)):  # type: ignore[misc]
                    documents.append((name, opened.read(entry)))
    except zipfile.BadZipFile as error:
        raise BrokenExport(f"a zip that cannot be read: {error}", incomplete=True) from error
    except (RuntimeError, NotImplementedError, OSError, EOFError, ValueError) as error:  # encrypted, unknown method
        raise BrokenExport(f"a zip that cannot be read: {error}") from error
    return pictures, documents


def may_hold_labels(name: str, read: Callable[[], bytes]) -> bool:
    """Whether a file that is no picture may be one of labels; a text is where each line is an image and a word."""
    path = PurePosixPath(name)
    if path.suffix.lower() == ".txt":
        return images_and_words(read().decode("utf-8", "replace")) is not None
    return path.suffix.lower() not in NO_LABELS and path.name != "MLTable"


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


def _refuse_bombs(entries: list[zipfile.ZipInfo]) -> None:
    from al_core.images import IMAGE_SUFFIXES

    size = sum(entry.file_size for entry in entries)
    if len(entries) > MOST_FILES or size > MOST_BYTES:
        raise BrokenExport(
            f"a zip of {len(entries):,} files and {size:,} bytes; at most {MOST_FILES:,} files and {MOST_BYTES:,} "
            "bytes are read: export the labels without the pictures"
        )
    for entry in entries:
        is_picture = PurePosixPath(entry.filename).suffix.lower() in IMAGE_SUFFIXES
        if not is_picture and entry.file_size > MOST_BYTES_OF_LABELS:
            raise BrokenExport(
                f"{entry.filename} in the zip has {entry.file_size:,} bytes; no file of labels is so large"
            )
