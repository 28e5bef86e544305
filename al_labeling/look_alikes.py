"""Pictures that look alike, to be labeled on one screen: predicted alike, and near in what the model sees."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from al_resources.prediction_store import PredictionStore

GRID = 24  # pictures on one screen
NEIGHBOURS = 2_000  # open pictures that are compared with each other


@dataclass(frozen=True)
class Predictions:
    """What the newest model that saw these images said of them."""

    labels: dict[str, str] = field(default_factory=dict)
    confidence: dict[str, float] = field(default_factory=dict)
    embeddings: dict[str, np.ndarray] = field(default_factory=dict)  # of length 1, where embeddings are logged


def predictions_of(store: PredictionStore, image_ids: Collection[str]) -> Predictions:
    """The newest logged prediction of each image; images that no model has seen are missing."""
    found = Predictions()
    if not image_ids:
        return found
    columns = ["image_id", "predicted_label", "confidence", "embedding", "logged_at"]
    for row in store.rows_of(image_ids, columns).select(columns[:4]).to_pylist():
        image_id = row["image_id"]
        if image_id in found.labels:
            continue  # newest first
        found.labels[image_id] = row["predicted_label"]
        found.confidence[image_id] = row["confidence"]
        if row["embedding"] is not None:
            vector = np.asarray(row["embedding"], np.float32)
            found.embeddings[image_id] = vector / max(float(np.linalg.norm(vector)), 1e-12)
    return found


def look_alikes(open_ids: Sequence[str], predictions: Predictions, most: int = GRID) -> list[str]:
    """The pictures of one screen, most alike first.

    Args:
        open_ids: In the order of the selection.
        predictions: Of the round.
        most: Pictures on the screen.
    """
    groups: dict[tuple[str, int], list[str]] = {}
    for image_id in open_ids:
        if image_id in predictions.embeddings:
            width = len(predictions.embeddings[image_id])  # of another model's: no distance between the two
            groups.setdefault((predictions.labels[image_id], width), []).append(image_id)
    screens = [_screen(group[:NEIGHBOURS], predictions, most) for group in groups.values()]
    return max(screens, key=lambda screen: screen[0])[1] if screens else []


def _screen(group: list[str], predictions: Predictions, most: int) -> tuple[float, list[str]]:
    """The densest place of a group: how alike its pictures are, summed up, and the pictures.

    What has many near neighbours has the fewest that differ; the sum prefers full screens.
    """
    vectors = np.stack([predictions.embeddings[image_id] for image_id in group])
    likeness = vectors @ vectors.T
    count = min(most, len(group))
    nearest = np.partition(likeness, len(group) - count, axis=1)[:, len(group) - count :].sum(axis=1)
    centre = int(nearest.argmax())
    order = np.argsort(-likeness[centre], kind="stable")[:count]
    return float(nearest[centre]), [group[place] for place in order.tolist()]
