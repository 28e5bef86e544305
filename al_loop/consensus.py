"""Which label of an image counts, as `labeling.resolve` says."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

if TYPE_CHECKING:
    from al_resources.platform import Platform


def counting_labels(platform: Platform) -> pl.DataFrame:
    """One label per labeled image: columns image_id, label, round.

    With `crowdlab` the classifier reads logged embeddings, so a label that people disagree on may change once a newer
    model has logged its own. It takes no part where models are judged.
    """
    from al_core.consensus import consensus_labels
    from al_core.dataset import JUDGES, resolve_labels

    rule = platform.settings.labeling.resolve
    labels = platform.ledgers.read("labels")
    if rule == "latest" or rule == "majority":  # noqa: PLR1714  (so that the types are told apart)
        return resolve_labels(labels, rule)
    if rule == "dawid_skene" or labels.is_empty():
        return consensus_labels(labels, "dawid_skene")
    image_ids = labels["image_id"].unique().sort().to_list()
    dataset = platform.datasets.latest()
    judged = [] if dataset is None else dataset.rows.filter(pl.col("split").is_in(JUDGES))["image_id"].to_list()
    return consensus_labels(
        labels,
        rule,
        embeddings=logged_embeddings(platform, image_ids),
        judges={*judged, *platform.settings.holdout.judges.among(image_ids)},
    )


def logged_embeddings(platform: Platform, image_ids: list[str]) -> dict[str, np.ndarray]:
    """Image id -> its newest embedding by the frozen encoder, or the version, that has seen most of these images.

    Only embeddings of one encoder can be compared.
    """
    if not image_ids:
        return {}
    columns = ["image_id", "model_name", "model_version", "embedding"]
    rows = platform.predictions.rows_of(image_ids, columns)
    found: dict[tuple[int, str, int], dict[str, np.ndarray]] = {}  # by version, encoder and width
    for row in rows.to_pylist():
        if row["embedding"] is not None:
            vector = np.asarray(row["embedding"], np.float32)
            encoder = platform.encoder_of(row["model_name"], row["model_version"])
            made_by = (row["model_version"], "") if encoder is None else (0, encoder)
            found.setdefault((*made_by, len(vector)), {}).setdefault(row["image_id"], vector)
    if not found:
        return {}
    sizes = Counter({model: len(seen) for model, seen in found.items()})
    return found[max(sizes, key=lambda model: (sizes[model], model))]
