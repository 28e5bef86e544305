"""Prodigy's JSONL: one task a line, with the answer `accept`, `reject` or `ignore`.

Source: Prodigy's documentation (api-interfaces: classification, choice).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping
from typing import Any

from al_resources.labeling.formats.contract import Answers, Kind, NotThisFormat, Row
from al_resources.labeling.formats.document import Document

NAME = "Prodigy JSONL"
KINDS: tuple[Kind, ...] = ("json", "records")


def rows(document: Document) -> Iterator[Row]:
    """See `Format.rows`."""
    found = document.records()
    if not all("image" in row and "answer" in row for row in found):
        raise NotThisFormat("image and answer in every line")
    for row in found:
        yield _row(row)


def _row(row: Mapping[str, Any]) -> Row:
    meta = row.get("meta") if isinstance(row.get("meta"), Mapping) else {}
    name = row.get("path") or (meta or {}).get("file") or row.get("text")
    image, content = str(row["image"]), None
    if image.startswith("data:"):
        image, content = str(name or f"task {row.get('_task_hash')}"), _content(image)
    drawn = [{"label": one.get("label")} for one in row.get("spans") or () if isinstance(one, Mapping)]
    answers = Answers(_names(row) or drawn)
    label: Any = answers.names if answers.names == drawn else answers.label
    if row["answer"] == "reject":
        label = {"rejected": answers.label}  # it is not that class, which does not say what it is
    return Row(
        image=image,
        label=label,
        source={key: value for key, value in row.items() if key != "image"},
        annotator=row.get("_annotator_id") or row.get("_session_id"),
        labeled_at=row.get("_timestamp"),
        outcome="skip" if row["answer"] == "ignore" else answers.outcome,
        content=content,
    )


def _names(row: Mapping[str, Any]) -> list[Any]:
    if "accept" in row:
        chosen = row["accept"] if isinstance(row["accept"], list) else [row["accept"]]
        return list(chosen)
    return [row["label"]] if row.get("label") else []


def _content(data_uri: str) -> str | None:
    from al_core.images import content_id

    try:
        return content_id(base64.b64decode(data_uri.partition(",")[2]))
    except (ValueError, binascii.Error):
        return None
