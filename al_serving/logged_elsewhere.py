"""What somebody else's service answered, on its way into the log: the body of `POST /log`.

A model that this platform does not serve is watched, and selected for, like one of its own when its answers and their
images are in the log. What is sent is checked as what is scored is: images are decoded, probabilities are a
distribution over the classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from al_core.images import BadImage, content_id, decode_image
from al_core.near_duplicates import near_duplicate_hash
from al_core.uncertainty import uncertainty_scores
from al_serving.collector import Prediction, Rejection
from al_serving.payloads import MAX_IMAGES, BadRequest, base64_bytes

MOST_CLASSES = 100_000
LONGEST_ERROR = 300  # characters of what is wrong with a body


class ElsewhereAnswer(BaseModel):
    """One image and what the model answered."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    image: str = Field(description="the file, as base64")
    probs: list[float] = Field(description="one for each class, in their order; they add up to 1")
    name: str = Field("", max_length=200, description="what the client calls the image")
    latency_ms: float | None = Field(None, ge=0, allow_inf_nan=False)
    prediction_id: str | None = Field(
        None, pattern=r"^[\w.:-]{1,64}$", description="what is sent twice under one id counts once"
    )


class ElsewhereAnswers(BaseModel):
    """The body of `POST /log`."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    model_name: str = Field(pattern=r"^[a-z][a-z0-9_-]{1,62}$")
    model_version: int = Field(ge=1, lt=2**63)
    classes: list[str] = Field(min_length=1, max_length=MOST_CLASSES)
    predictions: list[ElsewhereAnswer] = Field(min_length=1, max_length=MAX_IMAGES)

    @field_validator("classes")
    @classmethod
    def _are_different(cls, classes: list[str]) -> list[str]:
        if len(set(classes)) < len(classes) or "" in classes:
            raise ValueError("expected different names, none of them empty")
        return classes


@dataclass(frozen=True)
class Limits:
    """What one request may bring."""

    image_bytes: int
    image_pixels: int
    request_pixels: int


@dataclass(frozen=True)
class Taken:
    """What goes into the log, and what into the ledger of rejected images."""

    predictions: list[Prediction]
    rejections: list[Rejection]


def answers_of(body: bytes) -> ElsewhereAnswers:
    """A body, checked. Raises `BadRequest`, which names the first place that is wrong."""
    try:
        return ElsewhereAnswers.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the body"
        raise BadRequest(400, f"{place[:LONGEST_ERROR]}: {first['msg'][:LONGEST_ERROR]}") from error


def taken(answers: ElsewhereAnswers, limits: Limits) -> Taken:
    """The rows of a request; an image that cannot be read is a rejection, as it is where images are scored.

    Raises:
        BadRequest: probabilities that are no distribution over the classes, or more pixels than a request may have:
            then nothing of it is taken.
    """
    probs = _distributions(answers)
    predictions: list[Prediction] = []
    rejections: list[Rejection] = []
    pixels = 0
    for row, answer in enumerate(answers.predictions):
        try:
            data = _file(answer, limits.image_bytes)
            picture = decode_image(data, name=answer.name, max_pixels=limits.image_pixels)
        except BadImage as error:
            rejections.append(Rejection(answer.name or f"predictions.{row}", error.reason, "online"))
            continue
        pixels += picture.width * picture.height
        if pixels > limits.request_pixels:
            raise BadRequest(
                413,
                f"the images have more than {limits.request_pixels:,} pixels together (serving.max_request_pixels); "
                "send them in several requests",
            )
        predictions.append(
            Prediction(
                image=data,
                image_id=content_id(data),
                image_hash=near_duplicate_hash(picture),
                model_name=answers.model_name,
                model_version=answers.model_version,
                classes=tuple(answers.classes),
                probs=probs[row],
                source="online",
                latency_ms=answer.latency_ms,
                prediction_id=answer.prediction_id,
                name=answer.name or None,
            )
        )
    return Taken(predictions, rejections)


def _distributions(answers: ElsewhereAnswers) -> Sequence[np.ndarray]:
    for row, answer in enumerate(answers.predictions):
        if len(answer.probs) != len(answers.classes):
            raise BadRequest(
                400, f"predictions.{row}.probs: {len(answer.probs)} numbers for {len(answers.classes)} classes"
            )
    probs = np.array([answer.probs for answer in answers.predictions], np.float32)
    for row in range(len(probs)):
        try:
            uncertainty_scores(probs[row : row + 1])
        except ValueError as error:
            raise BadRequest(400, f"predictions.{row}.probs: {error}") from error
    return list(probs)


def _file(answer: ElsewhereAnswer, most: int) -> bytes:
    try:
        data = base64_bytes(answer.image)
    except ValueError as error:
        raise BadImage(answer.name, f"is no base64: {error}") from error
    if len(data) > most:
        raise BadImage(answer.name, f"{len(data):,} bytes, at most {most:,} are accepted; scale it down")
    return data
