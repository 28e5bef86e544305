"""FiftyOne: labels.json of an image classification dataset, and samples.json of its own dataset.

Source: FiftyOne's documentation (FiftyOneImageClassificationDataset, FiftyOneDataset).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from al_resources.labeling.formats.contract import Answers, BrokenExport, Kind, NotThisFormat, Row, listed
from al_resources.labeling.formats.document import Document

NAME = "FiftyOne"
KINDS: tuple[Kind, ...] = ("json",)


def rows(document: Document) -> Iterator[Row]:
    """See `Format.rows`."""
    content = document.content
    if isinstance(content, dict) and isinstance(content.get("labels"), dict) and "classes" in content:
        for image, label in content["labels"].items():
            yield _row(image, label, content["classes"])
    elif isinstance(content, dict) and isinstance(content.get("samples"), list):
        for sample in content["samples"]:
            yield _row_of_sample(sample)
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


def _row_of_sample(sample: Any) -> Row:
    if not isinstance(sample, Mapping) or not isinstance(sample.get("filepath"), str):
        raise BrokenExport("FiftyOne: a sample without filepath")
    fields = {name: value for name, value in sample.items() if _is_classification(value)}
    if "ground_truth" in fields:
        fields = {"ground_truth": fields["ground_truth"]}
    if len(fields) > 1:
        raise BrokenExport(f"FiftyOne: classifications in {listed(fields)}; export the one that people answered")
    told: Mapping[str, Any] = next(iter(fields.values()), {})
    answers = Answers([told["label"]] if told.get("label") else [])
    return Row(
        sample["filepath"], answers.label, dict(sample), confidence=told.get("confidence"), outcome=answers.outcome
    )


def _is_classification(value: Any) -> bool:
    return isinstance(value, Mapping) and value.get("_cls") == "Classification"
