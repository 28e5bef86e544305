"""Duels: which of two models is better, from the few reserved images on which they answer differently.

Where two models agree, a label says nothing about their difference; how often they disagree is known without labels.
So labels are asked for images on which they disagree, drawn at random from all reserved images that both answered, and

    difference of accuracies = share of disagreement x mean of (+1 won, -1 lost, 0 both wrong) among those asked.

Source: Sawade, Landwehr & Scheffer (2012), "Active comparison of prediction models".

Looks repeat: after every batch somebody looks whether it is decided. The evidence is an *e-process*, a bet against
the hypothesis whose capital grows by more than 1 / alpha with probability alpha at most, however often one looks
(Ville's inequality). It was chosen over alpha spending because nobody has to say beforehand how many looks there will
be and how many labels each brings, and because the capital depends on the counts won, lost and tied alone: whoever has
the labels can compute the verdict again. Source: Waudby-Smith & Ramdas (2024), "Estimating means of bounded random
variables by betting", of which this is the mixture over fixed bets.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from al_core.records import Interval

PAIRING = pl.Schema(
    {
        "image_id": pl.String(),
        "image_uri": pl.String(),
        "image_hash": pl.String(),
        "champion": pl.String(),  # what it answered
        "challenger": pl.String(),
    }
)
BETS = (np.arange(24) + 0.5) / 24  # as shares of the largest bet that cannot ruin
MEANS = np.linspace(-1, 1, 801)  # tried for the interval
SHARE_OF_DOUBT = 0.1  # of the error, spent on how often the models disagree; the rest on who wins


@dataclass(frozen=True)
class Tally:
    """What the labels of images on which two models disagree say of the challenger."""

    won: int = 0
    lost: int = 0
    tied: int = 0  # both are wrong, differently

    @property
    def labels(self) -> int:
        """How many images."""
        return self.won + self.lost + self.tied

    @property
    def mean(self) -> float:
        """Of +1, -1 and 0; 0 without labels."""
        return (self.won - self.lost) / max(1, self.labels)

    def reversed(self) -> Tally:
        """From the champion's side."""
        return Tally(self.lost, self.won, self.tied)


@dataclass(frozen=True)
class Comparison:
    """Two models compared: how often they disagree, who won, and by how much, with its interval."""

    compared: int  # reserved images that both answered
    disagreement: Interval
    tally: Tally
    difference: Interval  # of the accuracies, challenger minus champion; holds at every look


def disagreements(pairing: pl.DataFrame) -> pl.DataFrame:
    """The rows of `PAIRING` on which the two models answer differently."""
    return pairing.filter(pl.col("champion") != pl.col("challenger"))


def asking_order(pairing: pl.DataFrame, holdout: Collection[str], salt: str) -> list[str]:
    """The images on which the two disagree, in the order in which their labels count.

    First those of the holdout, which are a uniform draw already, then the others in a random order of their own for
    every pair: any beginning of this order is a uniform sample of the disagreements.
    """

    def place(image_id: str) -> tuple[bool, bytes]:
        return image_id not in holdout, hashlib.blake2b(f"{salt}:{image_id}".encode(), digest_size=8).digest()

    return sorted(disagreements(pairing)["image_id"].to_list(), key=place)


def next_images(order: list[str], known: Collection[str], count: int) -> list[str]:
    """The next `count` images to ask people for: those in `known` have a label, or wait for one."""
    return [image_id for image_id in order if image_id not in known][:count]


def tally(
    pairing: pl.DataFrame,
    labels: Mapping[str, str],
    *,
    holdout: Collection[str],
    asked: Collection[str],
    salt: str,
    label: str | None = None,
) -> Tally:
    """Who won among the labeled images of the uniform sample.

    That is the beginning of the asking order up to the last image that has a label or was asked for this pair.
    A label that was asked for another pair of models counts when its turn in this order has come: such images were
    drawn where those other models disagreed, and to count them all would not be fair to these two. An image that was
    asked for and got no label is passed over.

    Args:
        pairing: Both answers, rows of `PAIRING`.
        labels: Image id -> label, of images that judge.
        holdout: Images drawn uniformly.
        asked: Images that were put to people for this pair.
        salt: Names the pair.
        label: Count images of this class only; those of others are tied.
    """
    answers = {image_id: (champion, challenger) for image_id, _, _, champion, challenger in pairing.iter_rows()}
    won = lost = seen = 0
    for image_id in asking_order(pairing, holdout, salt):
        truth = labels.get(image_id)
        if truth is None:
            if image_id in asked or image_id in holdout:
                continue
            break
        champion, challenger = answers[image_id]
        counts = label is None or truth == label
        won += counts and challenger == truth
        lost += counts and champion == truth
        seen += 1
    return Tally(won, lost, seen - won - lost)


def evidence(count: Tally, mean: float | np.ndarray) -> np.ndarray:
    """The capital of a bet that the challenger's mean score lies above `mean`, in (-1, 1); starts at 1.

    The average over fixed bets b, each of which multiplies its stake by 1 + b (score - mean) with every image.
    """
    means = np.atleast_1d(np.asarray(mean, np.float64))[:, None]
    bets = BETS[None, :] / (1 + means)
    with np.errstate(divide="ignore", invalid="ignore"):
        growth = (
            count.won * np.log1p(bets * (1 - means))
            + count.lost * np.log1p(-bets * (1 + means))
            + count.tied * np.log1p(-bets * means)
        )
    largest = growth.max(axis=1, keepdims=True)
    return np.exp(np.minimum(largest[:, 0], 600)) * np.exp(growth - largest).mean(axis=1)


def share_interval(found: int, of: int, error: float) -> Interval:
    """A share with its exact two-sided interval (Clopper & Pearson 1934); `error` is that of both sides together."""
    from scipy.stats import beta  # type: ignore[import-untyped]

    if of == 0:
        return Interval(value=0.0, low=0.0, high=1.0)
    low = float(beta.ppf(error / 2, found, of - found + 1)) if found else 0.0
    high = float(beta.ppf(1 - error / 2, found + 1, of - found)) if found < of else 1.0
    return Interval(value=found / of, low=low, high=high)


def compare(pairing: pl.DataFrame, count: Tally, *, confidence: float) -> Comparison:
    """The difference of the two accuracies; each end of its interval holds with `confidence` at all looks together."""
    error = 1 - confidence
    share = share_interval(disagreements(pairing).height, pairing.height, 2 * SHARE_OF_DOUBT * error)
    threshold = 1 / ((1 - SHARE_OF_DOUBT) * error)
    inner = MEANS[1:-1]
    below = inner[evidence(count, inner) >= threshold]  # means that are too small to be true
    above = -inner[evidence(count.reversed(), inner) >= threshold]
    low, high = max(below, default=-1.0), min(above, default=1.0)
    difference = Interval(
        value=share.value * count.mean,
        low=float(low * (share.high if low < 0 else share.low)),
        high=float(high * (share.high if high > 0 else share.low)),
    )
    return Comparison(pairing.height, share, count, difference)
