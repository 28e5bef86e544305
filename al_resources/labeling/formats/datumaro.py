"""Datumaro's own JSON, one of CVAT's exports that keeps tags.

Source: Datumaro's documentation (formats/datumaro).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from al_resources.labeling.formats.contract import Answers, BrokenExport, Kind, Row
from al_resources.labeling.formats.document import Document

NAME = "Datumaro"
KINDS: tuple[Kind, ...] = ("json",)


def rows(document: Document) -> Iterator[Row]:
    """See `Format.rows`."""
    content = document.object("categories", "items")
    try:
        names = [str(label["name"]) for label in content["categories"].get("label", {}).get("labels", [])]
        yield from [_row(item, names) for item in content["items"]]
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise BrokenExport(f"Datumaro JSON that cannot be read: {type(error).__name__} {error}") from error


def _row(item: Mapping[str, Any], names: list[str]) -> Row:
    said = [one for one in item.get("annotations", []) if one.get("label_id") is not None]  # captions have none
    media = item.get("image") or item.get("media") or {}
    shapes = [_shape(one, names) for one in said if one.get("type") != "label"]
    tags = [one for one in said if one.get("type") == "label"]
    answers = Answers([_name(one, names) for one in tags] or shapes)
    label = answers.label if tags else answers.names
    attributes = tags[0].get("attributes", {}) if len(tags) == 1 else {}
    return Row(
        image=str(media.get("path") or item["id"]),
        label=label,
        source=item,
        confidence=attributes.get("score", attributes.get("confidence")),
        outcome=answers.outcome,
    )


def _shape(annotation: Mapping[str, Any], names: list[str]) -> dict[str, Any]:
    label = _name(annotation, names)
    if annotation.get("type") == "bbox":
        return {"label": label, "bbox": annotation["bbox"]}
    return {"label": label, "polygon": [annotation["points"]] if annotation.get("type") == "polygon" else []}


def _name(annotation: Mapping[str, Any], names: list[str]) -> Any:
    number = annotation["label_id"]
    return names[number] if 0 <= number < len(names) else {"unknown label_id": number}
