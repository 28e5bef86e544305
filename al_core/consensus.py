"""Several answers to one image, one label: what people who differ in care mean together, if asked with a classifier.

An answer that stands alone stays: a classifier decides between people, never against all of them. What it finds
suspicious comes back by a review instead, and is looked at again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal

import numpy as np
import polars as pl

from al_core.answers import standing
from al_core.dataset import counted_votes, resolve_labels
from al_core.judging.label_quality import UNKNOWN, answer_table, crowdlab, dawid_skene, out_of_sample_probs

FEWEST_SHARED = 20  # images that several people answered, below which nothing is known of anybody's care
FEWEST_EMBEDDED = 50  # labeled images with an embedding, below which a classifier has nothing to say

Consensus = Literal["dawid_skene", "crowdlab"]


def consensus_labels(
    labels: pl.DataFrame,
    rule: Consensus,
    *,
    embeddings: Mapping[str, np.ndarray] | None = None,
    judges: Collection[str] = (),
) -> pl.DataFrame:
    """One label per image, from the ledger's rows (`LABELS`): columns image_id, label, round.

    Where several people answered, the label is one of theirs: by `dawid_skene` the likeliest given whom each of them
    confuses with what, by `crowdlab` with a classifier beside them. With too few answers to know anybody by, and where
    one person answered, it is the majority.

    Args:
        labels: The ledger.
        rule: How.
        embeddings: Image id -> (d,) of one model. The classifier is heads on these; each answers for images that it
            was not trained on. An image without one is decided by people alone.
        judges: Images that models are judged by. A classifier has no say in these: it would judge itself.
    """
    by_votes = resolve_labels(labels, "majority")
    shared = standing(labels).filter(pl.len().over("image_id") > 1)
    if shared["image_id"].n_unique() < FEWEST_SHARED:
        return by_votes
    classes = shared["label"].unique().sort().to_list()
    votes = list(shared.select("image_id", "annotator", "label").iter_rows())
    images, _, answers = answer_table(votes, classes)
    likely = dawid_skene(answers, len(classes))
    if rule == "crowdlab":
        probs = _classifier(by_votes, classes, images, embeddings or {})
        decides = ~np.isnan(probs).any(1) & ~np.isin(images, list(judges))
        likely = np.where(decides[:, None], crowdlab(answers, probs), likely)
    decided = _decided(images, answers, likely, classes, by_votes)
    return (
        counted_votes(labels)
        .join(decided, on=["image_id", "label"])
        .select("image_id", "label", "round")
        .vstack(by_votes.join(decided, on="image_id", how="anti"))
        .sort("image_id")
    )


def _classifier(
    by_votes: pl.DataFrame, classes: list[str], images: list[str], embeddings: Mapping[str, np.ndarray]
) -> np.ndarray:
    """(images, C): what heads on the embeddings say that did not see the image; NaN where there is none."""
    probs = np.full((len(images), len(classes)), np.nan)
    known = by_votes.filter(pl.col("image_id").is_in(list(embeddings)) & pl.col("label").is_in(classes))
    if known.height < FEWEST_EMBEDDED:
        return probs
    place = {name: number for number, name in enumerate(classes)}
    given = np.array([place[label] for label in known["label"]])
    said = out_of_sample_probs(np.stack([embeddings[one] for one in known["image_id"]]), given, len(classes))
    row = {image_id: number for number, image_id in enumerate(known["image_id"])}
    for number, image_id in enumerate(images):
        if image_id in row:
            probs[number] = said[row[image_id]]
    return probs


def _decided(
    images: list[str], answers: np.ndarray, likely: np.ndarray, classes: list[str], by_votes: pl.DataFrame
) -> pl.DataFrame:
    """Columns image_id, label: of what people said the likeliest; of two as likely the one that most said."""
    rows, annotators = np.nonzero(answers != UNKNOWN)
    said = np.full(likely.shape, -1.0)
    where = rows, answers[rows, annotators]
    said[where] = likely[where]
    most = pl.DataFrame({"image_id": images}).join(by_votes, on="image_id", how="left", maintain_order="left")["label"]
    place = {name: number for number, name in enumerate(classes)}
    said[np.arange(len(images)), [place[name] for name in most]] += 1e-9
    return pl.DataFrame({"image_id": images, "label": [classes[one] for one in said.argmax(1)]})
