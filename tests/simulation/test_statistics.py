"""What the statistics of a study promise."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import permutation_test

from simulation.statistics import (
    Curves,
    against_baseline,
    area_differences,
    area_under,
    conclusion,
    curves_of,
    holm,
    label_savings,
    mean_interval,
    sign_flip_p,
    win_matrix,
)

LABELS = np.arange(20, 120, 10)


def curves(seeds: int = 8, gain: float = 0.05, noise: float = 0.01, seed: int = 0) -> Curves:
    rng = np.random.default_rng(seed)
    random = 0.9 - 0.4 * np.exp(-(LABELS - 20) / 40) + noise * rng.standard_normal((seeds, len(LABELS)))
    better = random + gain + noise * rng.standard_normal(random.shape)
    better[:, 0] = random[:, 0]  # the first model is shared
    return Curves(("random", "better"), tuple(range(seeds)), LABELS, np.stack([random, better]))


def table(values: Curves) -> pl.DataFrame:
    rows = [
        {
            "strategy": name,
            "start": "warm",
            "seed": s,
            "round": r,
            "images_asked": int(LABELS[r]),
            "accuracy": value,
        }
        for name in values.strategies
        for s, curve in enumerate(values.of(name))
        for r, value in enumerate(curve)
    ]
    return pl.DataFrame(rows).sample(fraction=1, shuffle=True, seed=1)


def test_curves_are_read_from_the_tidy_table_with_random_first():
    made = curves()
    read = curves_of(table(made))
    assert read.strategies == ("random", "better")
    assert np.allclose(read.values, made.values)
    assert read.labels.tolist() == LABELS.tolist()


def test_only_seeds_that_all_strategies_finished_are_compared():
    rows = table(curves(seeds=4)).filter(
        ~((pl.col("seed") == 2) & (pl.col("strategy") == "better") & (pl.col("round") > 5))
    )
    assert curves_of(rows).values.shape == (2, 3, len(LABELS))
    with pytest.raises(ValueError, match="no seed is finished"):
        curves_of(rows.filter(seed=2))


def test_a_lead_of_half_the_labels_is_a_saving_of_two():
    straight = np.linspace(0, 1, 11)
    labels = np.arange(0, 110, 10) + 100
    twice = np.minimum(1, 2 * straight)
    found = label_savings(
        Curves(("random", "fast"), (0, 1, 2), labels, np.stack([[straight] * 3, [twice] * 3])), "fast"
    )
    assert found.ratio == pytest.approx(200 / 150)
    assert (found.low, found.high, found.never) == (pytest.approx(found.ratio), pytest.approx(found.ratio), 0)


def test_a_strategy_that_never_gets_there_says_never():
    made = curves(gain=-0.1)
    found = label_savings(made, "better")
    assert np.isnan(found.ratio)
    assert str(found) == "never"
    assert found.never == 1


def test_the_interval_of_the_savings_covers_the_ratio():
    found = label_savings(curves(noise=0.02), "better")
    assert found.low <= found.ratio <= found.high
    assert found.ratio > 1.2


# of a thousand test images: what differs at all differs by more than either calls a tie
@given(st.lists(st.integers(-1000, 1000), min_size=2, max_size=9).filter(lambda values: max(values) > min(values)))
def test_the_sign_flip_test_is_scipys(images):
    differences = np.array(images) / 1000
    expected = permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=np.inf, alternative="two-sided"
    ).pvalue
    # scipy doubles the smaller tail, ours counts both: the same for a symmetric distribution
    assert sign_flip_p(differences) == pytest.approx(expected, abs=1e-9)


def test_ten_seeds_that_agree_are_significant_and_many_seeds_are_sampled():
    assert sign_flip_p(np.full(10, 0.1)) == pytest.approx(2 / 1024)
    assert sign_flip_p(np.full(30, 0.1)) < 1e-3
    assert sign_flip_p(np.random.default_rng(0).standard_normal(30)) > 0.05


def test_without_any_difference_the_test_finds_nothing():
    assert sign_flip_p(np.zeros(6)) == 1


def test_holms_correction():
    assert holm(np.array([0.01, 0.04, 0.03])).tolist() == pytest.approx([0.03, 0.06, 0.06])
    assert holm(np.array([0.9, 0.9])).tolist() == [1, 1]


def test_false_findings_stay_below_their_level():
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(200):
        noise = rng.standard_normal((5, 8, 3)).cumsum(axis=2)
        study = Curves(("random", "a", "b", "c", "d"), tuple(range(8)), np.arange(3), noise)
        found += any(c.p_corrected < 0.05 for c in against_baseline(study, lambda curve: curve[:, -1]))
    assert found / 200 <= 0.08


def test_the_area_of_a_straight_line_is_its_middle():
    assert area_under(np.linspace(0.2, 0.6, len(LABELS)), LABELS) == pytest.approx(0.4)


def test_starts_are_compared_seed_by_seed_over_the_rounds_that_both_have():
    warm = Curves(("random",), (0, 1, 2), np.array([20, 30, 40]), np.array([[[0.5] * 3, [0.6] * 3, [0.7] * 3]]))
    cold = Curves(("random",), (1, 2, 5), np.array([20, 30]), np.array([[[0.5] * 2, [0.7] * 2, [0.1] * 2]]))
    assert area_differences(cold, warm, "random") == pytest.approx([-0.1, 0.0])
    assert area_differences(warm, cold, "random") == pytest.approx([0.1, 0.0])


def test_who_wins_significantly_is_counted_by_round():
    wins = win_matrix(curves(gain=0.2))
    assert wins[1, 0] == 1
    assert wins[0, 1] == 0
    assert np.diag(wins).tolist() == [0, 0]
    assert win_matrix(curves(seeds=1)).sum() == 0
    same = Curves(("random", "same"), curves().seeds, LABELS, np.repeat(curves().values[:1], 2, axis=0))
    assert win_matrix(same).sum() == 0


def test_the_mean_lies_in_its_interval():
    mean, low, high = mean_interval(curves().of("random"))
    assert mean.shape == low.shape == high.shape == LABELS.shape
    assert ((low <= mean) & (mean <= high)).all()


@pytest.mark.parametrize(
    ("gain", "noise", "beginning"),
    [
        (0.1, 0.01, "better wins: +"),
        (-0.1, 0.01, "Random sampling wins"),
        (0.0, 0.05, "No strategy is surely better"),
    ],
)
def test_the_conclusion_is_a_plain_sentence(gain, noise, beginning):
    assert conclusion(curves(gain=gain, noise=noise)).startswith(beginning)


def test_without_random_there_is_nothing_to_conclude():
    assert "nothing to compare" in conclusion(Curves(("a", "b"), curves().seeds, LABELS, curves().values))
