"""Label Studio's JSON-MIN, CSV and TSV: one flat row an annotation.

Source: Label Studio's documentation (guide/export).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from al_resources.labeling.formats.contract import Answers, Kind, NotThisFormat, Row, the_question
from al_resources.labeling.formats.document import Document
from al_resources.labeling.formats.label_studio import image_of, is_address

NAME = "Label Studio JSON-MIN or CSV"
KINDS: tuple[Kind, ...] = ("json", "records", "table")
OWN = {"id", "annotation_id", "annotator", "created_at", "updated_at", "lead_time", "agreement", "was_cancelled"}
MARKS = {"annotation_id", "annotator"}  # no other tool's table has these two


def rows(document: Document) -> Iterator[Row]:
    """See `Format.rows`."""
    if document.kind == "table":
        found: list[dict[str, Any]] = document.table.to_dict("records")  # type: ignore[assignment]
    else:
        found = document.records()
    if not found or not all(row.keys() >= MARKS for row in found):
        raise NotThisFormat(f"{' and '.join(sorted(MARKS))} in every row")
    asked = _asked(found)
    filled = [column for column in asked if any(_choices(row.get(column)) for row in found)]
    question = the_question(filled, document.columns.get("label"), "Label Studio's controls")
    for row in found:
        answers = Answers(_choices(row.get(question)) if question else [])
        is_drawn = any(isinstance(name, Mapping) for name in answers.names)
        yield Row(
            image=image_of({key: value for key, value in row.items() if key not in OWN and key not in asked}),
            label=[{"label": None, **name} for name in answers.names] if is_drawn else answers.label,
            source=row,
            annotator=row["annotator"] or None,
            labeled_at=row.get("updated_at") or row.get("created_at") or None,
            annotation_seconds=row.get("lead_time") or None,
            outcome="skip" if str(row.get("was_cancelled")).lower() in ("true", "1") else answers.outcome,
        )


def _asked(found: list[dict[str, Any]]) -> list[str]:
    """The controls of the project: what is neither the tool's nor the image's, as far as the order can be relied on
    what stands behind the task's own data and number.
    """
    columns = list(dict.fromkeys(key for row in found for key in row))
    others = [column for column in columns if column not in OWN]
    addresses = {column: sum(is_address(row.get(column)) for row in found) for column in others}
    image = "image" if "image" in others else max(others, key=lambda column: addresses[column], default=None)
    asked = [column for column in others if column != image]
    if "id" not in columns:
        return asked
    start, end = columns.index("id"), min(columns.index(mark) for mark in MARKS)
    return [column for column in asked if start < columns.index(column) < end] or asked


def _choices(value: Any) -> list[Any]:
    """A single choice is bare, several are {"choices": [...]}; in a table that is JSON in a cell."""
    if isinstance(value, str) and value.startswith(("{", "[")):
        try:
            value = json.loads(value)
        except ValueError:
            return [value]
    if isinstance(value, Mapping):
        value = value.get("choices", [])
    return list(value) if isinstance(value, list) else [value] if value not in (None, "") else []
