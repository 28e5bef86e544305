"""SageMaker Ground Truth's augmented manifest: JSON lines with `source-ref` and one attribute a labeling job.

Source: Amazon SageMaker's documentation (image classification job output).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from al_resources.labeling.formats.contract import Answers, Kind, NotThisFormat, Row
from al_resources.labeling.formats.document import Document

NAME = "Ground Truth manifest"
KINDS: tuple[Kind, ...] = ("json", "records")
METADATA = "-metadata"


def rows(document: Document) -> Iterator[Row]:
    """See `Format.rows`."""
    found = document.records()
    told = any(key.endswith(METADATA) for row in found for key in row)  # `source` alone is a column of anybody's
    if not all("source-ref" in row or (told and "source" in row) for row in found):
        raise NotThisFormat("source-ref in every line")
    for row in found:
        yield _row(row, document.columns.get("label"))


def _row(row: Mapping[str, Any], wanted: str | None) -> Row:
    image = str(row.get("source-ref") or row.get("source"))
    found = [value for key, value in row.items() if key.endswith(METADATA) and isinstance(value, Mapping)]
    if isinstance(one := row.get(f"{wanted}{METADATA}"), Mapping):  # of the jobs that were done one behind the other
        found = [one]
    told = [one for one in found if ("class-name" in one or "class-map" in one) and not _is_drawn(one)]
    told = [one for one in told if "verification" not in str(one.get("type"))]  # these judge another job's answers
    if not told:
        drawn = [{"label": name} for one in found if _is_drawn(one) for name in _classes_of(one)]
        return Row(image, drawn or None, row, outcome="label" if drawn else "unanswered")
    newest = max(told, key=lambda one: str(one.get("creation-date", "")))  # chained jobs: the last one's word
    answers = Answers(_classes_of(newest))
    if str(newest.get("human-annotated", "yes")).lower() != "yes":
        return Row(image, {"human-annotated": "no", "label": answers.label}, row)
    return Row(
        image=image,
        label=answers.label,
        source=row,
        labeled_at=newest.get("creation-date"),
        confidence=newest.get("confidence") or None,
        outcome=answers.outcome,
    )


def _is_drawn(metadata: Mapping[str, Any]) -> bool:
    """Whether the job asked for boxes or areas: their class map names what is in the picture, and not the picture."""
    kind = str(metadata.get("type", ""))
    return "detection" in kind or "segmentation" in kind or isinstance(metadata.get("objects"), list)


def _classes_of(metadata: Mapping[str, Any]) -> list[Any]:
    if "class-name" in metadata:
        return [metadata["class-name"]]
    colours = metadata.get("internal-color-map", {})
    return [*metadata.get("class-map", {}).values(), *(one.get("class-name") for one in colours.values())]
