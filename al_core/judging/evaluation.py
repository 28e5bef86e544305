"""Evaluation on the holdout: metrics with their intervals, calibration, confusion, paired comparison.

The answers are kept image by image, small enough to lie beside the model, so that whoever doubts a verdict can
compute it again without images or weights.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from al_core.records import Interval

if TYPE_CHECKING:
    from al_core.learning.contract import LabeledImage
    from al_core.learning.inference import Predictor
    from al_core.learning.known_embeddings import KnownEmbeddings

REPLICATES = 2_000
CHUNK_VALUES = 4_000_000  # resampling counts held at a time
BINS = 15  # of the calibration error, equally wide (Guo et al. 2017)
LEAST_PROBABILITY = 1e-12  # a class the model does not know has probability 0, and a logarithm must stay finite

COLUMNS = pl.Schema(
    {
        "image_id": pl.String(),
        "label": pl.String(),
        "predicted": pl.String(),
        "confidence": pl.Float32(),  # of the predicted class
        "true_probability": pl.Float32(),  # of the labeled class; 0 where the model does not know it
        "squared_error": pl.Float32(),  # between the distribution and the truth, summed over the classes
    }
)


@dataclass(frozen=True)
class Evaluation:
    """One model's answers on the holdout, one row per image (`COLUMNS`), in the order of the image ids."""

    answers: pl.DataFrame
    skipped: dict[str, str]  # image id -> why it could not be read

    @property
    def correct(self) -> np.ndarray:
        """Shape (N,), bool."""
        return (self.answers["label"] == self.answers["predicted"]).to_numpy()

    def metrics(self, *, confidence: float = 0.95, seed: int = 0) -> dict[str, Interval]:
        """Accuracy, macro F1, NLL (nats), ECE and Brier score, each with its percentile bootstrap interval.

        But for accuracy: that has its Wilson interval, for among right answers alone resampling finds no wrong one, and
        would be certain of a perfect model on ten images. Nor is that of macro F1, which is made of the same answers,
        narrower than it. Empty for an empty holdout.

        The calibration error is a sum of absolute values and therefore reads high on few images, in the replicates
        still more than in the estimate: a calibrated model shows about 0.04 on 300 images, with an interval up to 0.09.
        Compare it between models on the same holdout.
        Source: Efron & Tibshirani (1993), An Introduction to the Bootstrap.
        """
        count = self.answers.height
        if not count:
            return {}
        metrics = _Metrics(self)
        replicates = [metrics.of(weights) for weights in _resampled(count, seed)]
        ends = (1 - confidence) / 2
        intervals = {}
        for name, value in self.point_metrics().items():
            draws = np.concatenate([replicate[name] for replicate in replicates])
            low, high = np.quantile(draws, [ends, 1 - ends])
            intervals[name] = Interval(value=value, low=float(low), high=float(high))
        right, f1 = wilson(int(self.correct.sum()), count, confidence), intervals["macro_f1"]
        low, high = f1.value - (right.value - right.low), f1.value + (right.high - right.value)
        widened = Interval(value=f1.value, low=max(0.0, min(f1.low, low)), high=min(1.0, max(f1.high, high)))
        return intervals | {"accuracy": right, "macro_f1": widened}

    def point_metrics(self) -> dict[str, float]:
        """The values of `metrics` without their intervals; a simulation has its seeds to tell the spread."""
        if not self.answers.height:
            return {}
        point = _Metrics(self).of(np.ones((1, self.answers.height), np.float32))
        return {name: float(value[0]) for name, value in point.items()}

    def confusion_matrix(self) -> tuple[list[str], np.ndarray]:
        """The classes, and counts of shape (C, C): true class down, predicted class across."""
        classes = sorted(set(self.answers["label"]) | set(self.answers["predicted"]))
        position = {name: number for number, name in enumerate(classes)}
        counts = np.zeros((len(classes), len(classes)), np.int64)
        true = [position[name] for name in self.answers["label"]]
        np.add.at(counts, (true, [position[name] for name in self.answers["predicted"]]), 1)
        return classes, counts

    def per_class(self, *, confidence: float = 0.95) -> dict[str, Interval]:
        """Recall of every class that occurs, with its Wilson interval, which holds for small counts too.

        Source: Wilson (1927), JASA 22.
        """
        grouped = self.answers.group_by("label").agg(
            pl.len().alias("images"), (pl.col("label") == pl.col("predicted")).sum().alias("right")
        )
        return {name: wilson(right, images, confidence) for name, images, right in grouped.sort("label").iter_rows()}

    def to_bytes(self) -> bytes:
        """As a Parquet file."""
        buffer = io.BytesIO()
        self.answers.write_parquet(buffer)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Evaluation:
        """What `to_bytes` wrote; the skipped images are not kept."""
        return cls(pl.read_parquet(io.BytesIO(data)).select(COLUMNS.names()), {})


def evaluate(
    predictor: Predictor,
    images: Sequence[LabeledImage],
    read_image: Callable[[str], bytes],
    known: KnownEmbeddings | None = None,
) -> Evaluation:
    """The model's answers on labeled images, read and predicted in chunks of bounded size.

    Images that are gone or broken are skipped and named; what its encoder made before is taken from `known`.
    """
    from al_core.learning.embedding import embedded_chunks

    images = sorted(images, key=lambda image: image.image_id)
    parts = [pl.DataFrame(schema=COLUMNS)]
    skipped: dict[str, str] = {}
    encoder, by_id = "" if known is None else predictor.encoder_hash, {image.image_id: image for image in images}
    preprocessing, embed = predictor.manifest.preprocessing, predictor.embed_pixels
    for chunk in embedded_chunks(images, read_image, preprocessing, embed, encoder, known):
        skipped |= chunk.skipped
        if chunk.image_ids:
            probs = predictor.classify(chunk.embeddings)
            parts.append(answers_of([by_id[image_id] for image_id in chunk.image_ids], probs, predictor.classes))
    return Evaluation(pl.concat(parts), skipped)


def answers_of(images: Sequence[LabeledImage], probs: np.ndarray, classes: Sequence[str]) -> pl.DataFrame:
    """Rows of `COLUMNS` for probabilities of shape (N, C)."""
    position = {name: number for number, name in enumerate(classes)}
    true = np.array([position.get(image.label, -1) for image in images])
    of_truth = np.where(true >= 0, probs[np.arange(len(images)), true], 0.0)
    return pl.DataFrame(
        {
            "image_id": [image.image_id for image in images],
            "label": [image.label for image in images],
            "predicted": [classes[number] for number in probs.argmax(axis=1)],
            "confidence": probs.max(axis=1),
            "true_probability": of_truth,
            "squared_error": np.square(probs).sum(axis=1) - 2 * of_truth + 1,
        },
        schema=COLUMNS,
    )


def wilson(right: int, images: int, confidence: float = 0.95) -> Interval:
    """A share and its score interval."""
    from statistics import NormalDist

    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = right / images
    centre = (share + z * z / (2 * images)) / (1 + z * z / images)
    half = z / (1 + z * z / images) * np.sqrt(share * (1 - share) / images + z * z / (4 * images**2))
    low, high = max(0.0, float(centre - half)), min(1.0, float(centre + half))
    return Interval(value=share, low=min(low, share), high=max(high, share))  # an end may miss the share by a rounding


class _Metrics:
    """All metrics of resampled holdouts: each is a function of weighted sums, so a replicate is a matrix product."""

    def __init__(self, evaluation: Evaluation) -> None:
        answers = evaluation.answers
        classes = sorted(set(answers["label"]) | set(answers["predicted"]))
        confidence = answers["confidence"].to_numpy()
        bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
        self._correct = evaluation.correct.astype(np.float32)
        true = _indicators(answers["label"].to_list(), classes)
        predicted = _indicators(answers["predicted"].to_list(), classes)
        in_bin = _indicators(bins.tolist(), range(BINS))
        losses = -np.log(np.maximum(answers["true_probability"].to_numpy(), LEAST_PROBABILITY))
        gap = (self._correct - confidence)[:, None]
        self._widths = np.cumsum([3, len(classes), len(classes), len(classes)])
        scalars = np.stack([self._correct, losses, answers["squared_error"].to_numpy()], axis=1)
        self._sums = np.hstack([scalars, true * predicted, true, predicted, in_bin * gap]).astype(np.float32)

    def of(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Every metric for weights of shape (B, N): how often each image was drawn."""
        count = weights.sum(axis=1)
        scalars, hits, true, predicted, gaps = np.split(weights @ self._sums, self._widths, axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            f1 = np.where(true + predicted > 0, 2 * hits / (true + predicted), np.nan)
        return {
            "accuracy": scalars[:, 0] / count,
            "macro_f1": np.nanmean(f1, axis=1),
            "nll": scalars[:, 1] / count,
            "ece": np.abs(gaps).sum(axis=1) / count,
            "brier": scalars[:, 2] / count,
        }


def _indicators(values: Sequence[object], levels: Sequence[object]) -> np.ndarray:
    position = {level: number for number, level in enumerate(levels)}
    return np.eye(len(position), dtype=np.float32)[[position[value] for value in values]]


def _resampled(count: int, seed: int) -> Iterator[np.ndarray]:
    """How often each of `count` images is drawn in each replicate, some replicates at a time."""
    generator = np.random.default_rng(seed)
    rows = max(1, CHUNK_VALUES // count)
    for start in range(0, REPLICATES, rows):
        size = min(rows, REPLICATES - start)
        draws = generator.integers(0, count, (size, count)) + count * np.arange(size)[:, None]
        yield np.bincount(draws.ravel(), minlength=size * count).reshape(size, count).astype(np.float32)
