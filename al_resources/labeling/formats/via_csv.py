"""VGG Image Annotator's CSV: attributes as JSON in a cell, one row a region.

Source: VIA 2's documentation (robots.ox.ac.uk/~vgg/software/via).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from al_resources.labeling.formats.contract import BrokenExport, Kind, NotThisFormat, Row
from al_resources.labeling.formats.document import Document
from al_resources.labeling.formats.via import answers_of, class_attribute

NAME = "VGG VIA CSV"
KINDS: tuple[Kind, ...] = ("table",)


def rows(document: Document) -> Iterator[Row]:
    """See `Format.rows`."""
    table = document.table
    name = next((one for one in ("filename", "#filename") if one in table.columns), None)
    if name is None or "file_attributes" not in table.columns:
        raise NotThisFormat("the columns filename and file_attributes")
    files: dict[str, dict[str, Any]] = {}
    for image, attributes in zip(table[name], table["file_attributes"], strict=True):
        files.setdefault(image, {}).update(_attributes(attributes))
    attribute = class_attribute(files.values(), document.columns.get("label"))
    for image, attributes in files.items():
        answers = answers_of(attributes.get(attribute) if attribute else None)
        yield Row(image, answers.label, {"filename": image, **attributes}, outcome=answers.outcome)


def _attributes(cell: str) -> dict[str, Any]:
    try:
        found = json.loads(cell or "{}")
    except ValueError as error:
        raise BrokenExport(f"file_attributes {cell[:80]!r} is not JSON: {error}") from error
    return found if isinstance(found, dict) else {}
