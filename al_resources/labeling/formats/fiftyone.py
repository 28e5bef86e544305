"""FiftyOne: labels.json of an image classification dataset, and samples.json of its own dataset.

Source: FiftyOne's documentation (FiftyOneImageClassificationDataset, FiftyOneDataset).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from al_resources.labeling.formats.contract import Answers, BrokenExport, Kind, NotThisFormat, Row, listed, the_question
from al_resources.labeling.formats.document import Document

NAME = "FiftyOne"
KINDS: tuple[Kind, ...] = ("json",)
_LISTS = {"Classifications": "classifications", "Detections": "detections", "Polylines": "polylines"}
_LABELS = ("Classification", "Detection", "Polyline")


def rows(document: Document) -> Iterator[Row]:
    """See `Format.rows`."""
    content = document.content
    if isinstance(content, dict) and isinstance(content.get("labels"), dict) and "classes" in content:
        for image, label in content["labels"].items():
            yield _row(image, label, content["classes"])
    elif isinstance(content, dict) and isinstance(content.get("samples"), list):
        for sample in content["samples"]:
            yield _row_of_sample(sample, document.columns.get("label"))
    else:
        raise NotThisFormat("classes and labels, or samples")


def _row(image: str, value: Any, classes: Any) -> Row:
    told: Mapping[str, Any] = value if isinstance(value, Mapping) else {"label": value}
    label = told.get("label")
    if isinstance(label, int) and not isinstance(label, bool):
        if not isinstance(classes, list) or not 0 <= label < len(classes):
            raise BrokenExport(f"FiftyOne: label {label} of {image!r} is no index of the {listed(classes or [])}")
        label = classes[label]
    answers = Answers(label if isinstance(label, list) else [] if label is None else [label])
    return Row(image, answers.label, {image: value}, confidence=told.get("confidence"), outcome=answers.outcome)


def _row_of_sample(sample: Any, wanted: str | None) -> Row:
    if not isinstance(sample, Mapping) or not isinstance(sample.get("filepath"), str):
        raise BrokenExport("FiftyOne: a sample without filepath")
    fields = {name: value for name, value in sample.items() if _labels(value)}
    told = _labels(fields.get(the_question(fields, wanted, "FiftyOne's fields") or ""))
    drawn = [one for one in told if one.get("_cls") != "Classification"]
    names = [one["label"] for one in told if one.get("_cls") == "Classification"]
    answers = Answers([_shape(one) for one in drawn] or names)
    return Row(
        sample["filepath"],
        answers.names if drawn else answers.label,
        dict(sample),
        confidence=told[0].get("confidence") if len(told) == 1 else None,
        outcome=answers.outcome,
    )


def _labels(value: Any) -> list[Mapping[str, Any]]:
    """What a field says of the image: a classification, several, or what is drawn in it."""
    if not isinstance(value, Mapping):
        return []
    within = value.get(_LISTS.get(str(value.get("_cls")), ""))
    found = within if isinstance(within, list) else [value]
    return [one for one in found if isinstance(one, Mapping) and one.get("_cls") in _LABELS and one.get("label")]


def _shape(label: Mapping[str, Any]) -> dict[str, Any]:
    return {"label": label["label"], **({"bbox": label["bounding_box"]} if label.get("bounding_box") else {})}
