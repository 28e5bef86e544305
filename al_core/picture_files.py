"""Files of pictures on a disk: which there are, told by their first bytes, and what else lies between them and why."""

from __future__ import annotations

import os
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


@dataclass
class PictureFiles:
    """What lies below a folder: the pictures in the order of their paths, and the rest with the reasons."""

    pictures: list[Path] = field(default_factory=list)
    rejected: dict[str, str] = field(default_factory=dict)  # called like a picture, or unreadable: path -> reason
    others: list[Path] = field(default_factory=list)  # no pictures, and nobody said they were
    passed_over: dict[str, int] = field(default_factory=dict)  # of other kinds: ending, "hidden" or "link" -> how many


def find_pictures(folder: Path) -> PictureFiles:
    """Every picture below a folder, whatever its ending says; hidden files, links and folders are never followed."""
    from al_core.images import IMAGE_SUFFIXES, BadImage, image_suffix

    found = PictureFiles()

    def pass_over(kind: str) -> None:
        found.passed_over[kind] = found.passed_over.get(kind, 0) + 1

    for path in _files(folder, found):
        if is_left_behind(path.relative_to(folder).as_posix()):
            pass_over("hidden")
        elif path.is_symlink():
            pass_over("link")
        elif path.exists() and not path.is_file():
            pass_over("pipe, socket or device")  # opening one would wait for whoever writes into it
        else:
            try:
                with path.open("rb") as file:
                    image_suffix(file.read(FIRST_BYTES), name=str(path))
            except BadImage as error:
                if path.suffix.lower() in IMAGE_SUFFIXES:
                    found.rejected[str(path)] = error.reason
                else:
                    found.others.append(path)
                    pass_over(path.suffix.lower() or "no ending")
            except OSError as error:
                found.rejected[str(path)] = f"cannot be read: {error.strerror or error}"
            else:
                found.pictures.append(path)
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
