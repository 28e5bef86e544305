"""What labels cost and how far the people who give them agree: for the team lead, honest about small numbers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import polars as pl

from al_core.answers import standing

if TYPE_CHECKING:
    import numpy as np

    from al_resources.platform import Platform

FEWEST = 20  # images that several people answered, below which an alpha says nothing
MOST_PAIRS = 20  # that are told, those that disagree most first


def labeling_report(platform: Platform) -> dict[str, Any]:
    """Labels, seconds and agreement by annotator, class and mode, as plain JSON values.

    Seconds are medians: a coffee break is no annotation. `agreed` of `compared`: images on which an annotator says what
    most of the others say, of those that others answered, too. `alpha` (Krippendorff) is None below `FEWEST` images.
    `pairs` that disagree most come first: of `compared` images both say the same of `agreed`, with a 95 % interval of
    that share, which is wide where they share few.
    """
    votes = standing(platform.ledgers.read("labels"))
    agreed = _agreed(votes)
    classes, names, table = _shared_answers(votes)
    alphas, alpha = _alphas(table, classes)
    return {
        "annotators": [
            row | agreed.get(row["annotator"], {"agreed": 0, "compared": 0}) for row in _costs(votes, "annotator")
        ],
        "classes": [row | {"alpha": alphas.get(row["label"])} for row in _costs(votes, "label")],
        "modes": _costs(votes.filter(pl.col("mode").is_not_null()), "mode"),
        "alpha": alpha,
        "answered_by_several": len(table),
        "pairs": _pairs(table, names),
    }


def _costs(votes: pl.DataFrame, by: str) -> list[dict[str, Any]]:
    """How many labels and the median of their seconds, None where no tool reports any."""
    return (
        votes.group_by(by)
        .agg(pl.len().alias("labels"), pl.col("annotation_seconds").median().round(2).alias("seconds"))
        .sort(by)
        .to_dicts()
    )


def _agreed(votes: pl.DataFrame) -> dict[str, dict[str, int]]:
    """Annotator -> on how many images most of the others say the same, and how many those are."""
    counts = votes.group_by("image_id", "label").agg(pl.len().alias("said"))
    others = (
        votes.select("image_id", "annotator", own=pl.col("label"))
        .join(counts, on="image_id")
        .with_columns(said=pl.col("said") - (pl.col("own") == pl.col("label")).cast(pl.UInt32))
        .filter(pl.col("said") > 0)
    )
    most = others.with_columns(most=pl.col("said").max().over("image_id", "annotator")).filter(
        pl.col("said") == pl.col("most")
    )
    by_image = most.group_by("image_id", "annotator").agg((pl.col("own") == pl.col("label")).any().alias("same"))
    rows = by_image.group_by("annotator").agg(pl.col("same").sum().alias("agreed"), pl.len().alias("compared"))
    return {name: {"agreed": int(agreed), "compared": int(total)} for name, agreed, total in rows.iter_rows()}


def _shared_answers(votes: pl.DataFrame) -> tuple[list[str], list[str], np.ndarray]:
    """Classes, annotators and (images, annotators) table of the images that several people answered."""
    from al_core.judging.label_quality import answer_table

    shared = votes.filter(pl.len().over("image_id") > 1)
    classes = shared["label"].unique().sort().to_list()
    _, names, table = answer_table(list(shared.select("image_id", "annotator", "label").iter_rows()), classes)
    return classes, names, table


def _alphas(table: np.ndarray, classes: list[str]) -> tuple[dict[str, float | None], float | None]:
    """Alpha by class, and of all."""
    from al_core.judging.label_quality import agreement_by_class, krippendorff_alpha

    if len(table) < FEWEST:
        return {}, None
    by_class = agreement_by_class(table, classes)
    return {name: _rounded(one) for name, one in by_class.items()}, _rounded(krippendorff_alpha(table, len(classes)))


def _pairs(table: np.ndarray, names: list[str]) -> list[dict[str, Any]]:
    from al_core.judging.evaluation import wilson
    from al_core.judging.label_quality import agreement_by_pair

    found = agreement_by_pair(table, names)
    worst = sorted(found.items(), key=lambda pair: (pair[1][0] / pair[1][1], -pair[1][1], pair[0]))[:MOST_PAIRS]
    rows = []
    for (first, second), (agreed, compared) in worst:
        share = wilson(agreed, compared)
        between = {"low": round(share.low, 3), "high": round(share.high, 3)}
        rows.append({"first": first, "second": second, "agreed": agreed, "compared": compared, **between})
    return rows


def _rounded(alpha: float) -> float | None:
    return None if math.isnan(alpha) else round(alpha, 3)
