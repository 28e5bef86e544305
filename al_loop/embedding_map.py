"""The map of the newest dataset: what is labeled and what is waiting, by the embeddings of the model that serves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

if TYPE_CHECKING:
    from al_core.dataset import Dataset
    from al_core.embedding_map import MapPoints
    from al_core.learning.inference import Predictor
    from al_resources.platform import Platform

MAP = "embedding_map.html"  # a round's, in `reports/`; it names every image on it, so `al forget` deletes it
LABELED = 2_000  # images; more are drawn uniformly, ids being hashes
WAITING = 2_000
FEWEST = 10


def map_of(platform: Platform, dataset: Dataset) -> MapPoints | None:
    """Labeled and waiting images that have an embedding of the serving version; None where hardly any has one.

    Nothing is embedded for it.
    """
    from al_core.embedding_map import MapPoints
    from al_loop.answering import predictor_of

    version, settings = platform.endpoint.state().serving_version, platform.settings
    if version is None or not (settings.serving.log_embeddings or settings.training.frozen):
        return None
    predictor = predictor_of(platform, version)
    labels = dict(dataset.rows.filter(pl.col("label").is_not_null()).select("image_id", "label").iter_rows())
    labeled = sorted(labels)[:LABELED]
    waiting = _waiting(platform, version)
    asked = [*labeled, *(image_id for image_id in waiting["image_id"] if image_id not in labels)]
    found = _embeddings(platform, predictor, asked)
    ids = [image_id for image_id in asked if image_id in found]
    if len(ids) < FEWEST:
        return None
    doubts = {**_doubts(platform, labeled), **dict(waiting.select("image_id", 1 - pl.col("margin")).iter_rows())}
    reasons = dict(platform.ledgers.read("selections").select("image_id", "reason").iter_rows())
    reasons = dict.fromkeys(labeled, "labeled before") | reasons
    return MapPoints(
        ids,
        np.stack([found[image_id] for image_id in ids]),
        [labels.get(image_id) for image_id in ids],
        np.array([doubts.get(image_id, np.nan) for image_id in ids], np.float32),
        [reasons.get(image_id) for image_id in ids],
    )


def _waiting(platform: Platform, version: int) -> pl.DataFrame:
    from al_core.strategies.base import Order

    name, teaching = platform.settings.model.name, platform.settings.holdout.teaching
    order = Order("random", seed=version)
    return pl.DataFrame(platform.predictions.eligible(name, version, order, WAITING, ["margin"], part=teaching))


def _doubts(platform: Platform, image_ids: Sequence[str]) -> dict[str, float]:
    """One minus the margin of the newest answer to each, of whatever version."""
    rows = pl.DataFrame(platform.predictions.rows_of(image_ids, ["image_id", "margin"]))
    newest = rows.unique("image_id", keep="first", maintain_order=True)
    return dict(newest.select("image_id", 1 - pl.col("margin")).iter_rows())


def _embeddings(platform: Platform, predictor: Predictor, image_ids: Sequence[str]) -> dict[str, np.ndarray]:
    """From the table of embeddings, or else from what this very version logged."""
    known = platform.embeddings.read(predictor.encoder_hash, image_ids)
    there = [image_id for image_id, is_there in zip(image_ids, known.known, strict=True) if is_there]
    found = dict(zip(there, known.embeddings, strict=True))
    missing = [image_id for image_id in image_ids if image_id not in found]
    if missing and platform.settings.serving.log_embeddings:
        columns = ["image_id", "model_name", "model_version", "embedding"]
        for row in platform.predictions.rows_of(missing, columns).to_pylist():
            same = (row["model_name"], row["model_version"]) == (predictor.name, predictor.version)
            if same and row["embedding"] is not None:
                found[row["image_id"]] = np.asarray(row["embedding"], np.float32)
    return found
