"""JSON lines of {image_url, label}: Azure ML's, and what `al export --format jsonl` writes.

A label of null takes the annotator's answer back; `outcome` may say `skip` or `bad`.
Source: Azure ML's JSONL for AutoML image tasks (MLTable).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from al_resources.labeling.formats.contract import Kind, NotThisFormat, Outcome, Row, listed
from al_resources.labeling.formats.document import Document

NAME = "JSON lines of image_url and label"
KINDS: tuple[Kind, ...] = ("json", "records")
OUTCOMES: dict[str, Outcome] = {"label": "label", "skip": "skip", "bad": "bad", "removed": "removed"}


def rows(document: Document) -> Iterator[Row]:
    """See `Format.rows`."""
    for number, row in enumerate(document.records(), start=1):
        if "image_url" not in row or not {"label", "outcome"} & row.keys():
            raise NotThisFormat(f"image_url and label in every line, line {number} has {listed(sorted(row))}")
        label = _single(row.get("label"))
        outcome = row.get("outcome") or ("removed" if label is None else "label")
        yield Row(
            image=str(row["image_url"]),
            label=label,
            source=row,
            annotator=row.get("annotator"),
            labeled_at=row.get("labeled_at"),
            confidence=_single(row.get("label_confidence")),
            annotation_seconds=row.get("annotation_seconds"),
            outcome=OUTCOMES.get(str(outcome), "label"),
            mode=str(row["mode"]) if row.get("mode") else None,
        )


def _single(value: Any) -> Any:
    """Of a list with one entry that is no shape, the entry."""
    return value[0] if isinstance(value, list) and len(value) == 1 and not isinstance(value[0], dict) else value
