"""What the metrics and their intervals promise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import f1_score
from trained import Files, fit
from trained import settings as training_settings

from al_core.judging import evaluation
from al_core.judging.evaluation import COLUMNS, Evaluation, answers_of, evaluate, wilson
from al_core.learning.contract import LabeledImage
from al_core.learning.inference import Predictor

CLASSES = ("a", "b", "c")


def labeled(labels: list[str]) -> list[LabeledImage]:
    return [LabeledImage(f"{i:06d}", "", label) for i, label in enumerate(labels)]


def judged(probs: np.ndarray, labels: list[str], classes: tuple[str, ...] = CLASSES) -> Evaluation:
    return Evaluation(answers_of(labeled(labels), probs.astype(np.float32), classes), {})


def random_answers(count: int, seed: int, sharpness: float = 2.0) -> tuple[np.ndarray, list[str]]:
    """Calibrated: labels are drawn from the probabilities."""
    rng = np.random.default_rng(seed)
    logits = sharpness * rng.standard_normal((count, 3))
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = [CLASSES[rng.choice(3, p=row)] for row in probs]
    return probs, labels


def test_the_headlines_are_what_the_textbook_says():
    probs, labels = random_answers(500, 0)
    metrics = judged(probs, labels).metrics()
    true = np.array([CLASSES.index(label) for label in labels])
    onehot = np.eye(3)[true]
    assert metrics["accuracy"].value == pytest.approx((probs.argmax(1) == true).mean(), abs=1e-5)
    assert metrics["nll"].value == pytest.approx(-np.log(probs[np.arange(500), true]).mean(), abs=1e-4)
    assert metrics["brier"].value == pytest.approx(np.square(probs - onehot).sum(1).mean(), abs=1e-4)
    assert metrics["macro_f1"].value == pytest.approx(f1_score(true, probs.argmax(1), average="macro"), abs=1e-5)
    for interval in metrics.values():
        assert interval.low <= interval.high


def test_the_calibration_error_of_a_model_that_is_too_sure():
    probs = np.tile([0.9, 0.05, 0.05], (1000, 1))
    labels = ["a"] * 600 + ["b"] * 400
    assert judged(probs, labels).metrics()["ece"].value == pytest.approx(0.3, abs=1e-3)


def test_a_class_that_the_model_does_not_know_is_wrong_and_finite():
    metrics = judged(np.array([[0.7, 0.3]]), ["new"], ("a", "b")).metrics()
    assert metrics["accuracy"].value == 0
    assert np.isfinite(metrics["nll"].value)
    assert metrics["brier"].value == pytest.approx(0.49 + 0.09 + 1)


def test_an_empty_holdout_has_no_metrics():
    assert Evaluation(pl.DataFrame(schema=COLUMNS), {}).metrics() == {}


def test_the_same_seed_gives_the_same_interval():
    answers = judged(*random_answers(200, 1))
    assert answers.metrics(seed=3) == answers.metrics(seed=3)
    assert answers.metrics(seed=3) != answers.metrics(seed=4)


def test_memory_is_bounded_by_chunks_that_change_nothing_in_kind(monkeypatch):
    answers = judged(*random_answers(300, 1))
    together = answers.metrics()["nll"]
    monkeypatch.setattr(evaluation, "CHUNK_VALUES", 301)
    one_by_one = answers.metrics()["nll"]
    assert one_by_one.value == together.value
    assert one_by_one.low == pytest.approx(together.low, abs=0.01)


def test_intervals_cover_the_truth_as_often_as_they_say(monkeypatch):
    monkeypatch.setattr(evaluation, "REPLICATES", 300)
    probs, labels = random_answers(100_000, 99)
    truth = _truth(probs, labels)
    covered = []
    for trial in range(150):
        rows = np.random.default_rng(trial).integers(0, len(labels), 150)
        metrics = judged(probs[rows], [labels[row] for row in rows]).metrics()
        covered.append([metrics[name].low <= value <= metrics[name].high for name, value in truth.items()])
    for name, share in zip(truth, np.mean(covered, axis=0), strict=True):
        assert 0.89 <= share <= 0.995, name


def _truth(probs: np.ndarray, labels: list[str]) -> dict[str, float]:
    true = np.array([CLASSES.index(label) for label in labels])
    of_truth = probs[np.arange(len(true)), true]
    return {
        "accuracy": float((probs.argmax(1) == true).mean()),
        "nll": float(-np.log(of_truth).mean()),
        "brier": float((np.square(probs).sum(1) - 2 * of_truth + 1).mean()),
    }


def test_a_perfect_recall_of_few_images_is_not_certain():
    perfect = wilson(5, 5)
    assert (perfect.value, perfect.high) == (1.0, pytest.approx(1.0))
    assert perfect.low == pytest.approx(0.566, abs=1e-3)  # Wilson (1927)
    assert wilson(0, 10).low == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("images", "low"), [(10, 0.722), (298, 0.987)])
def test_a_model_that_made_no_mistake_on_the_holdout_is_not_certain_to_make_none(images: int, low: float):
    probs = np.tile([0.98, 0.01, 0.01], (images, 1))
    metrics = judged(probs, ["a"] * images).metrics()
    for name in ("accuracy", "macro_f1"):
        assert (metrics[name].value, metrics[name].high) == (pytest.approx(1), pytest.approx(1))
        assert metrics[name].low == pytest.approx(low, abs=1e-3), name


def test_a_model_that_was_never_right_is_not_certain_never_to_be():
    metrics = judged(np.tile([0.98, 0.01, 0.01], (20, 1)), ["b"] * 20).metrics()
    assert metrics["accuracy"].low == pytest.approx(0, abs=1e-12)
    assert metrics["accuracy"].high == pytest.approx(0.161, abs=1e-3)
    assert metrics["macro_f1"].high >= metrics["accuracy"].high


def test_a_share_lies_in_its_interval_to_the_last_digit():
    """Who draws it takes the one from the other, and nothing may be below zero."""
    for images in range(1, 400):
        for right in {0, images // 3, images - 1, images}:
            interval = wilson(right, images)
            assert 0 <= interval.low <= interval.value <= interval.high <= 1


def test_the_intervals_of_a_perfect_and_of_a_useless_model_hold_their_values():
    for images in (10, 36, 40, 61, 298):
        for labels in (["a"] * images, ["b"] * images):
            for name, interval in judged(np.tile([0.98, 0.01, 0.01], (images, 1)), labels).metrics().items():
                if name in ("accuracy", "macro_f1"):
                    assert interval.low <= interval.value <= interval.high, (name, images)


def test_recall_per_class():
    probs = np.eye(3)[[0, 0, 1, 1]]
    recall = judged(probs, ["a", "a", "b", "c"]).per_class()
    assert {name: interval.value for name, interval in recall.items()} == {"a": 1.0, "b": 1.0, "c": 0.0}


def test_the_confusion_matrix_has_truth_down_and_predictions_across():
    classes, counts = judged(np.eye(3)[[0, 1, 1]], ["a", "a", "b"]).confusion_matrix()
    assert classes == ["a", "b"]
    assert counts.tolist() == [[1, 1], [0, 1]]


def test_an_evaluation_survives_its_file():
    answers = judged(*random_answers(50, 2))
    read = Evaluation.from_bytes(answers.to_bytes())
    assert read.answers.equals(answers.answers)
    assert read.metrics() == answers.metrics()


def test_a_model_is_evaluated_on_files_and_the_broken_ones_are_named(tmp_path: Path):
    files = Files()
    fit(files, files.patterns(12), tmp_path, settings=training_settings(epochs=10))
    images = files.patterns(10, seed=4)
    broken = files.add("f" * 32, "down", b"\x89PNG\r\n\x1a\nrest")
    answers = evaluate(Predictor.load(tmp_path), [*images, broken], files.read)
    assert answers.answers["image_id"].to_list() == sorted(image.image_id for image in images)
    assert list(answers.skipped) == ["f" * 32]
    assert answers.metrics()["accuracy"].value > 0.9
