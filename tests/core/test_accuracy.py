"""Accuracy over time: the interval holds at all looks, later labels change no look, and what is expected helps."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from al_core.judging.accuracy import average_thresholded_confidence, looks


def history(seed: int, labels: int, traffic: int = 2_000, shift: float = 0.0) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Labeled and other images of one stream; the model is right as often as it says, less `shift`."""
    generator = np.random.default_rng(seed)
    count = labels + traffic
    confidence = np.clip(1 - generator.beta(0.3, 2.5, count), 0.2, 1)
    right = generator.random(count) < confidence - shift
    names = generator.choice(list("abcd"), count)
    rows = pl.DataFrame({"predicted_label": names, "confidence": confidence, "label": np.where(right, names, "other")})
    return rows.head(labels), rows.tail(traffic).drop("label")


def truth(shift: float = 0.0) -> float:
    confidence = np.clip(1 - np.random.default_rng(0).beta(0.3, 2.5, 1_000_000), 0.2, 1)
    return float(np.clip(confidence - shift, 0, 1).mean())


@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_the_truth_lies_in_the_interval_at_every_look(shift: float) -> None:
    expected, misses = truth(shift), 0
    for seed in range(20):
        found = looks(*history(seed, 100, shift=shift), after=range(10, 101, 10))
        misses += any(not look.accuracy.low <= expected <= look.accuracy.high for look in found)
    assert misses <= 3  # 1 is expected; 4 or more have probability 0.02


def test_what_is_expected_narrows_the_interval() -> None:
    widths = {"with": [], "without": []}
    for seed in range(5):
        labeled, traffic = history(seed, 200)
        nothing_known = traffic.with_columns(confidence=pl.lit(0.5)), labeled.with_columns(confidence=pl.lit(0.5))
        for name, (others, own) in {"with": (traffic, labeled), "without": nothing_known}.items():
            [look] = looks(own, others, after=[200])
            widths[name].append(look.accuracy.high - look.accuracy.low)
    assert np.mean(widths["with"]) < 0.95 * np.mean(widths["without"])


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1_000), first=st.integers(1, 40))
def test_a_look_is_not_changed_by_labels_that_come_later(seed: int, first: int) -> None:
    labeled, traffic = history(seed, 40, traffic=300)
    [early] = looks(labeled.head(first), traffic, after=[first])
    later = looks(labeled, traffic, after=sorted({first, 40}))
    assert later[0] == early
    assert early.accuracy.low <= early.accuracy.value <= early.accuracy.high
    assert early.labels == first


def test_a_class_that_the_model_does_not_know_is_an_error_of_it() -> None:
    labeled = pl.DataFrame({"predicted_label": ["a"] * 50, "confidence": [0.99] * 50, "label": ["new"] * 50})
    [look] = looks(labeled, labeled.drop("label"), after=[50])
    assert look.from_labels_alone == 0
    assert look.accuracy.high < 0.2


def test_the_guess_without_labels_is_the_accuracy_where_nothing_changed() -> None:
    labeled, traffic = history(3, 1_000)
    right = (labeled["predicted_label"] == labeled["label"]).to_numpy()
    confidence = labeled["confidence"].to_numpy()
    assert average_thresholded_confidence(confidence, right, confidence) == pytest.approx(right.mean(), abs=0.002)
    guessed = average_thresholded_confidence(confidence, right, traffic["confidence"].to_numpy())
    assert guessed == pytest.approx(right.mean(), abs=0.05)
    assert average_thresholded_confidence(confidence, np.ones_like(right), traffic["confidence"].to_numpy()) == 1
    assert average_thresholded_confidence(np.empty(0), np.empty(0), confidence) is None
