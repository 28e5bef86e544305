"""Labelbox's NDJSON: data rows with the labels of each project.

Source: Labelbox's documentation (export specification, image classifications).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from al_resources.labeling.formats.contract import Answers, BrokenExport, Kind, NotThisFormat, Row, the_question
from al_resources.labeling.formats.document import Document

NAME = "Labelbox NDJSON"
KINDS: tuple[Kind, ...] = ("json", "records")


def rows(document: Document) -> Iterator[Row]:
    """See `Format.rows`."""
    found = document.records()
    if not all("data_row" in row and "projects" in row for row in found):
        raise NotThisFormat("data_row and projects in every line")
    try:
        question = the_question(_questions(found), document.columns.get("label"), "Labelbox's questions")
        yield from [row for one in found for row in _rows(one, question)]
    except (KeyError, TypeError, AttributeError) as error:
        raise BrokenExport(f"Labelbox NDJSON that cannot be read: {type(error).__name__} {error}") from error


def _questions(found: Iterable[Mapping[str, Any]]) -> list[str]:
    return [
        str(one.get("name"))
        for row in found
        for project in row["projects"].values()
        for label in project.get("labels", [])
        for one in label.get("annotations", {}).get("classifications", [])
        if _names([one])
    ]


def _rows(row: Mapping[str, Any], question: str | None) -> Iterator[Row]:
    data_row = row["data_row"]
    image = str(data_row.get("external_id") or data_row.get("global_key") or data_row["row_data"])
    labels = [label for project in row["projects"].values() for label in project.get("labels", [])]
    for label in labels:
        details, performance = label.get("label_details", {}), label.get("performance_details", {})
        annotations = label.get("annotations", {})
        names = _names([one for one in annotations.get("classifications", []) if str(one.get("name")) == question])
        drawn = [] if names else [_shape(one) for one in annotations.get("objects", [])]
        answers = Answers(names or drawn)
        yield Row(
            image=image,
            label=drawn or answers.label,
            source=label,
            annotator=details.get("created_by"),
            labeled_at=details.get("updated_at") or details.get("created_at"),
            annotation_seconds=performance.get("seconds_to_create"),
            outcome="skip" if performance.get("skipped") else answers.outcome,
        )
    if not labels:
        yield Row(image, None, {"data_row": data_row}, outcome="unanswered")


def _shape(one: Mapping[str, Any]) -> dict[str, Any]:
    box = one.get("bounding_box") or {}
    sides = [box.get(side) for side in ("left", "top", "width", "height")]
    return {"label": one.get("name"), **({} if None in sides else {"bbox": sides})}


def _names(classifications: list[Mapping[str, Any]]) -> list[Any]:
    names = []
    for one in classifications:
        several = one.get("checklist_answers") or []
        answers = [one["radio_answer"]] if one.get("radio_answer") else several
        names += [answer.get("name") or answer.get("value") for answer in answers]
        if text := (one.get("text_answer") or {}).get("content"):
            names.append(text)
    return names
