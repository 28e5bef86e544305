"""Releases: what stands on the labeling page, written as an export into the inbox, where the sensor finds it.

An export is cumulative and named by its content: releasing twice without a new answer is the same file, and one that
holds more brings only what is new.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from al_core.errors import ActiveLearningError
from al_resources.labeling.answers import Answer, AnswerLog, standing_answers
from al_resources.labeling.class_list import ClassList
from al_resources.labeling.merge import INBOX
from al_resources.labeling.staging import round_folder, staged_images

if TYPE_CHECKING:
    import polars as pl

    from al_resources.blobs import BlobStore

OUTCOMES = "labeling/outcomes"


class NothingToRelease(ActiveLearningError):
    """No label stands in the round."""


@dataclass(frozen=True)
class Release:
    """An export in the inbox. `new`: it was not there before."""

    path: str
    labels: int
    new: bool


def release_round(blobs: BlobStore, round_: int, answers: Iterable[Answer], classes: ClassList) -> Release:
    """Write the standing labels of a round as an export. Raises `NothingToRelease`.

    What people could not label (unsure, bad image) is written beside, so that nobody waits for it.
    """
    file_of = {image.image_id: image.file_name for image in staged_images(blobs, round_)}
    standing = [answer for answer in standing_answers(answers).values() if answer.image_id in file_of]
    labels = [answer for answer in standing if answer.kind == "label" and answer.label]
    _write_outcomes(blobs, round_, standing)
    if not labels:
        raise NothingToRelease(f"round {round_}: nobody has labeled a picture yet; label some, then release")
    rows = [_row(answer, f"{round_folder(round_)}/{file_of[answer.image_id]}", classes) for answer in labels]
    path, new = _write(blobs, f"{round_:04d}-page", rows)
    return Release(path, len(rows), new)


def release_renamed(blobs: BlobStore, votes: pl.DataFrame, name: str, into: str, at: str) -> Release:
    """An export that says of every standing vote (rows of `LABELS`) for `name` that it is for `into`."""
    rows = [
        {"image_url": image_id, "label": into, "annotator": annotator, "labeled_at": at}
        for image_id, annotator in votes.filter(label=name).select("image_id", "annotator").sort("image_id").iter_rows()
    ]
    if not rows:
        raise NothingToRelease(f"no label of class {name!r} stands")
    path, new = _write(blobs, "classes", rows)
    return Release(path, len(rows), new)


def settled_without_label(blobs: BlobStore) -> Mapping[str, str]:
    """Image id -> "unsure" or "bad_image", of all rounds: people looked, and no label will come."""
    found: dict[str, str] = {}
    for blob in blobs.list(OUTCOMES):
        found |= json.loads(blobs.read(blob.path))
    return found


def _write_outcomes(blobs: BlobStore, round_: int, standing: Iterable[Answer]) -> None:
    standing = list(standing)
    labeled = {answer.image_id for answer in standing if answer.kind == "label"}
    outcomes = {answer.image_id: answer.kind for answer in standing if answer.image_id not in labeled}
    if outcomes or blobs.exists(f"{OUTCOMES}/{round_:04d}.json"):
        blobs.write(f"{OUTCOMES}/{round_:04d}.json", json.dumps(outcomes, indent=1, sort_keys=True).encode())


def _row(answer: Answer, path: str, classes: ClassList) -> dict[str, Any]:
    assert answer.label is not None
    return {
        "image_url": path,
        "label": classes.current(answer.label),
        "annotator": answer.annotator,
        "labeled_at": answer.at.isoformat(),
        "annotation_seconds": answer.milliseconds / 1000 if answer.milliseconds else None,
        "mode": answer.mode,
        **({"note": answer.note} if answer.note else {}),
    }


def _write(blobs: BlobStore, name: str, rows: list[dict[str, Any]]) -> tuple[str, bool]:
    ordered = sorted(rows, key=lambda row: (row["image_url"], row["annotator"]))
    data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ordered).encode()
    path = f"{INBOX}/{name}-{hashlib.blake2b(data, digest_size=6).hexdigest()}.jsonl"
    return path, blobs.write(path, data, if_absent=True)


def is_round_settled(blobs: BlobStore, round_: int, log: AnswerLog) -> bool:
    """Whether somebody answered every picture of a round."""
    answered = {answer.image_id for answer in standing_answers(log).values()}
    return all(image.image_id in answered for image in staged_images(blobs, round_))
