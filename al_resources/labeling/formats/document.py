"""A file before anybody knows its format: what kind of content it is, decoded once for all formats that look at it."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import math
import re
import tarfile
import warnings
import zipfile
import zlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from al_resources.labeling.formats.columns import IMAGE, find_column
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
SEPARATORS = (",", "\t", ";", "|")
MOST_BYTES = 1_000_000_000  # of one file of labels, unpacked
csv.field_size_limit(MOST_BYTES)  # a cell may hold a picture
_OTHER_FILES = {  # what people put there by mistake, by its first bytes
    b"\xd0\xcf\x11\xe0": "a workbook of an old Excel (.xls); save it as .xlsx or CSV",
    b"7z\xbc\xaf": "a 7-Zip archive; pack it as a zip",
    b"Rar!": "a RAR archive; pack it as a zip",
    b"%PDF": "a PDF; expected an export of a labeling tool, or a table",
    b"SQLite": "a database; expected an export of a labeling tool, or a table",
    b"\x28\xb5\x2f\xfd": "compressed by Zstandard; expected it unpacked, or in a zip",
    b"BZh": "compressed by bzip2; expected it unpacked, or in a zip",
    b"\xfd7zXZ": "compressed by xz; expected it unpacked, or in a zip",
}
_IMAGE_AND_WORD = re.compile(r"(\S.*?)[ \t]+(\S+)\s*")
FIRST_BYTES = 4_096
LINE_ENDINGS = (".jsonl", ".ndjson", ".manifest")


@dataclass
class Document:
    """One file. What is asked for is decoded when it is asked for, and only once."""

    data: bytes
    name: str
    columns: Mapping = field(default_factory=dict)  # the person's own names for columns of plain tables

    def __post_init__(self) -> None:
        """Unpack what gzip packed. Raises `BrokenExport`."""
        if self.data.startswith(b"\x1f\x8b") and not is_tar(self.data):
            self.data = _gunzipped(self.data)

    @cached_property
    def kind(self) -> Kind:
        """What the content is. Raises `BrokenExport` for what is empty, no text, or JSON with an error in it."""
        if not self.data.strip():
            raise BrokenExport("the file is empty (0 bytes)", incomplete=True)
        if is_tar(self.data):
            return "zip"
        if self.data.startswith((b"PK\x03\x04", b"PK\x05\x06")):  # the latter is one with nothing in it
            return "table" if self._is_workbook() else "zip"
        if self.data.startswith(b"PAR1"):
            return "table"
        start = self.text.lstrip()[:1]
        if self.text.lstrip()[:14].lower().startswith(("<!doctype html", "<html")):
            raise BrokenExport("a web page and no export: did the address want somebody to log in first?")
        if start == "<":
            return "xml"
        if start in ("{", "["):
            if self.content in ([], {}):
                raise BrokenExport("there is nothing in it; was it released before anybody had labeled?")
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
        self._refuse_other_files()
        return self._decoded(_unmarked_encoding(self.data[:FIRST_BYTES]))

    @cached_property
    def content(self) -> Any:
        """The JSON value, or the objects of JSON lines. Raises `BrokenExport`."""
        try:
            return json.loads(self.text)
        except RecursionError as error:
            raise BrokenExport("not valid JSON that can be read: nested too deeply") from error
        except ValueError as error:
            lines = [(number, line) for number, line in enumerate(lines_of(self.text), 1) if line.strip()]
            if self.name.endswith(LINE_ENDINGS) or any(_is_line(line) for _, line in (lines[0], *lines[1:][-1:])):
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
    def sheets(self) -> dict[str, bytes]:
        """The sheets of a workbook that hold something, as CSV; of any other file none. Raises `BrokenExport`."""
        import pandas as pd

        if not self.data.startswith(b"PK") or self.kind != "table":
            return {}
        try:
            read = pd.read_excel(io.BytesIO(self.data), sheet_name=None, header=None, dtype=str, keep_default_na=False)
        except (ValueError, OSError, KeyError, zipfile.BadZipFile) as error:
            raise BrokenExport(f"a workbook that cannot be read: {error}", incomplete=True) from error
        except ImportError as error:
            raise BrokenExport(f"a workbook needs one more package: {error}; or save it as CSV") from error
        found = {}
        for name, frame in read.items():
            cells = frame.map(_text)
            cells = cells.loc[(cells != "").any(axis=1), (cells != "").any(axis=0)]  # a table may stand further down
            if not cells.empty:
                found[str(name)] = cells.to_csv(index=False, header=False).encode()
        return found

    @cached_property
    def table(self) -> pd.DataFrame:
        """The rows of CSV, TSV, Excel or Parquet, every cell as text, an empty one as "". Raises `BrokenExport`."""
        import pandas as pd

        if self.data.startswith(b"PK"):
            return Document(next(iter(self.sheets.values()), b""), self.name, self.columns).table
        try:
            frame = self._parquet() if self.data.startswith(b"PAR1") else self._separated()
        except (ValueError, OSError, pd.errors.ParserError, KeyError, csv.Error) as error:
            raise BrokenExport(f"a table that cannot be read: {error}", incomplete=True) from error
        except ImportError as error:
            raise BrokenExport(f"a table that needs one more package: {error}; or save it as CSV") from error
        frame.columns = [str(column).strip() for column in frame.columns]
        return frame.map(_text)

    def _parquet(self) -> pd.DataFrame:
        """By Arrow and not by pandas, for which a number beside an empty cell is another one: 1 becomes 1.0."""
        import pandas as pd
        from pyarrow import parquet

        table = parquet.read_table(io.BytesIO(self.data))
        names = _class_names(table.schema.metadata or {})
        cells = {
            column: [names[column][value] if column in names and value is not None else value for value in values]
            for column, values in table.to_pydict().items()
        }
        # pandas writes numbers beside an empty cell as fractions
        whole = {name for name, values in cells.items() if all(_is_whole(value) for value in values)}
        for name in whole:
            cells[name] = [None if value is None or math.isnan(value) else int(value) for value in cells[name]]
        return pd.DataFrame(cells, dtype=object)

    def _separated(self) -> pd.DataFrame:
        import pandas as pd

        text = self._without_remarks(self.text.strip("\ufeff"))
        header = next((line for line in lines_of(text) if line.strip()), "")
        if (listed_images := images_and_words(text)) is not None:
            return pd.DataFrame(listed_images, columns=["0", "1"])
        separator = max(SEPARATORS, key=header.count)
        bare = not any(header.count(one) for one in SEPARATORS)
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
            separator = max(SEPARATORS, key=first.count)
            cells = [cell.strip().strip('"') for cell in first.lstrip("# ").split(separator)]
            if len(cells) > 1 and find_column(cells, IMAGE, None) is not None:
                return text.lstrip("# ")  # a header that begins with a #, like VIA's and NumPy's
            text = rest
        return text

    @property
    def may_be_cut(self) -> bool:
        """Whether the last cell of a table of text may be half a cell: no line break follows it."""
        return not self.data.startswith((b"PAR1", b"PK")) and not self.text.endswith(("\n", "\r"))

    def _refuse_half_a_line(self, text: str, header: str, separator: str) -> None:
        last = lines_of(text.rstrip("\r\n"))[-1]
        columns, found = (len(next(csv.reader([line], delimiter=separator), [])) for line in (header, last))
        if self.may_be_cut and found < columns:
            raise BrokenExport(f"the last line has {found} of {columns} columns: the file is cut off", incomplete=True)

    def _is_workbook(self) -> bool:
        try:
            with zipfile.ZipFile(io.BytesIO(self.data)) as archive:
                return "xl/workbook.xml" in archive.namelist()
        except zipfile.BadZipFile as error:
            raise BrokenExport(f"a zip that cannot be read: {error}", incomplete=True) from error

    def _refuse_other_files(self) -> None:
        from al_core.images import BadImage, image_suffix

        for start, what in _OTHER_FILES.items():
            if self.data.startswith(start):
                raise BrokenExport(what)
        try:
            suffix = image_suffix(self.data[:FIRST_BYTES])
        except BadImage:
            return
        if not self.data.isascii():  # text may begin with BM
            raise BrokenExport(f"a picture ({suffix}) and no export; pictures come in with `al ingest`")

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
    line = line.strip("\ufeff")  # files that were put one behind the other bring their marks along
    try:
        return json.loads(line.rstrip().removesuffix(","))  # lines cut out of an array keep its commas
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


def _is_line(text: str) -> bool:
    """Whether it is one of JSON lines, and not the last line of an indented document."""
    text = text.rstrip().removesuffix(",")
    return _is_json(text) and text.lstrip()[:1] in ("{", "[")


def lines_of(text: str) -> list[str]:
    """The lines, by line breaks alone: JSON and quoted cells may hold what Unicode counts as the end of a line, too."""
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def is_tar(data: bytes) -> bool:
    """Whether it is a tar, packed or not."""
    if not (data.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ")) or data[257:262] == b"ustar"):
        return False
    try:
        return tarfile.is_tarfile(io.BytesIO(data))
    except (EOFError, zlib.error):  # packed, and cut off or damaged: whatever it was
        return False


def _gunzipped(data: bytes) -> bytes:
    try:
        with gzip.open(io.BytesIO(data)) as packed:
            unpacked = packed.read(MOST_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise BrokenExport(f"a gzip file that cannot be read: {error}", incomplete=True) from error
    if len(unpacked) > MOST_BYTES:
        raise BrokenExport(f"a gzip file of more than {MOST_BYTES:,} bytes; no file of labels is so large")
    return unpacked


def _unmarked_encoding(start: bytes) -> str:
    """The UTF of text without a mark: file names and separators are ASCII, so their other bytes are zero."""
    zeros = [start[place::4].count(0) for place in range(4)]
    if sum(zeros) < len(start) / 10:
        return "utf-8"
    quarter = len(start) // 4
    if min(zeros[2:]) >= quarter:
        return "utf-32-le"
    if min(zeros[:2]) >= quarter:
        return "utf-32-be"
    return "utf-16-le" if zeros[1] + zeros[3] > zeros[0] + zeros[2] else "utf-16-be"


def _class_names(metadata: dict[bytes, bytes]) -> dict[str, list[str]]:
    """Column -> names, where a data set of Hugging Face counts its classes and says in the schema how they are called.

    Source: Hugging Face's documentation (datasets: ClassLabel, features in Parquet's metadata).
    """
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
        return {
            column: [str(name) for name in feature["names"]]
            for column, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


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
    for line in lines_of(text):
        if line.strip():
            match = _IMAGE_AND_WORD.fullmatch(line)
            if match is None or not names_an_image(match[1]):
                return None
            found.append((match[1].strip().strip('"'), match[2]))
    return found or None


def _is_whole(value: Any) -> bool:
    return value is None or (isinstance(value, float) and (math.isnan(value) or value.is_integer()))


def _text(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, dict) and {"bytes", "path"} & value.keys():  # a picture in a data set of Hugging Face
        return str(value.get("path") or _content_id(value.get("bytes") or b""))
    return value.isoformat() if hasattr(value, "isoformat") else str(value).strip()


def _content_id(data: bytes) -> str:
    from al_core.images import content_id

    return content_id(data)
