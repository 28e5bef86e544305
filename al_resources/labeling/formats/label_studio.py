"""Label Studio's JSON: tasks with their annotations, who gave each, when and how long it took.

Drafts and the tool's own predictions are no answers. Source: Label Studio's documentation (guide/export).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from al_resources.labeling.formats.contract import Answers, BrokenExport, Kind, NotThisFormat, Row, the_question
from al_resources.labeling.formats.document import Document

NAME = "Label Studio JSON"
KINDS: tuple[Kind, ...] = ("json", "records")
ANSWERS = frozenset({"annotations", "completions", "predictions"})  # with the latter alone nobody has answered
_CHOICES = frozenset({"choices", "taxonomy"})
_PLACES = frozenset({"x", "points"})


def rows(document: Document) -> Iterator[Row]:
    """See `Format.rows`: one row an annotation, and one a task that nobody answered."""
    tasks = document.records()
    if not all("data" in task and not ANSWERS.isdisjoint(task) for task in tasks):
        raise NotThisFormat("tasks with data and annotations")
    try:
        asked = [control for task in tasks for one in _annotations(task) for control in _controls(one.get("result"))]
        question = the_question(asked, document.columns.get("label"), "Label Studio's controls")
        yield from [row for task in tasks for row in _rows_of_task(task, question)]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise BrokenExport(f"Label Studio JSON that cannot be read: {type(error).__name__} {error}") from error


def _annotations(task: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return list(task.get("annotations") or task.get("completions") or [])


def _controls(result: Any) -> list[str]:
    """The names of the controls of choices that were answered."""
    return [str(one.get("from_name", "")) for one in result or () if _is_choice(one.get("value") or {})]


def _is_choice(value: Mapping[str, Any]) -> bool:
    """Whether it is said of the picture and not of a part of it."""
    return not _CHOICES.isdisjoint(value) and _PLACES.isdisjoint(value)


def _rows_of_task(task: Mapping[str, Any], question: str | None) -> Iterator[Row]:
    image = image_of(task["data"]) or str(task.get("file_upload") or f"task {task.get('id')}")
    annotations = _annotations(task)
    for annotation in annotations:
        answers = answers_in(annotation.get("result") or [], question)
        yield Row(
            image=image,
            label=answers.label if not any(isinstance(one, dict) for one in answers.names) else answers.names,
            source={"task": task.get("id"), **annotation},
            annotator=who(annotation.get("completed_by")),
            labeled_at=annotation.get("updated_at") or annotation.get("created_at"),
            annotation_seconds=annotation.get("lead_time"),
            outcome="skip" if annotation.get("was_cancelled") else answers.outcome,
        )
    if not annotations:
        yield Row(image, None, {"task": task.get("id")}, outcome="unanswered")


def answers_in(result: list[Mapping[str, Any]], question: str | None = None) -> Answers:
    """The classes of an annotation's result, or else what is drawn; `question`: of this control of choices only."""
    answers = Answers()
    drawn: list[dict[str, Any]] = []
    for one in result:
        value = one.get("value") or {}
        if _is_choice(value):
            if question is None or str(one.get("from_name", "")) == question:
                answers.names += value.get("choices") or [path[-1] for path in value.get("taxonomy", ()) if path]
        elif "x" in value and "width" in value:
            drawn += [_box(name, value) for name in value.get("rectanglelabels", [None])]
        elif "points" in value:
            flat = [share / 100 for point in value["points"] for share in point]
            drawn += [{"label": name, "polygon": [flat]} for name in value.get("polygonlabels", [None])]
        elif names := next((names for key, names in value.items() if key.endswith("labels")), None):
            drawn += [{"label": name} for name in names]  # brushes, ellipses, key points
    answers.names = answers.names or drawn
    return answers


def _box(label: str | None, value: Mapping[str, Any]) -> dict[str, Any]:
    """Label Studio counts in percent of the picture."""
    left, top = value["x"] / 100, value["y"] / 100
    return {
        "label": label,
        "topX": left,
        "topY": top,
        "bottomX": left + value["width"] / 100,
        "bottomY": top + value["height"] / 100,
    }


def image_of(data: Mapping[str, Any]) -> str:
    """The first value that looks like a picture's address: the key is the project's own choice."""
    texts = [value for value in data.values() if isinstance(value, str)]
    likely = [value for value in texts if is_address(value)]
    known = [data[key] for key in ("image", "img", "url") if isinstance(data.get(key), str)]
    return next(iter([*known, *likely, *texts]), "")


def is_address(value: Any) -> bool:
    """Whether a value may be a path, an address or a file name."""
    return isinstance(value, str) and re.search(r"[/\\]|\.[A-Za-z]{3,5}$", value) is not None


def who(completed_by: Any) -> Any:
    """The person: an address where the export has it, otherwise the number."""
    if isinstance(completed_by, Mapping):
        return completed_by.get("email") or completed_by.get("username") or completed_by.get("id")
    return completed_by
