"""Duels: which of two models is better, from the few reserved images on which they answer differently.

Where two models agree, a label says nothing about their difference, so none is asked for. All reserved images that
both answered stand in a random order; people are asked for the labels of the first ones on which the two disagree. The
beginning of the order in which every disagreement has a label is then a random sample of images, each of which scores
+1 (the challenger alone is right), -1 (the champion alone) or 0, and the mean score is the difference of accuracies.
Source: Sawade, Landwehr & Scheffer (2012), "Active comparison of prediction models".

Looks repeat: after every batch somebody looks whether it is decided. The evidence is an *e-process*, a bet against
the hypothesis whose capital reaches 1 / alpha with probability alpha at most, however often one looks (Ville's
inequality). It was chosen over alpha spending because nobody has to say beforehand how many looks there will be and
how many labels each brings, and because the capital depends on counts alone: whoever has the labels can compute the
verdict again. Source: Waudby-Smith & Ramdas (2024), "Estimating means of bounded random variables by betting", of
which this is the mixture over fixed bets.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from al_core.judging.truth import Reserve
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
# As shares of the largest bet that cannot ruin. The best bet is large where few images tell two models apart, which is
# where labels are short, so large bets have more of the stake.
BETS = np.sqrt((np.arange(24) + 0.5) / 24)
_HALF = np.linspace(0, 1, 500, endpoint=False) ** 2
DIFFERENCES = np.concatenate([-_HALF[:0:-1], _HALF])  # tried for the interval; closer to each other around 0


@dataclass(frozen=True)
class Tally:
    """How a random sample of images scores for the challenger."""

    won: int = 0
    lost: int = 0
    tied: int = 0  # labeled, both are wrong, differently
    agreed: int = 0  # both answer alike: no label needed

    @property
    def labels(self) -> int:
        """How many images needed one."""
        return self.won + self.lost + self.tied

    @property
    def mean(self) -> float:
        """Score of the images that needed a label; 0 without any."""
        return (self.won - self.lost) / max(1, self.labels)

    def reversed(self) -> Tally:
        """From the champion's side."""
        return Tally(self.lost, self.won, self.tied, self.agreed)


@dataclass(frozen=True)
class Comparison:
    """Two models compared: how often they disagree, who won, and by how much, with its interval."""

    compared: int  # reserved images that both answered
    disagreement: float  # share of these on which they differ
    tally: Tally
    difference: Interval  # of the accuracies, challenger minus champion; each end holds at all looks together


def disagreements(pairing: pl.DataFrame) -> pl.DataFrame:
    """The rows of `PAIRING` on which the two models answer differently."""
    return pairing.filter(pl.col("champion") != pl.col("challenger"))


def asking_order(pairing: pl.DataFrame, holdout: Collection[str], reserve: Reserve, salt: str) -> list[str]:
    """The images that both answered, in the order in which they count.

    First those of the holdout, which are a uniform draw already and have their labels, then those of the duelling part
    of the reserve in a random order of their own for every pair: any beginning is a uniform sample.
    """

    def place(image_id: str) -> bytes:
        return hashlib.blake2b(f"{salt}:{image_id}".encode(), digest_size=8).digest()

    images = pairing["image_id"].to_list()
    others = reserve.among([image_id for image_id in images if image_id not in holdout], "duel")
    return [*sorted(set(images) & set(holdout)), *sorted(others, key=place)]


def next_images(pairing: pl.DataFrame, order: Sequence[str], known: Collection[str]) -> list[str]:
    """Whom to ask about, in order: where the two disagree and nobody was asked. `known` have or wait for a label."""
    differ = set(disagreements(pairing)["image_id"])
    return [image_id for image_id in order if image_id in differ and image_id not in known]


def tally(
    pairing: pl.DataFrame,
    order: Sequence[str],
    labels: Mapping[str, str],
    *,
    asked: Collection[str],
    label: str | None = None,
) -> Tally:
    """How the sample scores: the beginning of the order up to the first disagreement nobody was asked about.

    A label that was asked for another pair of models counts when its turn in this order has come: such images were
    drawn where those other models disagreed, and to count them all would not be fair to these two. An image that was
    asked for and got no label is passed over.

    Args:
        pairing: Both answers, rows of `PAIRING`.
        order: As `asking_order` gives it.
        labels: Image id -> label, of images that judge.
        asked: Images that were put to people.
        label: Count images of this class only; those of others score 0.
    """
    answers = {image_id: (champion, challenger) for image_id, _, _, champion, challenger in pairing.iter_rows()}
    won = lost = seen = agreed = 0
    for image_id in order:
        (champion, challenger), truth = answers[image_id], labels.get(image_id)
        if champion == challenger:
            agreed += 1
        elif truth is not None:
            counts = label is None or truth == label
            won += counts and challenger == truth
            lost += counts and champion == truth
            seen += 1
        elif image_id not in asked:
            break
    return Tally(won, lost, seen - won - lost, agreed)


def evidence(count: Tally, difference: float | np.ndarray) -> np.ndarray:
    """The capital of a bet that the challenger's mean score lies above `difference`, in (-1, 1); it starts at 1.

    The average over fixed bets b, each of which multiplies its stake by 1 + b (score - difference) with every image.
    """
    means = np.atleast_1d(np.asarray(difference, np.float64))[:, None]
    bets = BETS[None, :] / (1 + means)
    growth = (
        count.won * np.log1p(bets * (1 - means))
        + count.lost * np.log1p(-bets * (1 + means))
        + (count.tied + count.agreed) * np.log1p(-bets * means)
    )
    largest = growth.max(axis=1, keepdims=True)
    return np.exp(np.minimum(largest[:, 0], 600)) * np.exp(growth - largest).mean(axis=1)


def compare(pairing: pl.DataFrame, count: Tally, *, confidence: float) -> Comparison:
    """The difference of the two accuracies; each end of its interval holds with `confidence` at all looks together."""
    share = disagreements(pairing).height / max(1, pairing.height)
    enough = 1 / (1 - confidence)
    below = DIFFERENCES[evidence(count, DIFFERENCES) >= enough]  # what is too small to be true
    above = -DIFFERENCES[evidence(count.reversed(), DIFFERENCES) >= enough]
    low, high = float(max(below, default=-1.0)), float(min(above, default=1.0))
    value = min(max(share * count.mean, low), high)
    return Comparison(pairing.height, share, count, Interval(value=value, low=low, high=high))
