"""Drift: do the images that a model answers now differ from those it answered at first, and which of them do?

A *classifier two-sample test*. On one half of the reference and of the window a classifier learns to tell the two
apart; on the other half, which it has not seen, its highest scores should fall on the window as often as on the
reference, by size. How many do is hypergeometric where the two are samples of one distribution, so the p-value is exact
however small it is, which looks that repeat for a year need. Then the halves change places. What the classifier is
surest of are the images that differ. Source: Lopez-Paz & Oquab (2017), "Revisiting classifier two-sample tests"; that
the test sees more than distances of means, and says where: Rabanser et al. (2019), "Failing loudly".

There is *one* alarm. The classifier sees the embedding, all probabilities and with them the predicted class, so class
mix and scores have no alarm of their own; they are told as figures. Its false alarms are controlled by the year: a look
spends its level of `alpha`, and all levels of a year together are `alpha` (`level`), whoever looks how often. Nothing
is assumed about how looks depend on each other: they share the reference, and most of their windows.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

DAYS = 366  # of a year, at most
LEAST = 100  # images of either side; fewer tell nothing at the level of one look
SHARES = (0.02, 0.06, 0.2, 0.5)  # of the pooled images: how many of the highest scores are counted
STRENGTH = 0.01  # inverse of the classifier's penalty, on standardised features
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
    scores: np.ndarray  # (N,), of the window's images: log odds of differing, by a classifier that did not see them
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
    return Comparable(
        reference=_features(kept_reference, columns),
        window=_features(kept, columns),
        rows=kept,
        keys=(kept_reference["image_key"].to_numpy(), kept["image_key"].to_numpy()),
        features="embeddings and probabilities"
        if use
        else f"probabilities alone: {embedded[1].height} images of the window have an embedding like the reference's",
        left_out={why: count for why, count in left_out.items() if count},
    )


def two_samples(reference: np.ndarray, window: np.ndarray, keys: tuple[np.ndarray, np.ndarray]) -> TwoSamples:
    """The test on features (N, k) and (M, k), N and M at least `LEAST`.

    Image keys (N,) and (M,) deal out the halves, so that an image on both sides is in the same half of both and no
    classifier is asked about what it has learnt.
    """
    ours, theirs = (_half(one) for one in keys)
    scores, aucs, p_values = np.zeros(len(window)), [], []
    for half in (False, True):
        classify = _classifier(reference[ours == half], window[theirs == half])
        tested, found = classify(reference[ours != half]), classify(window[theirs != half])
        scores[theirs != half] = found
        p_values.append(excess_p_value(tested, found))
        aucs.append(_auc(tested, found))
    return TwoSamples(min(1.0, 2 * min(p_values)), scores, float(np.mean(aucs)))


def excess_p_value(reference: np.ndarray, window: np.ndarray) -> float:
    """How likely so many of the highest scores belong to the window, (N,) and (M,), where nothing differs; exact.

    The smallest of four tail probabilities, times four; equal scores are put in the reference's favour.
    """
    from scipy.stats import hypergeom  # type: ignore[import-untyped]

    total = len(reference) + len(window)
    order = np.lexsort((np.r_[np.zeros(len(reference)), np.ones(len(window))], -np.r_[reference, window]))
    of_window = np.cumsum(order >= len(reference))
    counts = [max(1, round(share * total)) for share in SHARES]
    tails = [hypergeom.sf(of_window[count - 1] - 1, total, len(window), count) for count in counts]
    return float(min(1.0, len(SHARES) * min(tails)))


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


def _features(rows: pl.DataFrame, columns: Sequence[str]) -> np.ndarray:
    parts = []
    for column in columns:
        values = rows[column].explode().to_numpy() if rows.height else np.empty(0, np.float32)
        matrix = np.asarray(values, np.float32).reshape(rows.height, -1) if rows.height else np.empty((0, 0))
        parts.append(np.log(np.maximum(matrix, LEAST_PROBABILITY)) if column == "probs" else matrix)
    return np.concatenate(parts, axis=1).astype(np.float64)


def _half(keys: np.ndarray) -> np.ndarray:
    """Whether an image is in the second half, (N,) bool: a bit of its content hash that nothing else is drawn by."""
    return (keys >> 7) & 1 == 1


def _classifier(reference: np.ndarray, window: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Log odds of an image being of the window; both sides count the same."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    seen = np.concatenate([reference, window])
    middle, spread = seen.mean(axis=0), seen.std(axis=0) + 1e-6
    targets = np.r_[np.zeros(len(reference)), np.ones(len(window))]
    model = LogisticRegression(C=STRENGTH, class_weight="balanced", max_iter=100, tol=1e-3)
    with warnings.catch_warnings():  # a classifier that is nearly the best one tells the two apart as well
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit((seen - middle) / spread, targets)

    def scores(images: np.ndarray) -> np.ndarray:
        return np.asarray(model.decision_function((images - middle) / spread))

    return scores


def _auc(reference: np.ndarray, window: np.ndarray) -> float:
    from scipy.stats import rankdata

    ranks = rankdata(np.r_[reference, window])[len(reference) :]
    return float((ranks.sum() - len(window) * (len(window) + 1) / 2) / (len(reference) * len(window)))
