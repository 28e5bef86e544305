"""Which image an export means: by content id anywhere in the name, by the picture itself, or by the person's own name.

Tools change names: Label Studio puts eight digits in front of them, Roboflow `_png.rf.<hash>` behind them, CVAT on
Windows turns slashes round, browsers encode them. What is left of a name still has to lead to one image, or the answer
is *ambiguous* or *unknown*, never a guess.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from urllib.parse import unquote

from al_core.picture_files import printable
from al_resources.labeling.formats.contract import Row, listed, shortened

LONGEST_TOLD = 120  # characters of a name
UNKNOWN = "neither selected nor in the image store (`al ingest` adds pictures)"
_ID = re.compile(r"(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])")
_AS_UUID = re.compile(
    r"(?<![0-9a-f])[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}(?![0-9a-f])"
)  # databases write 128 bits so
_ADDRESS = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*://[^/]*")
_SERVED = re.compile(r"^/?data/local-files/?\?(?:.*&)?d=([^&#]*)")  # Label Studio's local storage
_UPLOAD_PREFIX = re.compile(r"^[0-9a-f]{8}-")  # Label Studio
_ROBOFLOW = re.compile(r"^(.+)[_.](jpe?g|png|bmp|webp|tiff?|gif|heic|avif)\.rf\.[0-9a-z]+\.\w+$", re.IGNORECASE)


@dataclass(frozen=True)
class Match:
    """The image that a name means, or why there is none."""

    image_id: str | None
    problem: str = ""


class ImageNames:
    """The images there are, by content id and by own name.

    Args:
        known: Of these image ids, those that exist.
        own: (name, image id) of every name under which an image came; asked for only where ids do not suffice.
    """

    def __init__(
        self,
        known: Callable[[Collection[str]], Collection[str]],
        own: Callable[[], Iterable[tuple[str, str]]] = tuple,
    ) -> None:
        self._known = known
        self._own = own

    def match(self, rows: Sequence[Row]) -> list[Match]:
        """One answer a row, in their order."""
        named = [ids_in(row.image) | uuids_in(row.image) | ({row.content} if row.content else set()) for row in rows]
        there = set(self._known(set().union(*named))) if named else set()
        return [self._match(row.image, row.content, found & there) for row, found in zip(rows, named, strict=True)]

    def find(self, name: str) -> Match:
        """The image of one name."""
        return self.match([Row(printable(name), None, None)])[0]

    def _match(self, name: str, content: str | None, ids: set[str]) -> Match:
        if content in ids:
            return Match(content)
        if len(ids) == 1:
            return Match(next(iter(ids)))
        if ids:
            return Match(None, f"image {shortened(name, LONGEST_TOLD)!r} is ambiguous: it names {listed(sorted(ids))}")
        return self._by_own_name(name)

    def _by_own_name(self, name: str) -> Match:
        for path in spellings(name):
            for level, key in _keys(path):
                candidates = self._index[level].get(key)
                if candidates:
                    return self._only_one(name, path, candidates)
        return Match(None, f"image {shortened(own_part(name), LONGEST_TOLD)!r} is unknown here: {UNKNOWN}")

    def _only_one(self, name: str, path: str, candidates: set[tuple[str, str]]) -> Match:
        """Where several images had that file name, the folders in front of it decide."""
        images = {image_id for _, image_id in candidates}
        if len(images) > 1:
            images = {image_id for own, image_id in candidates if own == path} or images
        if len(images) > 1:
            shared = {(own, image_id): _shared_end(own, path) for own, image_id in candidates}
            most = max(shared.values())
            images = {image_id for (_, image_id), count in shared.items() if count == most}
        if len(images) == 1:
            return Match(images.pop())
        paths = sorted({own for own, image_id in candidates if image_id in images})
        told = shortened(name, LONGEST_TOLD)
        return Match(
            None, f"image {told!r} is ambiguous: {len(images)} images came under that name ({listed(paths, 3)})"
        )

    @cached_property
    def _index(self) -> dict[str, dict[str, set[tuple[str, str]]]]:
        index: dict[str, dict[str, set[tuple[str, str]]]] = {level: defaultdict(set) for level in _LEVELS}
        for name, image_id in self._own():
            path = spellings(name)[0]
            for level, key in _keys(path):
                index[level][key].add((path, image_id))
        return index


_LEVELS = ("exact", "name", "letters", "stem")


def _keys(path: str) -> list[tuple[str, str]]:
    """How a path is looked up, the strictest way first: file name, whatever its case, its letters and digits, these
    without the ending.
    """
    from al_core.images import IMAGE_SUFFIXES

    exact = PurePosixPath(path).name
    base = exact.casefold()
    suffix = PurePosixPath(base).suffix
    stem = base.removesuffix(suffix) if suffix in IMAGE_SUFFIXES else base  # tools leave that out; `v1.2` is a name
    return [("exact", exact), ("name", base), ("letters", _letters(base)), ("stem", _letters(stem))]


def _letters(text: str) -> str:
    """Tools replace what is no letter or digit, each in its own way. That something parted digits is kept: `1_11` is
    not `11_1`.
    """
    return re.sub(r"((?<=\d)[\W_]+(?=\d))|[\W_]+", lambda found: "_" if found[1] else "", text) or text


def ids_in(name: str) -> set[str]:
    """What may be content ids in the file name, wherever they stand in it."""
    return {found for path in spellings(name) for found in _ID.findall(PurePosixPath(path).name.lower())}


def uuids_in(name: str) -> set[str]:
    """What may be content ids written with dashes. Tools give files such names of their own, too."""
    files = (PurePosixPath(path).name.lower() for path in spellings(name))
    return {found.replace("-", "") for file in files for found in _AS_UUID.findall(file)}


def own_part(name: str) -> str:
    """What a name is called in messages and in an export's identity: its content id, or else the file name's stem."""
    ids = ids_in(name)
    return ids.pop() if len(ids) == 1 else PurePosixPath(spellings(name)[0]).stem


def spellings(name: str) -> list[str]:
    """The paths that a name may stand for, the most literal first, with `/` between folders and in NFC."""
    text = unicodedata.normalize("NFC", name.strip())
    if served := _SERVED.match(text):
        text = served[1]
    elif _ADDRESS.match(text) or text.startswith("/data/"):
        text = re.sub(r"[?#].*$", "", _ADDRESS.sub("", text), flags=re.DOTALL)
    found = [text]
    while "%" in found[-1] and unquote(found[-1]) not in found:  # encoded once, or once by each of two tools
        found.append(unicodedata.normalize("NFC", unquote(found[-1])))
    if _ADDRESS.match(name) or served:
        found.reverse()
    found.append(re.sub(r"[?#].*$", "", text, flags=re.DOTALL))
    paths = [path.replace("\\", "/") for path in found]
    for path in list(paths):
        folder, _, base = path.rpartition("/")
        before = f"{folder}/" if folder else ""
        if _UPLOAD_PREFIX.match(base.lower()):
            paths.append(before + base[9:])
        if roboflow := _ROBOFLOW.match(base):
            paths.append(f"{before}{roboflow[1]}.{roboflow[2]}")
    return list(dict.fromkeys(paths))


def _shared_end(one: str, other: str) -> int:
    """How many of the last parts of two paths are the same, whatever their case."""
    count = 0
    for left, right in zip(reversed(PurePosixPath(one).parts), reversed(PurePosixPath(other).parts), strict=False):
        if left.casefold() != right.casefold():
            break
        count += 1
    return count
