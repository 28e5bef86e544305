"""Searching: images without a label that resemble given ones, the labels of a class, or a text; and asking for them.

What is compared are the embeddings of the model that serves, as log and table hold them: nothing is scored for it.
Reserved images are never found: what a person picks is no sample to judge by.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from al_core.errors import GiveUp, InvalidInput
from al_core.records import new_ids
from al_core.selection import SEARCH

if TYPE_CHECKING:
    from al_core.learning.inference import Predictor
    from al_resources.platform import Platform

STAGED = "labeling/search"  # a blob for each search whose images somebody wants to be asked about
SHARE = 0.5  # of a batch, at most; the rest waits for the next one
_COLUMNS = ("image_id", "image_key", "image_uri", "image_hash", "prediction_id", "embedding")
_SHOWN = ("image_id", "image_uri", "image_hash", "prediction_id", "score")


@dataclass(frozen=True)
class Query:
    """What is searched for; an image counts by the nearest of all that is given."""

    like: tuple[Path, ...] = ()
    class_name: str | None = None
    text: str | None = None


@dataclass(frozen=True)
class Found:
    """The nearest images without a label."""

    rows: pl.DataFrame  # image_id, image_uri, image_hash, prediction_id, score (cosine); the nearest first
    looked_at: int
    left_out: int  # predictions without an embedding of this model
    model_version: int


def find(platform: Platform, query: Query, limit: int) -> Found:
    """The `limit` images nearest to the query by cosine, of those that nobody was asked about.

    Raises:
        GiveUp: no model is deployed, or its log holds no embeddings.
        InvalidInput: nothing is searched for, a picture cannot be read, the class has no label, or the encoder knows no
            text.
    """
    from al_loop.answering import predictor_of

    version = platform.endpoint.state().serving_version
    if version is None:
        raise GiveUp(
            "no model is deployed, so no image has an embedding yet; run the first round, then `al score FOLDER`"
        )
    predictor = predictor_of(platform, version)
    wanted = _unit(_query_vectors(platform, predictor, query))
    best, looked_at, left_out = pl.DataFrame(schema=_schema()), 0, 0
    for rows in _waiting(platform, version):
        usable = rows.filter(pl.col("embedding").list.len() == predictor.dimension)
        left_out += rows.height - usable.height
        looked_at += usable.height
        if not usable.height:
            continue
        embeddings = np.array(usable["embedding"].explode().cast(pl.Float32), np.float32)
        scores = (_unit(embeddings.reshape(usable.height, -1)) @ wanted.T).max(axis=1)
        placed = usable.with_columns(score=pl.Series(scores, dtype=pl.Float64)).select(_SHOWN)
        together = pl.concat([best, placed.cast(_schema())]).unique("image_id", keep="any")  # type: ignore[arg-type]
        best = together.sort("score", "image_id", descending=[True, False]).head(limit)
    if left_out and not looked_at:
        raise GiveUp(
            f"no image that v{version} scored has an embedding; {how_to_embed(predictor.manifest.encoder_hash)}"
        )
    return Found(best, looked_at, left_out, version)


def how_to_embed(encoder: str | None) -> str:
    """What brings the embeddings that are missing, of a frozen encoder or of a version that was trained whole."""
    if encoder is not None:
        return "`al embed` makes those of the store"
    return "switch serving.log_embeddings on and score the images again"


def stage(platform: Platform, found: Found, count: int) -> int:
    """Have the next batches ask about the first `count`; how many that are.

    They take at most half of a batch, with `reason = search`; what is left waits for the batch after it.
    """
    rows = found.rows.head(count).with_columns(model_version=pl.lit(found.model_version)).to_dicts()
    if rows:
        platform.blobs.write(f"{STAGED}/{new_ids(1)[0]}.json", json.dumps(rows).encode(), if_absent=True)
    return len(rows)


def searched(platform: Platform, budget: int) -> list[dict[str, Any]]:
    """Rows of the next batch that people searched for, in the order of their searches; none they were asked about."""
    files = sorted(platform.blobs.list(STAGED), key=lambda blob: blob.path)
    if not files:
        return []
    ledgers = platform.ledgers
    asked = {image_id for name in ("selections", "labels") for image_id in ledgers.read(name)["image_id"]}
    asked |= set(ledgers.read("forgotten")["image_id"])
    waiting: dict[str, dict[str, Any]] = {}
    for file in files:
        for row in json.loads(platform.blobs.read(file.path)):
            if row["image_id"] not in asked:
                waiting.setdefault(row["image_id"], row | {"reason": SEARCH, "strategy": SEARCH})
    return list(waiting.values())[: int(SHARE * budget)]


def _query_vectors(platform: Platform, predictor: Predictor, query: Query) -> np.ndarray:
    parts = [_of_pictures(predictor, query.like)] if query.like else []
    if query.class_name is not None:
        parts.append(_of_class(platform, predictor, query.class_name))
    if query.text is not None:
        parts.append(_of_text(predictor, query.text))
    if not parts:
        raise InvalidInput("nothing is searched for: name pictures, a class or a text")
    return np.concatenate(parts)


def _of_pictures(predictor: Predictor, files: Sequence[Path]) -> np.ndarray:
    from al_core.images import decode_stored_image

    channels = predictor.manifest.preprocessing.channels
    pictures = [decode_stored_image(file.read_bytes(), name=str(file), channels=channels) for file in files]
    return predictor.predict_with_embeddings(pictures)[1]


def _of_class(platform: Platform, predictor: Predictor, name: str) -> np.ndarray:
    """Embeddings of the labels of a class that teach."""
    from al_loop.strategy_inputs import strategy_context

    if name not in predictor.classes:
        raise InvalidInput(f"v{predictor.version} knows no class {name!r}; expected one of {list(predictor.classes)}")
    labeled = strategy_context(platform, predictor.version).labeled
    rows = labeled.embeddings[labeled.targets == predictor.classes.index(name)]
    if not len(rows):
        raise InvalidInput(f"no label of class {name!r} teaches yet; search by pictures of it (--like)")
    return rows


def _of_text(predictor: Predictor, text: str) -> np.ndarray:
    from al_core.encoders.registry import find_encoder

    architecture = predictor.manifest.architecture
    family, name = find_encoder(architecture)
    embed_text = getattr(family, "embed_text", None)
    if embed_text is None:
        raise InvalidInput(
            f"{architecture} knows no text; search by pictures (--like) or a class (--class), or train with an encoder "
            "that does, like open_clip:NAME/TAG or CLIP and SigLIP of hf:"
        )
    weights = predictor.manifest.training_settings.get("weights", "auto")
    vectors = embed_text(name, [text], weights="default" if weights == "auto" else weights).float().cpu().numpy()
    if vectors.shape[1] != predictor.dimension:
        raise InvalidInput(f"texts of {architecture} have {vectors.shape[1]} values, its images {predictor.dimension}")
    return np.asarray(vectors, np.float32)


def _waiting(platform: Platform, version: int) -> Iterator[pl.DataFrame]:
    """The log of a version, batch by batch, without reserved images and those somebody was asked about."""
    teaching = platform.settings.holdout.teaching.filter(pl.col("image_key"))
    asked = pl.concat(
        [platform.ledgers.read(ledger).select("image_id") for ledger in ("selections", "labels")]
    ).unique()
    for batch in platform.predictions.scan(_COLUMNS, model_name=platform.settings.model.name, model_version=version):
        yield pl.DataFrame(batch).filter(teaching).join(asked, on="image_id", how="anti", maintain_order="left")


def _schema() -> dict[str, Any]:
    return {name: pl.Float64 if name == "score" else pl.String for name in _SHOWN}


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
