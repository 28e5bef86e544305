"""Duels: which of two models is better, from the few reserved images on which they answer differently.

Where two models agree, a label says nothing about their difference, so none is asked for. All reserved images that
both answered stand in a random order; people are asked for the labels of the first ones on which the two disagree. The
beginning of the order in which every disagreement has a label is then a random sample of images, each of which scores
+1 (the challenger alone is right), -1 (the champion alone) or 0, and the mean score is the difference of accuracies.
The order is the same for all pairs of models, so that labels of one duel lie where the next one needs them.
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
from functools import lru_cache

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
WON, LOST, TIED, AGREED, UNASKED = 1, -1, 2, 0, 3  # how an image scores for the challenger
_CUTS = (0, 1, 2, 4, 8, 16, 32, 64)  # missing labels before which a beginning may end: few suffice
_HALF = np.linspace(0, 1, 500, endpoint=False) ** 2
DIFFERENCES = np.concatenate([-_HALF[:0:-1], _HALF])  # tried for the interval; closer to each other around 0


@dataclass(frozen=True)
class Tally:
    """How a random sample of images scores for the challenger."""

    won: int = 0
    lost: int = 0
    tied: int = 0  # labeled, both are wrong, differently
    agreed: int = 0  # both answer alike: no label needed
    unasked: int = 0  # they disagree and nobody has answered yet: counted against whatever is to be proven

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
        return Tally(self.lost, self.won, self.tied, self.agreed, self.unasked)


@dataclass(frozen=True)
class Comparison:
    """Two models compared: how often they disagree, who won, and by how much, with its interval."""

    compared: int  # reserved images that both answered
    disagreement: float  # share of these on which they differ
    tally: Tally  # of all images
    difference: Interval  # of the accuracies, challenger minus champion; each end holds at all looks together


def disagreements(pairing: pl.DataFrame) -> pl.DataFrame:
    """The rows of `PAIRING` on which the two models answer differently."""
    return pairing.filter(pl.col("champion") != pl.col("challenger"))


def asking_order(pairing: pl.DataFrame, holdout: Collection[str], reserve: Reserve) -> list[str]:
    """The images that both answered, in the order in which they count.

    First those of the holdout, which are a uniform draw already and have their labels, then those of the duelling part
    of the reserve in a random order that no model had a part in: any beginning is a uniform sample.
    """

    def place(image_id: str) -> bytes:
        return hashlib.blake2b(f"{reserve.salt}:duel:{image_id}".encode(), digest_size=8).digest()

    images = pairing["image_id"].to_list()
    others = reserve.among([image_id for image_id in images if image_id not in holdout], "duel")
    return [*sorted(set(images) & set(holdout)), *sorted(others, key=place)]


def next_images(pairing: pl.DataFrame, order: Sequence[str], known: Collection[str]) -> list[str]:
    """Whom to ask about, in order: where the two disagree and nobody was asked. `known` have or wait for a label."""
    differ = set(disagreements(pairing)["image_id"])
    return [image_id for image_id in order if image_id in differ and image_id not in known]


def tallies(
    pairing: pl.DataFrame,
    order: Sequence[str],
    labels: Mapping[str, str],
    *,
    answered: Collection[str],
    label: str | None = None,
) -> list[Tally]:
    """How beginnings of the order score: the first ends where the first label is missing, the last is all of it.

    Of a newer challenger most disagreements have a label from the duel of an older one, and a few are new. Beyond the
    first of those, a sample of the labeled ones alone would not be fair: they were drawn where other models disagreed.
    But whatever the missing label says, it cannot be worse than lost. So longer beginnings count, too, with what nobody
    was asked about against whatever is to be proven (`Tally.unasked`), and what still waits for its answer: those that
    came first may be the easy ones. An image that people looked at and gave no label is passed over.

    Args:
        pairing: Both answers, rows of `PAIRING`.
        order: As `asking_order` gives it.
        labels: Image id -> label, of images that judge.
        answered: Images of which people said all they will: a label, or that there is none to give.
        label: Count images of this class only; those of others score 0, also where nobody answered.
    """
    answers = {image_id: (champion, challenger) for image_id, _, _, champion, challenger in pairing.iter_rows()}
    scores = []
    for image_id in order:
        (champion, challenger), truth = answers[image_id], labels.get(image_id)
        if champion == challenger:
            scores.append(AGREED)
        elif truth is not None:
            counts = label is None or truth == label
            scores.append(int(counts and challenger == truth) - int(counts and champion == truth) or TIED)
        elif image_id not in answered:
            scores.append(UNASKED)
    return tallies_of(np.array(scores, np.int8))


def tallies_of(scores: np.ndarray) -> list[Tally]:
    """As `tallies`, for images (N,) in order: `WON`, `LOST`, `TIED`, `AGREED` or `UNASKED`."""
    missing = np.flatnonzero(scores == UNASKED)
    ends = [*(int(missing[number]) for number in _CUTS if number < len(missing)), len(scores)]
    sums = [np.cumsum(scores == score) for score in (WON, LOST, TIED, AGREED, UNASKED)]
    return [Tally(*(int(one[end - 1]) if end else 0 for one in sums)) for end in ends]


def evidence(counts: Sequence[Tally], difference: float | np.ndarray) -> np.ndarray:
    """The capital of a bet that the challenger's mean score lies above `difference`, in (-1, 1); it starts at 1.

    The average over fixed bets b, each of which multiplies its stake by 1 + b (score - difference) with every image.
    Of several beginnings of one order the largest: Ville's inequality holds for all of them together.
    """
    return np.max([_capital(count, difference) for count in counts], axis=0)


def _capital(count: Tally, difference: float | np.ndarray) -> np.ndarray:
    won, lost, neither = _log_factors(np.atleast_1d(np.asarray(difference, np.float64)).tobytes())
    growth = count.won * won + (count.lost + count.unasked) * lost + (count.tied + count.agreed) * neither
    largest = growth.max(axis=1, keepdims=True)
    return np.exp(np.minimum(largest[:, 0], 600)) * np.exp(growth - largest).mean(axis=1)


@lru_cache(maxsize=64)
def _log_factors(differences: bytes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """By how much an image that was won, lost, or neither multiplies each stake, against each difference: logarithms.

    The same differences are tried again and again, so they are computed once.
    """
    means = np.frombuffer(differences, np.float64)[:, None]
    bets = BETS[None, :] / (1 + means)
    return np.log1p(bets * (1 - means)), np.log1p(-bets * (1 + means)), np.log1p(-bets * means)


def compare(pairing: pl.DataFrame, counts: Sequence[Tally], *, confidence: float) -> Comparison:
    """The difference of the two accuracies; each end of its interval holds with `confidence` at all looks together.

    Args:
        pairing: Both answers.
        counts: As `tallies` gives them.
        confidence: Of each end.
    """
    share = disagreements(pairing).height / max(1, pairing.height)
    enough = 1 / (1 - confidence)
    below = DIFFERENCES[evidence(counts, DIFFERENCES) >= enough]  # what is too small to be true
    above = -DIFFERENCES[evidence([count.reversed() for count in counts], DIFFERENCES) >= enough]
    low, high = float(max(below, default=-1.0)), float(min(above, default=1.0))
    value = min(max(share * counts[0].mean, low), high)
    return Comparison(pairing.height, share, counts[-1], Interval(value=value, low=low, high=high))
