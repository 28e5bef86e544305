"""Drift: do the images that a model answers now differ from those it answered at first, and which of them do?

A *classifier two-sample test*. Images are dealt into blocks by their content. A classifier learns from the first blocks
to tell reference and window apart; in the next block, which it has not seen, its highest scores should fall on the
window as often as on the reference, by size. How many do is hypergeometric where the two are samples of one
distribution; then it learns from that block, too. The counts of all blocks add up to one, of which the p-value is exact
however small it is, which looks that repeat for a year need. Then the blocks come in the opposite order. What the
classifiers are surest of are the images that differ. Source: Lopez-Paz & Oquab (2017), "Revisiting classifier
two-sample tests"; that the test sees more than distances of means, and says where: Rabanser et al. (2019), "Failing
loudly"; why to learn from ever more blocks: Lheritier & Cazals (2018), "A sequential non-parametric multivariate
two-sample test".

What the classifier sees is reduced without regard to the side an image is on, which leaves the test exact: of the
embeddings the directions in which all images together vary most, of the probabilities their logarithms, by class and
in order. An unseen class is a small part of the window, so most of what is called different is not: the classifier
learns a second and a third time, from the images that seemed different to one that had not seen them.

There is *one* alarm. The classifier sees the embedding, all probabilities and with them the predicted class, so class
mix and scores have no alarm of their own; they are told as figures. Its false alarms are controlled by the year: a look
spends its level of `alpha`, and all levels of a year together are `alpha` (`level`), whoever looks how often. Nothing
is assumed about how looks depend on each other: they share the reference, and most of their windows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import polars as pl

DAYS = 366  # of a year, at most
LEAST = 100  # images of either side; fewer tell nothing at the level of one look
SHARES = (0.02, 0.06, 0.2, 0.5)  # of the pooled images: how many of the highest scores are counted
BLOCKS, UNTESTED = 10, 3  # so many blocks; before the first test, so many are learnt from
COMPONENTS = 64  # directions that are looked at, of embeddings and of probabilities
RANKS = 10  # of the classes' probabilities in order
PENALTY = 1.0  # of the classifier's weights, on standardised features
SUSPECTED, REPEATS = 0.1, 2  # the classifier learns again from what looks like a tenth of the window, so often
INNER = 4  # parts of what is learnt from, each scored by a classifier of the others
LEAST_PROBABILITY = 1e-4  # a logarithm must stay finite, and what lies below is no news
PSI_BINS = 10
LEAST_SHARE = 1e-3  # of a bin in the stability index

COMPARED = pl.Schema(
    {
        "image_id": pl.String(),
        "image_key": pl.Int64(),
        "predicted_label": pl.String(),
        "confidence": pl.Float32(),
        "probs": pl.List(pl.Float32()),
        "embedding": pl.List(pl.Float32()),  # null where none was logged
    }
)


@dataclass(frozen=True)
class TwoSamples:
    """What the test found."""

    p_value: float  # of "the window is like the reference"
    scores: np.ndarray  # (N,), of the window's images, by classifiers that did not see them; 0: like the reference
    auc: float  # how often an image of the window scores higher than one of the reference; 0.5: no difference


@dataclass(frozen=True)
class Comparable:
    """Two samples as features, and what had to be left out for it."""

    reference: np.ndarray  # (N, k)
    window: np.ndarray  # (M, k)
    rows: pl.DataFrame  # the window's images, in the order of `window`
    keys: tuple[np.ndarray, np.ndarray]  # image keys of both, which deal the halves out
    features: str  # what was compared, for people
    left_out: dict[str, int]  # why -> how many images of the window


def level(alpha: float, number: int) -> float:
    """What the `number`-th look of a day (1, 2, ...) may spend of `alpha`, which holds for a whole year.

    A day has its share of the year, of which the first look spends half, the second a sixth, the n-th 1 / (n (n + 1)):
    all of them together the whole, however many there are.
    """
    return alpha / DAYS / (number * (number + 1))


def comparable(reference: pl.DataFrame, window: pl.DataFrame) -> Comparable:
    """Features of both samples, rows of `COMPARED`: embeddings where both have them, and the logged probabilities.

    An embedding or a distribution of another width than the reference's comes from another encoder or has other
    classes: such images cannot be compared and are counted. Without `LEAST` images with embeddings on either side the
    probabilities alone are compared.
    """
    width = _common_width(reference["embedding"])
    embedded = [_of_width(rows, "embedding", width) for rows in (reference, window)]
    use = width is not None and min(rows.height for rows in embedded) >= LEAST
    kept_reference, kept = embedded if use else (reference, window)
    left_out = {}
    if use:
        none = window["embedding"].null_count()
        left_out = {
            "no embedding was logged": none,
            f"the embedding has another width than the reference's {width}: another encoder made it": window.height
            - none
            - kept.height,
        }
    classes = _common_width(kept_reference["probs"])
    before = kept.height
    kept_reference, kept = (_of_width(rows, "probs", classes) for rows in (kept_reference, kept))
    left_out["the model had other classes"] = before - kept.height
    columns = ["probs", "embedding"] if use else ["probs"]
    seen, seen_now = reduced(_features(kept_reference, columns), _features(kept, columns))
    return Comparable(
        reference=seen,
        window=seen_now,
        rows=kept,
        keys=(kept_reference["image_key"].to_numpy(), kept["image_key"].to_numpy()),
        features="embeddings and probabilities"
        if use
        else f"probabilities alone: {embedded[1].height} images of the window have an embedding like the reference's",
        left_out={why: count for why, count in left_out.items() if count},
    )


def two_samples(reference: np.ndarray, window: np.ndarray, keys: tuple[np.ndarray, np.ndarray]) -> TwoSamples:
    """The test on features (N, k) and (M, k), N and M at least `LEAST`.

    Image keys (N,) and (M,) deal out the blocks, so that an image on both sides is in the same block of both and no
    classifier is asked about what it has learnt.
    """
    images = _standardised(np.concatenate([reference, window]).astype(np.float64))
    of_window, block = np.arange(len(images)) >= len(reference), _block(np.concatenate(keys))
    found, scores = [], np.full((2, len(images)), np.nan)
    for way, place in enumerate((block, BLOCKS - 1 - block)):
        tested = []
        for number in range(UNTESTED, BLOCKS):
            known, new = place < number, place == number
            if new.any():
                scores[way, new] = _learnt(images[known], of_window[known])(images[new])
                tested.append((scores[way, new & ~of_window], scores[way, new & of_window]))
        found.append((excess_p_value(tested), np.mean([_auc(*one) for one in tested if min(map(len, one))])))
    p_values, aucs = zip(*found, strict=True)
    return TwoSamples(min(1.0, 2 * min(p_values)), np.nanmean(scores[:, of_window], axis=0), float(np.mean(aucs)))


def excess_p_value(blocks: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
    """How likely so many of the highest scores belong to the window, where nothing differs; exact.

    Of each block the scores of reference and window, (N,) and (M,), by a classifier that knows none of them. The
    smallest of four tail probabilities, times four; equal scores are put in the reference's favour.
    """
    tails = []
    for share in SHARES:
        found, chances = 0, np.ones(1)  # how many of the highest are of the window; the chance of 0, 1, 2, ...
        for reference, window in blocks:
            total = len(reference) + len(window)
            count = max(1, round(share * total))
            order = np.lexsort((np.r_[np.zeros(len(reference)), np.ones(len(window))], -np.r_[reference, window]))
            found += int((order[:count] >= len(reference)).sum())
            chances = np.convolve(chances, _chances(total, len(window), count))
        tails.append(chances[found:].sum())
    return float(min(1.0, len(SHARES) * min(tails)))


@lru_cache(maxsize=10_000)
def _chances(total: int, of_window: int, count: int) -> np.ndarray:
    """Of 0, 1, 2, ... images of the window among `count` that are drawn from all."""
    from scipy.stats import hypergeom  # type: ignore[import-untyped]

    return np.asarray(hypergeom.pmf(np.arange(min(count, of_window) + 1), total, of_window, count))


def stability_index(reference: np.ndarray, window: np.ndarray) -> float:
    """Population stability index of two histograms (k,): below 0.1 stable, above 0.25 another population, by custom.

    Source: Siddiqi (2006), "Credit Risk Scorecards".
    """
    ours, theirs = (np.maximum(counts / max(1, counts.sum()), LEAST_SHARE) for counts in (reference, window))
    return float(((theirs - ours) * np.log(theirs / ours)).sum())


def class_mix(reference: Sequence[str], window: Sequence[str]) -> pl.DataFrame:
    """How often each class is predicted: its share then and now."""
    names = sorted({*reference, *window})
    ours, theirs = (pl.Series(side).value_counts(name="images") for side in (reference, window))
    counts = [dict(side.iter_rows()) for side in (ours, theirs)]
    rows = {
        "predicted": names,
        "reference": [counts[0].get(name, 0) for name in names],
        "window": [counts[1].get(name, 0) for name in names],
    }
    return pl.DataFrame(rows, schema={"predicted": pl.String(), "reference": pl.Int64(), "window": pl.Int64()})


def chi_square_p_value(mix: pl.DataFrame) -> float:
    """Of "the classes are predicted as often as before", for the counts of `class_mix`; of one look, not a year's.

    Classes that were predicted fewer than five times on average are taken together.
    """
    from scipy.stats import chi2_contingency

    rare = (pl.col("reference") + pl.col("window")) < 10
    counts = mix.group_by(pl.when(rare).then(pl.lit(None)).otherwise(pl.col("predicted")).alias("class")).agg(
        pl.col("reference").sum(), pl.col("window").sum()
    )
    table = counts.select("reference", "window").to_numpy().T
    if table.shape[1] < 2 or not table.sum(axis=1).all():
        return 1.0
    return float(chi2_contingency(table).pvalue)


def histogram(confidence: np.ndarray) -> np.ndarray:
    """Counts (10,) of confidences, by tenths."""
    return np.histogram(confidence, bins=PSI_BINS, range=(0, 1))[0]


def _of_width(rows: pl.DataFrame, column: str, width: int | None) -> pl.DataFrame:
    """The rows whose list has so many values; none where no width is known."""
    return rows.head(0) if width is None else rows.filter(pl.col(column).list.len() == width)


def _common_width(lists: pl.Series) -> int | None:
    """The length most lists have; None where there is none."""
    lengths = lists.list.len().drop_nulls()
    return None if lengths.is_empty() else int(lengths.mode().max())  # type: ignore[arg-type]


def _features(rows: pl.DataFrame, columns: Sequence[str]) -> list[np.ndarray]:
    """The columns as matrices (N, d); probabilities as their logarithms."""
    parts = []
    for column in columns:
        values = rows[column].explode().to_numpy() if rows.height else np.empty(0, np.float32)
        matrix = np.asarray(values, np.float32).reshape(rows.height, -1) if rows.height else np.empty((0, 0))
        parts.append(np.log(np.maximum(matrix, LEAST_PROBABILITY)) if column == "probs" else matrix)
    return parts


def reduced(reference: list[np.ndarray], window: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """What the classifier sees of both, (N, k) and (M, k); which side an image is on has no part in it.

    Of each side logarithms of probabilities (N, C) and, where they are compared, embeddings (N, d).
    """
    count = len(reference[0])
    if not count or not len(window[0]):
        return np.concatenate(reference, axis=1), np.concatenate(window, axis=1)
    logs, *embeddings = (np.concatenate(sides) for sides in zip(reference, window, strict=True))
    ordered = np.sort(logs, axis=1)[:, ::-1][:, :RANKS]
    lead = ordered[:, :1] - ordered[:, 1:2]
    images = np.concatenate([ordered, lead, *map(_main_directions, [logs, *embeddings])], axis=1)
    return images[:count], images[count:]


def _main_directions(images: np.ndarray) -> np.ndarray:
    """(N, k): vectors (N, d) along the directions in which they vary most, `COMPONENTS` at most."""
    images = _standardised(images)
    if images.shape[1] <= COMPONENTS:
        return images
    _, directions = np.linalg.eigh(images.T @ images)
    return np.asarray(images @ directions[:, -COMPONENTS:])


def _standardised(images: np.ndarray) -> np.ndarray:
    return np.asarray((images - images.mean(axis=0)) / (images.std(axis=0) + 1e-6))


def _block(keys: np.ndarray) -> np.ndarray:
    """The block of each image, (N,): by its content hash, whichever side it is on."""
    return (keys >> 7) % BLOCKS


def _learnt(images: np.ndarray, of_window: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Scores of images (N, k): how different they are, in standard deviations of the reference.

    What is learnt from for the last time are the images of the window that seemed most different before.
    """
    weights = _even(of_window)
    parts = np.arange(len(images)) % INNER
    for _ in range(REPEATS):
        seemed = np.empty(len(images))
        for part in range(INNER):
            others = parts != part
            seemed[~others] = _linear(images[others], of_window[others], weights[others])(images[~others])
        ordered = np.sort(seemed[~of_window])
        above = 1 - np.searchsorted(ordered, seemed) / max(1, len(ordered))  # share of the reference
        weights = _even(of_window, np.exp(-above / SUSPECTED))
    score = _linear(images, of_window, weights)
    usual = score(images[~of_window])
    return lambda new: (score(new) - usual.mean()) / (usual.std() + 1e-9)


def _even(of_window: np.ndarray, suspicion: np.ndarray | float = 1.0) -> np.ndarray:
    """Weights (N,): both sides count the same, the window's images by how suspicious they are."""
    weights = np.where(of_window, suspicion, 1.0)
    sums = [max(weights[side].sum(), 1e-9) for side in (~of_window, of_window)]
    return np.asarray(weights / np.where(of_window, sums[1], sums[0]) / 2)


def _linear(images: np.ndarray, of_window: np.ndarray, weights: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Weighted least squares with a penalty, which for two classes is a discriminant analysis."""
    weights = weights / weights.sum()
    targets = np.where(of_window, 1.0, -1.0)
    middle, weighted = weights @ images, images * weights[:, None]
    targets = targets - weights @ targets
    moments = weighted.T @ images - np.outer(middle, middle)
    moments[np.diag_indices_from(moments)] += PENALTY
    slope = np.linalg.solve(moments, weighted.T @ targets)
    return lambda new: np.asarray((new - middle) @ slope)


def _auc(reference: np.ndarray, window: np.ndarray) -> float:
    from scipy.stats import rankdata

    ranks = rankdata(np.r_[reference, window])[len(reference) :]
    return float((ranks.sum() - len(window) * (len(window) + 1) / 2) / (len(reference) * len(window)))
