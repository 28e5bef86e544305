"""Plain tables: CSV, TSV, Excel, Parquet, or JSON rows with a column of images and one of labels.

Which column is which follows from its name, or from `labeling.columns`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from al_resources.labeling.formats.columns import IMAGE, LABEL, find_column, find_columns
from al_resources.labeling.formats.contract import Kind, NotThisFormat, Outcome, Row, listed
from al_resources.labeling.formats.document import Document, names_an_image

NAME = "table of images and labels"
KINDS: tuple[Kind, ...] = ("table", "json", "records")
ANNOTATOR = ("annotator", "labeled_by", "user", "worker", "worker_id", "email", "created_by")
LABELED_AT = ("labeled_at", "updated_at", "created_at", "timestamp", "date", "time")
CONFIDENCE = ("confidence", "label_confidence", "score", "probability")
CONTENT_ID = re.compile(r"[0-9a-f]{32}")
OUTCOME = "outcome"  # `al export` writes it; an answer that is no class
OUTCOMES: dict[str, Outcome] = {"skip": "skip", "bad": "bad", "removed": "removed"}
SECONDS = ("annotation_seconds", "lead_time", "seconds", "duration")


def rows(document: Document) -> Iterator[Row]:
    """See `Format.rows`. An empty cell is an image that nobody answered."""
    if document.kind == "table":
        found: list[dict[str, Any]] = document.table.to_dict("records")  # type: ignore[assignment]
        columns = list(document.table.columns)
    else:
        found = document.records()
        columns = list(dict.fromkeys(key for row in found for key in row))
    if len(columns) > 1 and columns == [str(place) for place in range(len(columns))]:  # a table without a header
        image, label = _by_place(found[0])
    else:
        image, label = _columns(found, columns, document.columns)
    beside = {
        field: find_column([one for one in columns if one not in (image, label)], names, document.columns.get(field))
        for field, names in (
            ("annotator", ANNOTATOR),
            ("labeled_at", LABELED_AT),
            ("confidence", CONFIDENCE),
            ("annotation_seconds", SECONDS),
        )
    }
    for row in _whole(found, columns, label, cut=document.kind == "table" and document.may_be_cut):
        told = {field: row.get(column) or None for field, column in beside.items() if column is not None}
        answer = row.get(label)
        outcome = OUTCOMES.get(str(row.get(OUTCOME)), "unanswered" if answer in (None, "") else "label")
        yield Row(str(row.get(image) or ""), answer, row, **told, outcome=outcome)


def _by_place(first: dict[str, Any]) -> tuple[str, str]:
    """The columns of image and label in a table without a header: a file name, and what follows it (or precedes)."""
    places = list(first)
    image = next(place for place in places if names_an_image(first[place]))
    return image, places[places.index(image) + 1] if image != places[-1] else places[-2]


def _whole(found: list[dict[str, Any]], columns: list[str], label: str, *, cut: bool) -> Iterator[dict[str, Any]]:
    """The rows, the last one's label marked where it may be half a word: no other row has it, and no line ends it."""
    yield from found[:-1]
    for row in found[-1:]:
        half = cut and columns[-1] == label and row[label] not in {other[label] for other in found[:-1]}
        yield row | {label: {"cut": row[label]}} if half else row


def _columns(found: list[dict[str, Any]], columns: list[str], wanted: dict[str, str]) -> tuple[str, str]:
    images = find_columns(columns, IMAGE, wanted.get("image"))
    # a number of the row beside the file's name is no image
    image = next((one for one in images if any(_may_be_image(row.get(one)) for row in found)), next(iter(images), None))
    labels = find_columns([column for column in columns if column != image], LABEL, wanted.get("label"))
    label = next(iter(labels), None)
    if label is not None and all(_is_number(row.get(label)) for row in found):
        label = next((one for one in labels if _names_the_numbers(found, label, one)), label)
    if image is None or label is None:
        missing = "an image" if image is None else "a label"
        raise NotThisFormat(
            f"a column of images and one of labels (none of {listed(columns)} is {missing}); "
            'labeling.columns = {image = "...", label = "..."} says which is which'
        )
    return image, label


def _may_be_image(cell: Any) -> bool:
    return isinstance(cell, str) and (names_an_image(cell) or bool(CONTENT_ID.search(cell.lower())))


def _names_the_numbers(found: list[dict[str, Any]], number: str, name: str) -> bool:
    """Whether a column says in words what the one of numbers says: one word a number, and one number a word."""
    pairs = {(str(row.get(number)), str(row.get(name))) for row in found}
    words = {word for _, word in pairs}
    return len(pairs) == len(words) == len({one for one, _ in pairs}) and not any(map(_is_number, words))


def _is_number(cell: Any) -> bool:
    return isinstance(cell, int | float) or (isinstance(cell, str) and cell.strip().removesuffix(".0").isdecimal())
