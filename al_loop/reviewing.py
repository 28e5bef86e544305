"""Reviewing: labels that are probably wrong go back to people, blind, until that stops paying."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import polars as pl

from al_core.consensus import FEWEST_EMBEDDED
from al_core.judging.label_quality import ReviewQueue, out_of_sample_probs, suspicion
from al_loop.consensus import logged_embeddings

if TYPE_CHECKING:
    from al_resources.platform import Platform

REVIEW = "review"
# a wrong label among the images that judge costs most
SPLITS: tuple[Literal["train", "validation", "holdout"], ...] = ("train", "validation", "holdout")
GROWN = 1.25  # a review that found too little is taken up again when there are so many more labels


@dataclass(frozen=True)
class Suspicion:
    """What is known of the labels of the newest dataset."""

    ranking: pl.DataFrame  # image_id, image_uri, label, predicted, score; most suspicious first
    looked_at: int
    not_looked_at: int  # without a logged embedding of the model that has seen most of them

    @property
    def suspicious(self) -> int:
        """Labels that another class beats."""
        return self.ranking.filter(pl.col("score") > 0).height


def suspicious_labels(platform: Platform) -> Suspicion:
    """The labels of the newest dataset by how much speaks against them, by heads on the logged embeddings.

    Each label is judged by heads that were not trained on it. Only embeddings of one model can be compared, so the one
    that has seen most of the labeled images counts.
    """
    dataset = platform.datasets.latest()
    images = [] if dataset is None else [image for split in SPLITS for image in dataset.images(split)]
    embedded = logged_embeddings(platform, [image.image_id for image in images])
    known = [image for image in images if image.image_id in embedded]
    classes = sorted({image.label for image in known})
    if len(known) < FEWEST_EMBEDDED or len(classes) < 2:
        return Suspicion(_ranking([]), 0, len(images))
    place = {name: number for number, name in enumerate(classes)}
    given = np.array([place[image.label] for image in known])
    probs = out_of_sample_probs(np.stack([embedded[image.image_id] for image in known]), given, len(classes))
    scores = suspicion(probs, given)
    probs[np.arange(len(given)), given] = -1  # what else it may be
    rows = [
        {
            "image_id": image.image_id,
            "image_uri": image.uri,
            "label": image.label,
            "predicted": classes[other],
            "score": float(score),
        }
        for image, other, score in zip(known, probs.argmax(1).tolist(), scores, strict=True)
    ]
    return Suspicion(_ranking(rows), len(known), len(images) - len(known))


def labels_to_review(platform: Platform, round_: int, budget: int) -> list[dict[str, Any]]:
    """Rows of `SELECTIONS` that bring the worst labels back; none where the review is switched off or over.

    `labeling.review_share` of the budget at most. No image is reviewed twice.
    """
    from al_core.records import utc_now

    count = int(platform.settings.labeling.review_share * budget)
    if count == 0 or review_is_over(platform):
        return []
    before = platform.ledgers.read("selections").filter(pl.col("reason") == REVIEW)
    worst = suspicious_labels(platform).ranking.filter(pl.col("score") > 0)
    worst = worst.join(before, on="image_id", how="anti").head(count)
    now = utc_now()
    return [
        {
            "round": round_,
            "image_id": row["image_id"],
            "image_uri": row["image_uri"],
            "reason": REVIEW,
            "strategy": "suspicion",
            "score": row["score"],
            "seed": 0,
            "selected_at": now,
        }
        for row in worst.iter_rows(named=True)
    ]


def review_is_over(platform: Platform) -> bool:
    """Whether the last reviews found fewer errors than `labeling.review_floor`, and few labels came since."""
    reviews = reviewed(platform)
    if not ReviewQueue(platform.settings.labeling.review_floor, tuple(reviews["wrong"])).is_over():
        return False
    labels = platform.ledgers.read("labels")
    then = labels.filter(pl.col("labeled_at") <= reviews["selected_at"].max())["image_id"].n_unique()
    return labels["image_id"].n_unique() < GROWN * then


def reviewed(platform: Platform) -> pl.DataFrame:
    """Every review that was answered, oldest first: round, image_id, selected_at, wrong.

    A label is wrong where the answer is another one; "unsure" says nothing, a bad image is wrong to have a label.
    """
    selections = platform.ledgers.read("selections")
    asked = selections.filter(pl.col("reason") == REVIEW).sort("round", "rank")
    labels = platform.ledgers.read("labels")
    here = {round_: _said_on_the_page(platform, round_) for round_ in asked["round"].unique()}
    rows = []
    for row in asked.select("round", "image_id", "selected_at").iter_rows(named=True):
        of_image = labels.filter(pl.col("image_id") == row["image_id"])
        before = _label(of_image.filter(pl.col("labeled_at") <= row["selected_at"]))
        after = of_image.filter(pl.col("labeled_at") > row["selected_at"])
        said = here[row["round"]].get(row["image_id"]) or (_label(after) if after.height else None)
        if said is not None and before is not None:
            rows.append({**row, "wrong": said != before})
    schema: dict[str, Any] = {
        "round": pl.Int64,
        "image_id": pl.String,
        "selected_at": pl.Datetime("us", "UTC"),
        "wrong": pl.Boolean,
    }
    return pl.DataFrame(rows, schema=schema)


def _label(labels: pl.DataFrame) -> str | None:
    """What the youngest answer says: a class, "bad", or nothing."""
    last = labels.sort("labeled_at", maintain_order=True).tail(1)
    if last.is_empty():
        return None
    label, outcome = last.select("label", "outcome").row(0)
    return str(label) if label is not None else ("bad" if outcome == "bad" else None)


def _said_on_the_page(platform: Platform, round_: int) -> dict[str, str]:
    """Image id -> what was answered on the labeling page: a label that was confirmed changes no ledger."""
    from al_resources.labeling.answers import AnswerLog, standing_answers
    from al_resources.labeling.class_list import class_list

    log = AnswerLog(platform.blobs, round_)
    log.refresh()
    classes = class_list(platform.blobs, platform.settings.labeling)
    told = standing_answers(log).values()
    return {
        answer.image_id: classes.current(answer.label) if answer.label else "bad"
        for answer in sorted(told, key=lambda answer: answer.at)
        if answer.kind in ("label", "bad_image")
    }


def _ranking(rows: list[dict[str, Any]]) -> pl.DataFrame:
    text: dict[str, Any] = dict.fromkeys(("image_id", "image_uri", "label", "predicted"), pl.String)
    return pl.DataFrame(rows, schema={**text, "score": pl.Float64}).sort("score", "image_id", descending=[True, False])
