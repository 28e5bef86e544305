"""Drift: the test is exact where nothing differs, finds what does and names it, and a year of looks spends alpha."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from al_core.judging.drift import (
    COMPARED,
    DAYS,
    chi_square_p_value,
    class_mix,
    comparable,
    excess_p_value,
    level,
    reduced,
    stability_index,
    two_samples,
)

D = 16


def answers(
    generator: np.random.Generator, count: int, *, unseen: int = 0, width: int | None = D, first: int = 0
) -> pl.DataFrame:
    """Rows of `COMPARED`: three classes a network keeps apart, and at the end some of a fourth, unknown one."""
    centers = 5 * np.eye(4, D)
    labels = np.r_[generator.integers(0, 3, count - unseen), np.full(unseen, 3)]
    embeddings = centers[labels] + generator.standard_normal((count, D))
    odds = np.exp(embeddings[:, :3])
    probs = odds / odds.sum(axis=1, keepdims=True)
    keys = generator.integers(0, 1 << 60, count)
    return pl.DataFrame(
        {
            "image_id": [f"{first + number:032x}" for number in range(count)],
            "image_key": keys,
            "predicted_label": ["abc"[place] for place in probs.argmax(axis=1)],
            "confidence": probs.max(axis=1),
            "probs": probs.tolist(),
            "embedding": [None] * count if width is None else embeddings[:, :width].tolist(),
        },
        schema=COMPARED,
    )


def p_value_of(reference: pl.DataFrame, window: pl.DataFrame) -> float:
    both = comparable(reference, window)
    return two_samples(both.reference, both.window, both.keys).p_value


# ---------------------------------------------------------------------- laws
@settings(deadline=None)
@given(alpha=st.floats(0.001, 0.5), looks_a_day=st.integers(1, 10_000))
def test_all_looks_of_a_year_together_spend_alpha_at_most(alpha: float, looks_a_day: int) -> None:
    spent = DAYS * sum(level(alpha, number) for number in range(1, looks_a_day + 1))
    assert spent <= alpha * (1 + 1e-9)
    assert level(alpha, looks_a_day) > 0


@settings(deadline=None)
@given(
    scores=st.lists(st.integers(-50, 50), min_size=10, max_size=60),
    count=st.integers(1, 9),
)
def test_only_the_order_of_the_scores_counts_and_equal_ones_are_no_evidence(scores: list[int], count: int) -> None:
    reference, window = np.array(scores[count:], float), np.array(scores[:count], float)
    found = excess_p_value([(reference, window)])
    assert 0 < found <= 1
    assert found == excess_p_value([(np.exp(reference / 9), np.exp(window / 9))])
    assert excess_p_value([(np.zeros(len(reference)), np.zeros(count))]) == 1


def test_where_nothing_differs_small_p_values_are_as_rare_as_they_say() -> None:
    generator = np.random.default_rng(0)
    blocks = [(30, 20), (25, 30), (40, 0)]  # of reference and window
    found = np.array(
        [excess_p_value([(generator.random(a), generator.random(b)) for a, b in blocks]) for _ in range(2_000)]
    )
    for bound in (0.2, 0.05, 0.01):
        assert (found <= bound).mean() <= bound + 2 * np.sqrt(bound * (1 - bound) / len(found))
    assert (found <= 0.2).mean() > 0.05  # a test that never speaks would pass the lines above


@settings(deadline=None)
@given(counts=st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500)), min_size=2, max_size=8))
def test_the_stability_index_is_zero_for_equal_shares_and_the_same_both_ways(counts: list[tuple[int, int]]) -> None:
    ours, theirs = (np.array(side) for side in zip(*counts, strict=True))
    assert stability_index(ours, 3 * ours) == pytest.approx(0, abs=1e-9)
    assert stability_index(ours, theirs) == pytest.approx(stability_index(theirs, ours))
    assert stability_index(ours, theirs) >= 0


# ---------------------------------------------------------------------- what is found
def test_a_tenth_of_an_unseen_class_raises_the_alarm_of_a_first_look_and_its_images_are_named() -> None:
    generator = np.random.default_rng(1)
    reference, window = answers(generator, 2_000), answers(generator, 1_000, unseen=100)
    both = comparable(reference, window)
    found = two_samples(both.reference, both.window, both.keys)
    assert found.p_value <= level(0.05, 1)
    assert found.auc > 0.5
    assert (found.scores.argsort()[::-1][:100] >= 900).mean() > 0.7


def test_a_tenth_of_an_unseen_class_is_found_in_embeddings_of_many_dimensions() -> None:
    generator = np.random.default_rng(8)
    centers = generator.standard_normal((4, 512))
    centers *= 5 / np.linalg.norm(centers, axis=1, keepdims=True)

    def images(count: int, unseen: int = 0) -> list[np.ndarray]:
        labels = np.r_[generator.integers(0, 3, count - unseen), np.full(unseen, 3)]
        embeddings = centers[labels] + generator.standard_normal((count, 512))
        odds = embeddings @ centers[:3].T
        logs = odds - np.log(np.exp(odds).sum(axis=1, keepdims=True))
        return [np.maximum(logs, np.log(1e-4)), embeddings]

    keys = generator.integers(0, 1 << 60, 2_000), generator.integers(0, 1 << 60, 1_000)
    found = two_samples(*reduced(images(2_000), images(1_000, unseen=100)), keys)
    assert found.p_value <= level(0.05, 1)
    assert (found.scores.argsort()[::-1][:60] >= 900).mean() > 0.7


def test_the_number_of_classes_does_not_make_a_look_long() -> None:
    generator = np.random.default_rng(9)
    logs = [np.log(generator.dirichlet(np.ones(1000), count).astype(np.float32)) for count in (300, 120)]
    ours, theirs = reduced([logs[0]], [logs[1]])
    assert ours.shape[1] == theirs.shape[1] == 64 + 10 + 1


def test_the_same_distribution_raises_none() -> None:
    generator = np.random.default_rng(2)
    assert p_value_of(answers(generator, 2_000), answers(generator, 500)) > level(0.05, 1)


def test_images_on_both_sides_are_no_evidence() -> None:
    reference = answers(np.random.default_rng(3), 600)
    assert p_value_of(reference, reference) == 1


def test_another_mix_of_the_same_classes_is_found_without_any_embedding() -> None:
    generator = np.random.default_rng(4)
    reference, window = answers(generator, 2_000, width=None), answers(generator, 2_000, width=None)
    window = window.filter((pl.col("predicted_label") != "a") | (pl.col("image_key") % 4 == 0))
    assert comparable(reference, window).features.startswith("probabilities alone: 0 images")
    assert p_value_of(reference, window) <= level(0.05, 1)


# ---------------------------------------------------------------------- what cannot be compared
def test_embeddings_of_another_encoder_are_left_out_and_counted() -> None:
    generator = np.random.default_rng(5)
    window = pl.concat(
        [answers(generator, 300), answers(generator, 40, width=D - 1), answers(generator, 7, width=None)]
    )
    both = comparable(answers(generator, 500), window)
    assert both.rows.height == len(both.window) == 300
    assert list(both.left_out.values()) == [7, 40]
    assert "another encoder made it" in list(both.left_out)[1]


def test_where_all_embeddings_are_of_another_encoder_the_probabilities_are_compared() -> None:
    generator = np.random.default_rng(6)
    both = comparable(answers(generator, 300), answers(generator, 200, width=D - 1))
    assert both.features == "probabilities alone: 0 images of the window have an embedding like the reference's"
    assert both.window.shape == (200, 3 + 3 + 1), "of three classes: each, in order, and the lead of the first"


def test_an_empty_window_leaves_nothing_to_compare() -> None:
    generator = np.random.default_rng(7)
    assert comparable(answers(generator, 300), answers(generator, 0)).window.shape[0] == 0


# ---------------------------------------------------------------------- figures
def test_the_class_mix_counts_classes_of_either_side() -> None:
    mix = class_mix(["a", "a", "b"], ["b", "c"])
    assert mix.rows() == [("a", 2, 0), ("b", 1, 1), ("c", 0, 1)]
    assert class_mix([], []).is_empty()


def test_the_chi_square_sees_another_mix_and_says_nothing_where_there_is_nothing_to_see() -> None:
    assert chi_square_p_value(class_mix(["a"] * 90 + ["b"] * 10, ["a"] * 60 + ["b"] * 40)) < 0.001
    assert chi_square_p_value(class_mix(["a"] * 90, ["a"] * 60)) == 1
    assert chi_square_p_value(class_mix(["a"] * 90, [])) == 1
