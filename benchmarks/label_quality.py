"""How far labels can be trusted: are wrong ones found, does the review end in time, what do several people mean?

`python -m benchmarks.label_quality [--public FOLDER] [--seeds N] [--json OUT]`

Handwritten digits with 9 % of the labels planted wrong, half of them as what the picture resembles most, heads on their
pixels; three kinds of simulated annotators, one to three an image: careful (.95 right), hasty (.6), and some who take a
class for the next one six times in ten. With `--public`, people's own errors: folders with `pred_probs.npy`,
`noisy_labels.npy` and `true_labels.npy`, as the repository cleanlab/label-error-detection-benchmarks has them for
CIFAR-10N (`src/experiments/cifar-10n-aggregate` and others); its probabilities are out of sample, of networks that were
trained on the noisy labels. Lines over seeds have the mean and its 95 % interval, lines over images a bootstrap's.
"""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from al_core.consensus import consensus_labels
from al_core.dataset import resolve_labels
from al_core.judging.label_quality import (
    PATIENCE,
    UNKNOWN,
    ReviewQueue,
    crowdlab,
    dawid_skene,
    majority,
    out_of_sample_probs,
    suspicion,
)
from al_core.records import LABELS

ERRORS, FLOOR = 0.09, 0.3
BOOTSTRAPS = 200
CAREFUL, HASTY, MIXING = 6, 8, 6  # annotators of each kind


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--public", type=Path, metavar="FOLDER", help="is searched for pred_probs.npy")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    result = {"digits, 9 % planted": planted_in_digits(options.seeds)}
    if options.public is not None:
        for file in sorted(options.public.rglob("pred_probs.npy")):
            result[f"{file.parent.parent.name}, {file.parent.name.rpartition('_cv_')[2]}"] = peoples_errors(file.parent)
    result["consensus on digits"] = consensus_on_digits(options.seeds)
    for title, rows in result.items():
        print(f"\n{title}")
        for name, value in rows.items():
            print(f"  {name:52} {value}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))
    return result


# ---------------------------------------------------------------------- wrong labels
def planted_in_digits(seeds: int) -> dict[str, str]:
    """Average precision of the ranking, and the review that stops by itself."""
    rows, truth = digits()
    honest = out_of_sample_probs(rows, truth, 10)
    honest[np.arange(len(truth)), truth] = 0
    precisions, scores, reviewed = [], [], []
    for seed in range(seeds):
        generator = np.random.default_rng(seed)
        wrong = generator.random(len(truth)) < ERRORS
        at_random = (truth + generator.integers(1, 10, len(truth))) % 10
        mistake = np.where(generator.random(len(truth)) < 0.5, honest.argmax(1), at_random)
        given = np.where(wrong, mistake, truth)
        score = suspicion(out_of_sample_probs(rows, given, 10, seed=seed), given)
        precisions.append(average_precision(wrong, score))
        reviews, found = review(wrong, score)
        scores.append(f1(reviews, found, int(wrong.sum())))
        reviewed.append(reviews / wrong.sum())
    return {
        "average precision": over_seeds(precisions),
        f"F1 of the review that stops by itself (floor {FLOOR})": over_seeds(scores),
        "reviews for each wrong label": over_seeds(reviewed),
    }


def peoples_errors(folder: Path) -> dict[str, str]:
    """The same for labels whose errors people made."""
    probs, given, truth = (np.load(folder / f"{name}.npy") for name in ("pred_probs", "noisy_labels", "true_labels"))
    wrong = given != truth
    score = suspicion(probs.astype(float), given)
    reviews, found = review(wrong, score)
    generator = np.random.default_rng(0)
    drawn = [generator.integers(0, len(wrong), len(wrong)) for _ in range(BOOTSTRAPS)]
    low, high = np.quantile([average_precision(wrong[one], score[one]) for one in drawn], [0.025, 0.975])
    own = probs[np.arange(len(given)), given]
    return {
        "labels, of these wrong": f"{len(wrong)}, {wrong.mean():.1%}",
        "average precision": f"{average_precision(wrong, score):.3f} [{low:.3f}, {high:.3f}]",
        "average precision of self-confidence": f"{average_precision(wrong, -own):.3f}",
        f"F1 of the review that stops by itself (floor {FLOOR})": f"{f1(reviews, found, int(wrong.sum())):.3f}",
        "reviews, errors found, errors": f"{reviews}, {found}, {wrong.sum()}",
    }


def review(wrong: np.ndarray, score: np.ndarray) -> tuple[int, int]:
    """How many labels the queue looks at before it stops, and how many of these are wrong."""
    found: list[bool] = []
    for place in np.argsort(-score, kind="stable"):
        found.append(bool(wrong[place]))
        if ReviewQueue(FLOOR, tuple(found[-PATIENCE:])).is_over():
            break
    return len(found), sum(found)


def average_precision(wrong: np.ndarray, score: np.ndarray) -> float:
    from sklearn.metrics import average_precision_score  # type: ignore[import-untyped]

    return float(average_precision_score(wrong, score))


def f1(reviews: int, found: int, errors: int) -> float:
    return 2 * found / (reviews + errors)


# ---------------------------------------------------------------------- consensus
def consensus_on_digits(seeds: int) -> dict[str, str]:
    """Share of images whose label is right, by who decides."""
    rows, truth = digits()
    shares: dict[str, list[float]] = {}
    for seed in range(seeds):
        answers = people(truth, 10, np.random.default_rng(seed))
        by_majority = majority(answers, 10)
        probs = out_of_sample_probs(rows, by_majority, 10, seed=seed)
        ledger = as_ledger(answers)
        names = {f"{place:032x}": row for place, row in enumerate(rows)}
        several = (answers != UNKNOWN).sum(1) >= 2
        found = {
            "majority": by_majority,
            "Dawid-Skene": dawid_skene(answers, 10).argmax(1),
            "CROWDLAB": crowdlab(answers, probs).argmax(1),
            "labeling.resolve = majority": of_ledger(resolve_labels(ledger, "majority")),
            "labeling.resolve = dawid_skene": of_ledger(consensus_labels(ledger, "dawid_skene")),
            "labeling.resolve = crowdlab": of_ledger(consensus_labels(ledger, "crowdlab", embeddings=names)),
        }
        for name, labels in found.items():
            shares.setdefault(f"{name}, all images", []).append(float((labels == truth).mean()))
            shares.setdefault(f"{name}, two or three answers", []).append(float((labels == truth)[several].mean()))
    return {name: over_seeds(values) for name, values in sorted(shares.items(), key=lambda one: "two" in one[0])}


def people(truth: np.ndarray, classes: int, generator: np.random.Generator) -> np.ndarray:
    """(N, J): one to three of the annotators answer each image, drawn at random."""
    careful = _answers(truth, classes, generator, CAREFUL, 0.95)
    hasty = _answers(truth, classes, generator, HASTY, 0.6)
    mixing = (truth[:, None] + (generator.random((len(truth), MIXING)) < 0.6)) % classes
    answers = np.column_stack([careful, hasty, mixing])
    order = generator.random(answers.shape).argsort(1).argsort(1)
    return np.where(order < generator.integers(1, 4, len(truth))[:, None], answers, UNKNOWN)


def _answers(truth: np.ndarray, classes: int, generator: np.random.Generator, count: int, right: float) -> np.ndarray:
    shape = len(truth), count
    return np.where(generator.random(shape) < right, truth[:, None], generator.integers(0, classes, shape))


def as_ledger(answers: np.ndarray) -> pl.DataFrame:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    rows = [
        {"image_id": f"{image:032x}", "annotator": f"{person}", "label": f"{answers[image, person]}",
         "labeled_at": now, "round": 0}
        for image, person in zip(*np.nonzero(answers != UNKNOWN), strict=True)
    ]  # fmt: skip
    return pl.DataFrame(rows, schema=pl.DataFrame(LABELS.empty_table()).schema)


def of_ledger(labels: pl.DataFrame) -> np.ndarray:
    return labels.sort("image_id")["label"].cast(pl.Int64).to_numpy()


# ---------------------------------------------------------------------- both
def digits() -> tuple[np.ndarray, np.ndarray]:
    """Handwritten digits as rows of brightness, and what they are."""
    from sklearn.datasets import load_digits  # type: ignore[import-untyped]

    pixels, targets = load_digits(return_X_y=True)
    return (pixels / 16).astype(np.float32), targets.astype(np.int64)


def over_seeds(values: list[float]) -> str:
    """Mean and 95 % interval of the mean (Student's t)."""
    from scipy.stats import t  # type: ignore[import-untyped]

    mean = float(np.mean(values))
    if len(values) < 2:
        return f"{mean:.3f}"
    half = float(t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return f"{mean:.3f} [{mean - half:.3f}, {mean + half:.3f}]"


if __name__ == "__main__":
    main()
