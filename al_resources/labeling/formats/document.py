"""A file before anybody knows its format: what kind of content it is, decoded once for all formats that look at it."""

from __future__ import annotations

import codecs
import csv
import io
import json
import math
import re
import warnings
import zipfile
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from al_resources.labeling.formats.contract import BrokenExport, Kind, NotThisFormat, listed

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

    import pandas as pd

Mapping = dict[str, str]
# the longer marks first: UTF-32's begins like UTF-16's
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SEPARATORS = (",", "\t", ";", "|")
_IMAGE_AND_WORD = re.compile(r"(\S.*?)[ \t]+(\S+)\s*")
LINE_ENDINGS = (".jsonl", ".ndjson", ".manifest")


@dataclass
class Document:
    """One file. What is asked for is decoded when it is asked for, and only once."""

    data: bytes
    name: str
    columns: Mapping = field(default_factory=dict)  # the person's own names for columns of plain tables

    @cached_property
    def kind(self) -> Kind:
        """What the content is. Raises `BrokenExport` for what is empty, no text, or JSON with an error in it."""
        if not self.data.strip():
            raise BrokenExport("the file is empty (0 bytes)", incomplete=True)
        if self.data.startswith(b"PK\x03\x04"):
            return "table" if self._is_workbook() else "zip"
        if self.data.startswith(b"PAR1"):
            return "table"
        start = self.text.lstrip()[:1]
        if start == "<":
            return "xml"
        if start in ("{", "["):
            return "records" if isinstance(self.content, _Lines) else "json"
        return "table" if not _is_json(self.text) else "json"

    @cached_property
    def described(self) -> str:
        """A few words on what is in it."""
        if self.kind == "json":
            content = self.content
            if isinstance(content, dict):
                return f"a JSON object with the keys {listed(content)}"
            return f"a JSON {type(content).__name__}"
        if self.kind == "table":
            return f"a table with the columns {listed(self.table.columns)}"
        return {"records": "JSON lines", "xml": "an XML document", "zip": "a zip"}[self.kind]

    @cached_property
    def text(self) -> str:
        """The text in whichever UTF it is. Raises `BrokenExport`."""
        for mark, encoding in _MARKS:
            if self.data.startswith(mark):
                return self._decoded(encoding)
        # without a mark: every other byte of UTF-16 text in a European language is zero
        if self.data[1:2] == b"\0" and self.data[:1] != b"\0":
            return self._decoded("utf-32-le" if self.data[1:4] == b"\0\0\0" else "utf-16-le")
        if self.data[:1] == b"\0":
            return self._decoded("utf-32-be" if self.data[:3] == b"\0\0\0" else "utf-16-be")
        return self._decoded("utf-8")

    @cached_property
    def content(self) -> Any:
        """The JSON value, or the objects of JSON lines. Raises `BrokenExport`."""
        try:
            return json.loads(self.text)
        except RecursionError as error:
            raise BrokenExport("not valid JSON that can be read: nested too deeply") from error
        except ValueError as error:
            lines = [(number, line) for number, line in enumerate(self.text.splitlines(), 1) if line.strip()]
            if self.name.endswith(LINE_ENDINGS) or _is_json(lines[0][1]) or (len(lines) > 1 and _is_json(lines[-1][1])):
                return _Lines(_line(number, line, last=number == lines[-1][0]) for number, line in lines)
            raise BrokenExport(f"not valid JSON: {error}", incomplete=True) from error

    def records(self) -> list[dict[str, Any]]:
        """The objects of JSON lines, of a JSON array, or the only one. Raises `NotThisFormat`."""
        content = self.content if self.kind in ("json", "records") else None
        rows = [content] if isinstance(content, dict) else content
        if not isinstance(rows, list) or not rows:
            raise NotThisFormat("one object an image, in lines or in an array")
        for number, row in enumerate(rows, start=1):
            if not isinstance(row, dict):
                raise NotThisFormat(f"objects only; entry {number} is a {type(row).__name__}")
        return cast("list[dict[str, Any]]", rows)

    def object(self, *keys: str) -> dict[str, Any]:
        """The JSON object with these keys. Raises `NotThisFormat`."""
        content = self.content
        if not isinstance(content, dict) or not set(keys) <= content.keys():
            raise NotThisFormat(_and(keys))
        return content

    @cached_property
    def xml(self) -> Element:
        """The root element. Raises `BrokenExport`; a document that declares entities is not expanded but refused."""
        from xml.etree import ElementTree

        if "<!DOCTYPE" in self.text or "<!ENTITY" in self.text:
            raise BrokenExport("an XML document with a DOCTYPE or entities is not read; no labeling tool writes one")
        try:
            return ElementTree.fromstring(self.text)
        except ElementTree.ParseError as error:
            raise BrokenExport(f"not valid XML: {error}", incomplete=True) from error

    @cached_property
    def table(self) -> pd.DataFrame:
        """The rows of CSV, TSV, Excel or Parquet, every cell as text, an empty one as "". Raises `BrokenExport`."""
        import pandas as pd

        try:
            if self.data.startswith(b"PAR1"):
                frame = pd.read_parquet(io.BytesIO(self.data))
            elif self.data.startswith(b"PK"):
                frame = pd.read_excel(io.BytesIO(self.data), dtype=str, keep_default_na=False)
            else:
                frame = self._separated()
        except (ValueError, OSError, pd.errors.ParserError, KeyError, zipfile.BadZipFile) as error:
            raise BrokenExport(f"a table that cannot be read: {error}", incomplete=True) from error
        except ImportError as error:
            raise BrokenExport(f"a table that needs one more package: {error}; or save it as CSV") from error
        frame.columns = [str(column).strip() for column in frame.columns]
        return frame.map(_text)

    def _separated(self) -> pd.DataFrame:
        import pandas as pd

        text = self._without_remarks(self.text.strip("\ufeff"))
        header = next((line for line in text.splitlines() if line.strip()), "")
        if (listed_images := images_and_words(text)) is not None:
            return pd.DataFrame(listed_images, columns=["0", "1"])
        separator = max(_SEPARATORS, key=header.count)
        bare = not any(header.count(one) for one in _SEPARATORS)
        self._refuse_half_a_line(text, header, separator)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", pd.errors.ParserWarning)
            frame = pd.read_csv(
                io.StringIO(text),
                sep="," if bare else separator,
                header=None if any(map(names_an_image, header.split(separator))) else 0,
                dtype=str,
                keep_default_na=False,
                skipinitialspace=True,
                index_col=False,
            )
        if said:  # lines are longer than the header: pandas cuts them off
            _refuse_more_cells(text, separator, frame.shape[1])
        return frame

    @staticmethod
    def _without_remarks(text: str) -> str:
        """Without the line with which Excel is told the separator, and without comments in front of the header."""
        while text.startswith("#") or re.match(r"(?i)sep=.\r?\n", text):
            first, _, rest = text.partition("\n")
            if first.startswith("#") and any(map(first.count, _SEPARATORS)):
                break  # a header that begins with a #, like VIA's
            text = rest
        return text

    @property
    def may_be_cut(self) -> bool:
        """Whether the last cell of a table of text may be half a cell: no line break follows it."""
        return not self.data.startswith((b"PAR1", b"PK")) and not self.text.endswith(("\n", "\r"))

    def _refuse_half_a_line(self, text: str, header: str, separator: str) -> None:
        last = text.splitlines()[-1]
        columns, found = (len(next(csv.reader([line], delimiter=separator), [])) for line in (header, last))
        if self.may_be_cut and found < columns:
            raise BrokenExport(f"the last line has {found} of {columns} columns: the file is cut off", incomplete=True)

    def _is_workbook(self) -> bool:
        try:
            with zipfile.ZipFile(io.BytesIO(self.data)) as archive:
                return "xl/workbook.xml" in archive.namelist()
        except zipfile.BadZipFile as error:
            raise BrokenExport(f"a zip that cannot be read: {error}", incomplete=True) from error

    def _decoded(self, encoding: str) -> str:
        try:
            return self.data.decode(encoding)
        except UnicodeDecodeError as error:
            raise BrokenExport(
                f"no text in UTF-8, UTF-16 or UTF-32: it begins with {self.data[:8]!r} ({encoding}: {error.reason}); "
                "a table from a spreadsheet is read as .xlsx or as CSV UTF-8, pictures come in with `al ingest`",
                incomplete=error.start >= len(self.data) - 4,  # cut in the middle of a character
            ) from error


class _Lines(list[Any]):
    """The values of JSON lines, to be told from those of a JSON array."""


def _line(number: int, line: str, *, last: bool) -> Any:
    try:
        return json.loads(line.strip("\ufeff"))  # files that were put one behind the other bring their marks along
    except RecursionError as error:
        raise BrokenExport(f"line {number} is nested too deeply") from error
    except ValueError as error:
        # only the last line of a file in the middle of being written can be cut
        raise BrokenExport(f"line {number} is not valid JSON: {error}", incomplete=last) from error


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _refuse_more_cells(text: str, separator: str, columns: int) -> None:
    """A cell beyond the header belongs to no column; empty ones are what a separator at the end of a line makes."""
    for number, cells in enumerate(csv.reader(io.StringIO(text), delimiter=separator), 1):
        if any(cell.strip() for cell in cells[columns:]):
            raise BrokenExport(
                f"line {number} has {len(cells)} cells, the header {columns}: is a {separator!r} in a cell without "
                'quotes? Expected "cell, with comma"'
            )


def _and(keys: tuple[str, ...]) -> str:
    return f"{', '.join(keys[:-1])} and {keys[-1]}" if len(keys) > 1 else keys[0]


def names_an_image(cell: str) -> bool:
    """Whether the first cell of a table is an image already: then the table has no header."""
    from al_core.images import IMAGE_SUFFIXES

    return str(cell).strip().strip('"').lower().endswith(tuple(IMAGE_SUFFIXES))


def images_and_words(text: str) -> list[tuple[str, str]] | None:
    """The lines of a list like ImageNet's, `folder/my cat.jpg 0`: an image and a word each; None for any other text."""
    found = []
    for line in text.splitlines():
        if line.strip():
            match = _IMAGE_AND_WORD.fullmatch(line)
            if match is None or not names_an_image(match[1]):
                return None
            found.append((match[1].strip().strip('"'), match[2]))
    return found or None


def _text(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return value.isoformat() if hasattr(value, "isoformat") else str(value).strip()
