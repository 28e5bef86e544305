"""What people said of images, from the ledger's rows (`LABELS`): who said what last, and what of it is a label.

Every annotator has one vote an image: the last word. It may be a class, `skip` (unsure), `bad` (a picture that nobody
can judge), or `removed`: the answer was taken back.
"""

from __future__ import annotations

import polars as pl


def votes(labels: pl.DataFrame) -> pl.DataFrame:
    """The last word of each annotator on each image, oldest first; of the same moment the last to arrive."""
    return labels.sort("labeled_at", maintain_order=True).unique(
        ["image_id", "annotator"], keep="last", maintain_order=True
    )


def standing(labels: pl.DataFrame) -> pl.DataFrame:
    """Those of the votes that name a class."""
    return votes(labels).filter(pl.col("label").is_not_null())


def answered(labels: pl.DataFrame) -> pl.Series:
    """The images that need no further look: labeled, skipped or bad, and not taken back."""
    if "outcome" not in labels.columns or not (labels["outcome"] == "removed").any():  # then the last word is no matter
        return labels["image_id"].unique()
    return votes(labels).filter(pl.col("outcome").is_null() | (pl.col("outcome") != "removed"))["image_id"].unique()
