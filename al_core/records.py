"""The records that travel between the parts: one Arrow schema each, and the manifests as frozen models.

The same columns exist in every store (Delta Lake on one machine, Azure Data Explorer in the cloud).
Tables are built here and nowhere else, so that a column has one meaning.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from al_core.uncertainty import uncertainty_scores

UTC_MICROSECONDS = pa.timestamp("us", tz="UTC")

PREDICTIONS = pa.schema(
    [
        ("prediction_id", pa.string()),  # uuid7: sorts by time
        ("image_id", pa.string()),  # hex of the 128-bit hash of the file's bytes
        ("image_key", pa.int64()),  # its first 60 bits: a narrow column to compare and to draw random order from
        ("image_uri", pa.string()),
        ("image_hash", pa.string()),  # near-duplicate hash, hex of 128 bits; null when the image was not seen
        ("model_name", pa.string()),
        ("model_version", pa.int64()),
        ("predicted_label", pa.string()),
        ("confidence", pa.float32()),  # largest probability
        ("margin", pa.float32()),  # largest minus second largest probability
        ("entropy", pa.float32()),  # in nats
        ("probs", pa.list_(pa.float32())),  # in the order of the model's classes
        # of half precision; null: none was made, or EMBEDDINGS has it under the encoder that the model's manifest names
        ("embedding", pa.list_(pa.float32())),
        ("source", pa.string()),  # online | batch | simulation | rescore: for a selection, no traffic
        ("latency_ms", pa.float32()),  # time the answer took; null in batch
        ("logged_at", UTC_MICROSECONDS),
    ]
)

EMBEDDINGS = pa.schema(
    [
        ("encoder", pa.string()),  # content hash of all that makes an embedding; those of two encoders never mix
        ("image_id", pa.string()),
        ("image_key", pa.int64()),  # its first 60 bits
        ("image_hash", pa.string()),  # near-duplicate hash; null where the picture itself was not looked at
        ("embedding", pa.list_(pa.float32())),  # of half precision
        ("embedded_at", UTC_MICROSECONDS),
    ]
)

SELECTIONS = pa.schema(
    [
        ("round", pa.int64()),
        ("image_id", pa.string()),
        ("image_uri", pa.string()),
        ("image_hash", pa.string()),
        ("rank", pa.int64()),  # 0 is the image the strategy wants most
        (
            "reason",
            pa.string(),
        ),  # strategy | control | seed | duel | drift | search | review: a label that is probably wrong
        ("strategy", pa.string()),
        ("score", pa.float64()),  # what the strategy ordered by; null for random draws
        ("cluster", pa.int64()),  # of strategies that cluster; null otherwise
        ("propensity", pa.float64()),  # probability of being drawn; null for a strategy's choice
        ("prediction_id", pa.string()),  # the prediction the choice was made on; null for seeds
        ("model_version", pa.int64()),  # null for seeds
        ("seed", pa.int64()),
        ("selected_at", UTC_MICROSECONDS),
        ("against_version", pa.int64()),  # of duels: the champion that model_version is compared with
        ("challenger_answer", pa.string()),  # of duels
        ("champion_answer", pa.string()),  # of duels
    ]
)

LABELS = pa.schema(
    [
        ("image_id", pa.string()),
        ("label", pa.string()),
        ("annotator", pa.string()),
        ("labeled_at", UTC_MICROSECONDS),
        ("export_id", pa.string()),
        ("round", pa.int64()),
        ("confidence", pa.float64()),  # of the annotator, where the tool reports one
        ("annotation_seconds", pa.float64()),  # what the label cost, where the tool reports it
        ("answer", pa.int64()),  # how many answers of this annotator for this image other exports brought before
        ("outcome", pa.string()),  # null: a class; skip | bad | removed (taken back), the label then null
        ("mode", pa.string()),  # how it was given on the labeling page: single | grid; null for other tools
    ]
)

EXPORTS = pa.schema(
    [
        ("export_id", pa.string()),  # hash of the labels in it: the same labels under another name are the same export
        ("path", pa.string()),
        ("etag", pa.string()),
        ("status", pa.string()),  # merged | nothing_new | quarantined | gone: before it was read
        ("reason", pa.string()),
        ("round", pa.int64()),
        ("labels", pa.int64()),  # labels read
        ("new_labels", pa.int64()),
        ("set_aside", pa.int64()),  # rows that could not be used and lie in quarantine with their reason
        ("recorded_at", UTC_MICROSECONDS),
    ]
)

REJECTED_IMAGES = pa.schema(
    [
        ("name", pa.string()),
        ("reason", pa.string()),
        ("source", pa.string()),
        ("rejected_at", UTC_MICROSECONDS),
    ]
)

IMAGE_NAMES = pa.schema(
    [
        ("name", pa.string()),  # path, file name or upload name, as it came
        ("image_id", pa.string()),
        ("source", pa.string()),  # ingest | score | service
        ("recorded_at", UTC_MICROSECONDS),
    ]
)

DEPLOYMENTS = pa.schema(
    [
        ("deployment_id", pa.string()),  # uuid7
        ("endpoint", pa.string()),
        ("model_name", pa.string()),
        ("model_version", pa.int64()),
        ("previous_version", pa.int64()),
        ("outcome", pa.string()),  # promoted | rolled_back
        ("reason", pa.string()),
        ("round", pa.int64()),
        ("run_id", pa.string()),  # the Dagster run
        ("deployed_at", UTC_MICROSECONDS),
    ]
)

FAILURES = pa.schema(
    [
        ("run_id", pa.string()),  # the Dagster run
        ("job", pa.string()),
        ("round", pa.int64()),  # null where the run was of no round
        ("step", pa.string()),  # where it failed
        ("reason", pa.string()),  # one line for people
        ("failed_at", UTC_MICROSECONDS),
    ]
)

DECISIONS = pa.schema(
    [
        ("decision_id", pa.string()),  # uuid7
        ("endpoint", pa.string()),
        ("model_name", pa.string()),
        ("action", pa.string()),  # promote | keep | hold | release | rollback
        ("model_version", pa.int64()),  # who is to serve; of keep: the challenger that does not
        ("against_version", pa.int64()),  # who served when it was decided
        ("round", pa.int64()),
        ("reason", pa.string()),
        ("person", pa.string()),
        ("verdict", pa.string()),  # JSON of the GateVerdict it rests on; null for a person's decision
        ("run_id", pa.string()),  # the Dagster run
        ("decided_at", UTC_MICROSECONDS),
    ]
)

FORGOTTEN = pa.schema(
    [
        ("image_id", pa.string()),  # all that is kept of an erased image
        ("export_id", pa.string()),  # an export whose labels of it were erased; null: the image itself
        ("labels", pa.int64()),  # how many
        ("forgotten_at", UTC_MICROSECONDS),
    ]
)

LEDGERS: dict[str, pa.Schema] = {
    "selections": SELECTIONS,
    "labels": LABELS,
    "exports": EXPORTS,
    "rejected_images": REJECTED_IMAGES,
    "image_names": IMAGE_NAMES,
    "deployments": DEPLOYMENTS,
    "decisions": DECISIONS,
    "failures": FAILURES,
    "forgotten": FORGOTTEN,
}

Source = Literal["online", "batch", "simulation", "rescore"]
RESCORE: Source = "rescore"  # a newer model's answer to an image of the log: a batch was chosen on it


def utc_now() -> datetime:
    """The current time, aware, in UTC."""
    return datetime.now(UTC)


def image_keys(image_ids: Sequence[str]) -> np.ndarray:
    """The first 60 bits of each image id, shape (N,), int64, never negative.

    Content ids are hashes, so the keys are uniform: any window of them is a random sample of the images.
    """
    return np.fromiter((int(image_id[:15], 16) for image_id in image_ids), np.int64, len(image_ids))


def new_ids(count: int) -> list[str]:
    """`count` fresh version-7 UUIDs (RFC 9562): unique, and sorted by time of creation."""
    milliseconds = time.time_ns() // 1_000_000
    raw = np.frombuffer(os.urandom(16 * count), np.uint8).reshape(count, 16).copy()
    raw[:, :6] = np.frombuffer(milliseconds.to_bytes(6, "big"), np.uint8)
    raw[:, 6] = (raw[:, 6] & 0x0F) | 0x70
    raw[:, 8] = (raw[:, 8] & 0x3F) | 0x80
    text = raw.tobytes().hex()
    ids = []
    for start in range(0, 32 * count, 32):
        h = text[start : start + 32]
        ids.append(f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}")
    return sorted(ids)


def prediction_table(
    *,
    image_ids: Sequence[str],
    image_uris: Sequence[str],
    image_hashes: Sequence[str | None],
    model_name: str,
    model_version: int,
    classes: Sequence[str],
    probs: np.ndarray,
    source: Source,
    embeddings: np.ndarray | None = None,
    latency_ms: Sequence[float | None] | None = None,
    logged_at: datetime | None = None,
) -> pa.Table:
    """Rows of `PREDICTIONS` for `probs` of shape (N, C); the uncertainty scores are computed here, once.

    Raises:
        ValueError: `probs` has another width than `classes`, or a row is no probability distribution.
    """
    probs = np.asarray(probs, np.float32)
    if probs.ndim != 2 or probs.shape[1] != len(classes):
        raise ValueError(
            f"probabilities of shape {probs.shape} do not fit model {model_name} v{model_version}, "
            f"which has {len(classes)} classes: expected (N, {len(classes)})"
        )
    count = len(probs)
    scores = uncertainty_scores(probs)
    labels = np.asarray(classes, object)[probs.argmax(axis=1)] if count else np.empty(0, object)
    no_embeddings = pa.nulls(count, PREDICTIONS.field("embedding").type)
    stamp = pa.array([logged_at or utc_now()] * count, UTC_MICROSECONDS)
    return pa.table(
        {
            "prediction_id": pa.array(new_ids(count), pa.string()),
            "image_id": pa.array(image_ids, pa.string()),
            "image_key": pa.array(image_keys(image_ids)),
            "image_uri": pa.array(image_uris, pa.string()),
            "image_hash": pa.array(image_hashes, pa.string()),
            "model_name": pa.array([model_name] * count, pa.string()),
            "model_version": pa.array([model_version] * count, pa.int64()),
            "predicted_label": pa.array(labels, pa.string()),
            "confidence": pa.array(scores.confidence.astype(np.float32)),
            "margin": pa.array(scores.margin.astype(np.float32)),
            "entropy": pa.array(scores.entropy.astype(np.float32)),
            "probs": lists_of(probs),
            "embedding": no_embeddings if embeddings is None else lists_of(half_precision(embeddings)),
            "source": pa.array([source] * count, pa.string()),
            "latency_ms": pa.array(latency_ms if latency_ms is not None else [None] * count, pa.float32()),
            "logged_at": stamp,
        },
        schema=PREDICTIONS,
    )


def embedding_table(
    encoder: str, image_ids: Sequence[str], embeddings: np.ndarray, image_hashes: Sequence[str | None] | None = None
) -> pa.Table:
    """Rows of `EMBEDDINGS` for what one encoder made, (N, d), of N images."""
    count = len(image_ids)
    return pa.table(
        {
            "encoder": pa.array([encoder] * count, pa.string()),
            "image_id": pa.array(image_ids, pa.string()),
            "image_key": pa.array(image_keys(image_ids)),
            "image_hash": pa.array([None] * count if image_hashes is None else image_hashes, pa.string()),
            "embedding": lists_of(half_precision(embeddings)),
            "embedded_at": pa.array([utc_now()] * count, UTC_MICROSECONDS),
        },
        schema=EMBEDDINGS,
    )


def table_of(schema: pa.Schema, rows: Sequence[dict[str, Any]]) -> pa.Table:
    """`rows` as an Arrow table of `schema`; a column a row does not name is null, an unknown one is refused."""
    unknown = {name for row in rows for name in row} - set(schema.names)
    if unknown:
        raise ValueError(f"unknown column(s) {sorted(unknown)}; expected some of {schema.names}")
    return pa.Table.from_pylist(list(rows), schema=schema)


def empty_table(schema: pa.Schema) -> pa.Table:
    """A table without rows. Arrow's own `schema.empty_table()` imports pandas, for half a second."""
    return pa.table([pa.nulls(0, field.type) for field in schema], schema=schema)


def fitted(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """`rows` that an earlier version wrote, with the columns that `schema` has gained since; these are null."""
    for place, field in enumerate(schema):
        if field.name not in rows.schema.names:
            rows = rows.add_column(min(place, rows.num_columns), field, pa.nulls(len(rows), field.type))
    return rows


def half_precision(values: np.ndarray) -> np.ndarray:
    """`values` as float32, rounded to what 16 bits hold; the largest of these stand for finite ones beyond."""
    limit = np.finfo(np.float16).max
    return np.where(np.isinf(values), values, np.clip(values, -limit, limit)).astype(np.float16).astype(np.float32)


def lists_of(matrix: np.ndarray) -> pa.Array:
    """A (N, k) matrix as an Arrow list<float32> column without a Python object per value."""
    matrix = np.ascontiguousarray(matrix, np.float32)
    offsets = np.arange(0, matrix.size + 1, matrix.shape[1], dtype=np.int32) if len(matrix) else np.zeros(1, np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(matrix.ravel()))


class _Frozen(BaseModel):
    # What a newer version wrote besides is no reason to refuse a record; a wrong name in the code is mypy's to find.
    model_config = ConfigDict(frozen=True, extra="ignore")


Resize = Literal["squash", "shortest", "longest"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]


class Preprocessing(_Frozen):
    """How an image becomes the model's input: resized to `size` x `size`, scaled to 0-1, then normalised."""

    size: int
    channels: Literal[1, 3]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    # squash: the whole picture, whatever its shape; shortest: the middle square of it; longest: the whole picture,
    # its shape kept, on black
    resize: Resize = "squash"
    crop: float = Field(1.0, gt=0, le=1)  # of `shortest`: the share of the shorter side that is kept
    interpolation: Interpolation = "bilinear"


class EncoderRecord(_Frozen):
    """Where an encoder comes from, and what rebuilds it without asking anybody."""

    family: str  # small_cnn | torchvision | timm | hf | open_clip
    name: str
    source: str  # from scratch | hub REPOSITORY REVISION | folder NAME | the address or the file it was read from
    sha256: str | None = None  # of the files of its weights
    licence: str | None = None  # as its publisher says
    configuration: dict[str, Any] = Field(default_factory=dict)


class Interval(_Frozen):
    """A point estimate and the ends of its confidence interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


class GateVerdict(_Frozen):
    """What the promotion gate decided, and on what."""

    passed: bool
    reason: str  # one sentence for people
    champion_version: int | None  # None: the first model has nobody to beat
    difference: Interval | None  # challenger's accuracy minus champion's, paired over the same images
    tolerance: float
    images: int  # in the holdout
    holdout: str  # content hash of the holdout both were judged on
    outcome: Literal["better", "worse", "open"] | None = None  # None: judged before there were duels
    compared: int | None = None  # reserved images that both models answered
    disagreement: float | None = None  # the share of these on which they answer differently
    won: int | None = None  # images of the sample that only the challenger has right
    lost: int | None = None
    tied: int | None = None  # both are wrong, differently
    agreed: int | None = None  # both answer alike
    unasked: int | None = None  # they disagree and nobody was asked: counted against what is to be proven


class ModelManifest(_Frozen):
    """What is known of one model version; stored beside its weights and enough to rebuild and to trace it."""

    name: str
    version: int
    architecture: str
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    temperature: float = 1.0
    parent_version: int | None = None
    dataset_version: str
    round: int | None = None
    training_key: str  # hash of dataset, parent, settings and code: the same key is the same training
    training_settings: dict[str, Any] = Field(default_factory=dict)
    training_log: dict[str, Any] = Field(default_factory=dict)  # epochs, losses, seconds, device
    code_version: str
    labels: int  # training labels
    metrics: dict[str, Interval] = Field(default_factory=dict)  # on the holdout
    gate: GateVerdict | None = None  # the first look; labels of duels come later
    latency_ms: float | None = None  # of one answer, where it was judged
    size_mb: float | None = None  # of the weights
    run_id: str | None = None
    created_at: datetime
    weights_sha256: str
    content_sha256: str | None = None  # of all that this manifest says, class order included; None in older ones
    encoder: EncoderRecord | None = None  # None in manifests of versions that did not say
    # of a frozen encoder, by which EMBEDDINGS has what it made; None: trained whole, or published by older code
    encoder_hash: str | None = None


class DatasetManifest(_Frozen):
    """One version of the labeled dataset; its rows lie beside it as JSONL, one file per split."""

    version: str  # hash of the rows: the same labels give the same version
    sequence: int  # 1, 2, 3 ... in the order of creation
    parent: str | None
    round: int
    classes: tuple[str, ...]
    counts: dict[str, int]  # per split: train, validation, holdout, duel, excluded
    holdout: str  # hash of the holdout's rows
    created_at: datetime
