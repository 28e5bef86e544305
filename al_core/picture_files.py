"""Files of pictures on a disk: which there are, told by their first bytes, and what else lies between them and why."""

from __future__ import annotations

import contextlib
import os
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

LEFT_FOLDERS = ("__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information")
LEFT_FILES = ("thumbs.db", "desktop.ini")
UNFINISHED = (".part", ".partial", ".tmp", ".crdownload", ".download")  # what copying and downloading programs write
FIRST_BYTES = 64


def is_left_behind(name: str) -> bool:
    """Whether a file is hidden, or was left by an operating system or a notebook: no export, no image, no class."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if any(part in LEFT_FOLDERS or (part.startswith((".", "~$")) and part != "..") for part in parts):
        return True
    return bool(parts) and (parts[-1].lower() in LEFT_FILES or parts[-1].lower().endswith(UNFINISHED))


def printable(name: str) -> str:
    """A file's name as text that every store takes: bytes that are no UTF-8 are shown as such."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def name_in_zip(entry: zipfile.ZipInfo) -> str:
    """A file's path in a zip. Apple's Finder writes UTF-8 without saying so, and zip then means the letters of DOS;
    some programs for Windows part folders by backslashes.
    """
    name = entry.filename
    if not entry.flag_bits & 0x800:
        with contextlib.suppress(UnicodeError):
            name = name.encode("cp437").decode("utf-8")
    return name.replace("\\", "/")


@dataclass
class PictureFiles:
    """What lies below a folder: the pictures in the order of their paths, and the rest with the reasons."""

    pictures: list[Path] = field(default_factory=list)
    rejected: dict[str, str] = field(default_factory=dict)  # called like a picture, or unreadable: path -> reason
    others: list[Path] = field(default_factory=list)  # no pictures, and nobody said they were
    left: dict[str, str] = field(default_factory=dict)  # path -> why nobody asks what it is: ending, "hidden", "link"

    @property
    def passed_over(self) -> dict[str, int]:
        """Of the files that are left: kind -> how many."""
        return dict(Counter(self.left.values()))


def find_pictures(folder: Path) -> PictureFiles:
    """Every picture below a folder, whatever its ending says; hidden files, links and folders are never followed."""
    from al_core.images import IMAGE_SUFFIXES, BadImage, image_suffix

    found = PictureFiles()

    for path in _files(folder, found):
        kind = None
        try:
            if is_left_behind(path.relative_to(folder).as_posix()):
                kind = "hidden"
            elif path.is_symlink():
                kind = "link"
            elif path.exists() and not path.is_file():
                kind = "pipe, socket or device"  # opening one would wait for whoever writes into it
            else:
                with path.open("rb") as file:
                    image_suffix(file.read(FIRST_BYTES), name=str(path))
                found.pictures.append(path)
        except BadImage as error:
            if path.suffix.lower() in IMAGE_SUFFIXES:
                found.rejected[str(path)] = error.reason
            else:
                found.others.append(path)
                kind = path.suffix.lower() or "no ending"
        except OSError as error:  # vanished, closed, in a folder that may be listed and not entered, too long a path
            found.rejected[str(path)] = f"cannot be read: {error.strerror or error}"
        if kind is not None:
            found.left[str(path)] = kind
    return found


def _files(folder: Path, found: PictureFiles) -> Iterator[Path]:
    """All files below a folder in the order of their paths; a folder that cannot be listed is named."""

    def unreadable(error: OSError) -> None:
        found.rejected[str(error.filename)] = f"a folder that cannot be read: {error.strerror or error}"

    paths = []
    for parent, folders, files in os.walk(folder, onerror=unreadable):
        paths += [Path(parent, name) for name in files]
        paths += [Path(parent, name) for name in folders if Path(parent, name).is_symlink()]
    return iter(sorted(paths))
