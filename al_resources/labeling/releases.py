"""Releases: what stands on the labeling page, written as an export into the inbox, where the sensor finds it.

An export is cumulative and named by its content: releasing twice without a new answer is the same file, and one that
holds more brings only what is new.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from al_core.errors import ActiveLearningError
from al_resources.labeling.answers import Answer, AnswerLog, standing_answers
from al_resources.labeling.class_list import ClassList
from al_resources.labeling.inbox import INBOX
from al_resources.labeling.staging import round_folder, staged_images

if TYPE_CHECKING:
    import polars as pl

    from al_resources.blobs import BlobStore

OUTCOMES = {"unsure": "skip", "bad_image": "bad"}


class NothingToRelease(ActiveLearningError):
    """No label stands in the round."""


@dataclass(frozen=True)
class Release:
    """An export in the inbox. `new`: it was not there before."""

    path: str
    labels: int
    new: bool


def release_round(blobs: BlobStore, round_: int, answers: Iterable[Answer], classes: ClassList) -> Release:
    """Write what stands in a round as an export: labels, what people could not label, and what they took back.

    Raises:
        NothingToRelease: nobody has answered yet.
    """
    answers = list(answers)
    file_of = {image.image_id: image.file_name for image in staged_images(blobs, round_)}
    standing = standing_answers(answers)
    last: dict[tuple[str, str], Answer] = {
        (answer.image_id, answer.annotator): answer for answer in sorted(answers, key=lambda answer: answer.at)
    }
    rows = [
        _row(answer, whose in standing, f"{round_folder(round_)}/{file_of[answer.image_id]}", classes)
        for whose, answer in {**last, **standing}.items()
        if answer.image_id in file_of
    ]
    if not standing:
        raise NothingToRelease(f"round {round_}: nobody has labeled a picture yet; label some, then release")
    path, new = write_rows(blobs, f"{round_:04d}-page", rows)
    return Release(path, sum(row["label"] is not None for row in rows), new)


def release_renamed(blobs: BlobStore, votes: pl.DataFrame, name: str, into: str, at: str) -> Release:
    """An export that says of every standing vote for `name` (see `al_core.answers.standing`) that it is for `into`."""
    rows = [
        {"image_url": image_id, "label": into, "annotator": annotator, "labeled_at": at}
        for image_id, annotator in votes.filter(label=name).select("image_id", "annotator").sort("image_id").iter_rows()
    ]
    if not rows:
        raise NothingToRelease(f"no label of class {name!r} stands")
    path, new = write_rows(blobs, "classes", rows)
    return Release(path, len(rows), new)


def _row(answer: Answer, stands: bool, path: str, classes: ClassList) -> dict[str, Any]:
    """One line of the export, as `formats.azure_ml_jsonl` reads it: a label of null takes the answer back."""
    label = classes.current(answer.label) if stands and answer.label is not None else None
    return {
        "image_url": path,
        "label": label,
        "annotator": answer.annotator,
        "labeled_at": answer.at.isoformat(),
        "annotation_seconds": answer.milliseconds / 1000 if label and answer.milliseconds else None,
        "mode": answer.mode,
        **({"outcome": OUTCOMES[answer.kind]} if stands and answer.kind in OUTCOMES else {}),
        **({"note": answer.note} if answer.note else {}),
    }


def write_rows(blobs: BlobStore, name: str, rows: list[dict[str, Any]]) -> tuple[str, bool]:
    """Write rows as an export that is named by its content; its path, and whether it was not there before."""
    ordered = sorted(rows, key=lambda row: (row["image_url"], row["annotator"]))
    data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ordered).encode()
    path = f"{INBOX}/{name}-{hashlib.blake2b(data, digest_size=6).hexdigest()}.jsonl"
    return path, blobs.write(path, data, if_absent=True)


def is_round_settled(blobs: BlobStore, round_: int, log: AnswerLog) -> bool:
    """Whether somebody answered every picture of a round."""
    answered = {answer.image_id for answer in standing_answers(log).values()}
    return all(image.image_id in answered for image in staged_images(blobs, round_))
