"""Formats of labeling exports: one module each, told apart by content and never by a file's ending.

`read_export` is the only door. A new format is a module with `NAME`, `KINDS` and `rows` (see `contract`), and one line
in `FORMATS`.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from al_resources.labeling.formats import (
    azure_ml_jsonl,
    coco,
    cvat,
    datumaro,
    fiftyone,
    ground_truth,
    label_studio,
    label_studio_min,
    labelbox,
    prodigy,
    roboflow,
    tables,
    via,
    via_3,
    via_csv,
)
from al_resources.labeling.formats.archive import members, unpacked, with_pictures
from al_resources.labeling.formats.contract import BrokenExport, Format, NotThisFormat, Row, shortened
from al_resources.labeling.formats.document import Document, Mapping
from al_resources.labeling.formats.folders import rows_of_class_folders

# in the order in which they are tried: the plain table takes whatever has a column of images and one of labels
FORMATS: tuple[Format, ...] = (
    coco,
    datumaro,
    label_studio,
    fiftyone,
    via,
    via_3,
    cvat,
    ground_truth,
    labelbox,
    azure_ml_jsonl,
    label_studio_min,
    prodigy,
    via_csv,
    roboflow,
    tables,
)


UNREADABLE = (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, RuntimeError, csv.Error)


@dataclass(frozen=True)
class Reading:
    """What a file says: the format it is in and its rows, none of them judged yet."""

    format: str
    rows: list[Row]
    unlabeled: int = 0  # images that the file names without an answer
    skipped_files: dict[str, str] = field(default_factory=dict)  # of an archive: what was not read, and why


def read_export(
    data: bytes, name: str = "export", columns: Mapping | None = None, classes: Sequence[str] = ()
) -> Reading:
    """Read a file in whatever format it is.

    Args:
        data: The file's bytes.
        name: What it is called, for messages only.
        columns: Of plain tables: which column holds `image`, `label`, `annotator`, `labeled_at`, `confidence`.
        classes: The names that are known, for folders that could be read in two ways.

    Raises:
        BrokenExport: it is in none of the formats; `tried` names each with what was missing. `incomplete` where it
            may still be in the middle of being written.
    """
    document = Document(data, name, columns or {})
    if document.kind == "zip":
        return read_files(*members(document), document.columns, "zip", classes)
    if len(document.sheets) > 1:
        return read_files({}, [(name, data)], document.columns, "workbook", classes)
    return _read_document(document)


def _with_a_name(row: Row) -> Row:
    return row if isinstance(row.image, str) else replace(row, image=str(row.image))


def _read_document(document: Document) -> Reading:
    tried: dict[str, str] = {}
    for format_ in FORMATS:
        if document.kind not in format_.KINDS:
            continue
        try:
            rows = [_with_a_name(row) for row in format_.rows(document)]
        except NotThisFormat as error:
            tried[format_.NAME] = str(error)
        except BrokenExport as error:
            error.format = format_.NAME
            raise
        except UNREADABLE as error:  # others write these files: what is missing or of another type is no mistake here
            broken = BrokenExport(f"{format_.NAME} that cannot be read: {type(error).__name__} {error}")
            broken.format = format_.NAME
            raise broken from error
        else:
            answered = [row for row in rows if row.outcome != "unanswered"]
            return Reading(format_.NAME, answered, unlabeled=len(rows) - len(answered))
    why = "; ".join(f"{name} needs {shortened(reason, 120)}" for name, reason in tried.items())
    raise BrokenExport(f"{document.described}, in no format that is read here: {why}", tried=tried)


def _sheet_by_sheet(documents: list[tuple[str, bytes]]) -> Iterator[tuple[str, bytes]]:
    """The files, each sheet of a workbook by itself."""
    for name, data in documents:
        try:
            sheets = Document(data, name).sheets
        except BrokenExport:
            sheets = {}
        if len(sheets) > 1:
            yield from ((f"{name}, sheet {sheet!r}", cells) for sheet, cells in sheets.items())
        else:
            yield name, data


def read_files(
    pictures: dict[str, str],
    documents: list[tuple[str, bytes]],
    columns: Mapping,
    where: str,
    classes: Sequence[str] = (),
) -> Reading:
    """Every file of labels in a zip, folder or workbook; where there is none, its folders are the classes.

    Args:
        pictures: Path -> content id.
        documents: Path and bytes of what is no picture; archives among them are opened.
        columns: See `read_export`.
        where: What holds them, for messages.
        classes: See `read_export`.

    Raises:
        BrokenExport: there are no labels in it.
    """
    readings: list[Reading] = []
    pictures, documents, tried = unpacked(pictures, documents)
    broken = False  # a file of labels that cannot be used: then the folders are no second best
    for name, data in _sheet_by_sheet(documents):
        try:
            reading = _read_document(Document(data, name, columns))
        except BrokenExport as error:
            tried[name] = shortened(error.reason, 200)
            broken |= bool(error.format) and not error.incomplete
        else:
            readings.append(reading)
    rows = with_pictures([row for reading in readings for row in reading.rows], pictures)
    if not readings and not broken and (found := rows_of_class_folders(pictures, alone=not tried, classes=classes)):
        answered = [row for row in found if row.outcome != "unanswered"]
        return Reading(f"class folders in a {where}", answered, len(found) - len(answered), tried)
    if rows:
        formats = " and ".join(dict.fromkeys(reading.format for reading in readings))
        return Reading(f"{formats} in a {where}", rows, sum(one.unlabeled for one in readings), tried)
    if readings:
        return Reading(f"{readings[0].format} in a {where}", [], sum(one.unlabeled for one in readings), tried)
    inside = "; ".join(f"{name}: {reason}" for name, reason in list(tried.items())[:3])
    raise BrokenExport(
        f"a {where} of {len(pictures)} pictures and {len(documents)} other files holds no labels: "
        f"{inside or 'expected a file of labels, or one folder of pictures a class'}",
        tried=tried,
    )
