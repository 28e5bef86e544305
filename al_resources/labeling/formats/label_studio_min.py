"""Label Studio's JSON-MIN, CSV and TSV: one flat row an annotation.

Source: Label Studio's documentation (guide/export).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from al_resources.labeling.formats.contract import Answers, Kind, NotThisFormat, Row
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
    answer_columns = _answer_columns(found)
    for row in found:
        answers = Answers([name for column in answer_columns for name in _choices(row.get(column))])
        yield Row(
            image=image_of({key: value for key, value in row.items() if key not in OWN and key not in answer_columns}),
            label=answers.label,
            source=row,
            annotator=row["annotator"] or None,
            labeled_at=row.get("updated_at") or row.get("created_at") or None,
            annotation_seconds=row.get("lead_time") or None,
            outcome=answers.outcome,
        )


def _answer_columns(found: list[dict[str, Any]]) -> list[str]:
    """The controls of the project: `choice`, or else the first column that is neither the tool's nor the image's."""
    columns = list(dict.fromkeys(key for row in found for key in row if key not in OWN))
    named = [column for column in columns if column.lower() in ("choice", "choices", "label", "class", "category")]
    addresses = {column: sum(is_address(row.get(column)) for row in found) for column in columns}
    image = "image" if "image" in columns else max(columns, key=lambda column: addresses[column], default=None)
    return named or [column for column in columns if column != image][:1]


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
