"""What the next round will bring, and when that is not worth it."""

from __future__ import annotations

import numpy as np
import pytest

from al_core.judging.stopping import RoundEvidence, advise


def rounds(
    count: int, *, factor: float, exponent: float, images: int = 100, seed: int = 0, budget: int = 50
) -> list[RoundEvidence]:
    """Rounds whose error is `factor` labels^-`exponent`, seen on random images."""
    rng = np.random.default_rng(seed)
    labels = [200 + budget * number for number in range(count)]
    errors = [factor * have**-exponent for have in labels]
    return [
        RoundEvidence(have, images, images - int(rng.binomial(images, error)))
        for have, error in zip(labels, errors, strict=True)
    ]


def test_the_expected_gain_is_that_of_the_curve() -> None:
    seen = rounds(20, factor=8, exponent=0.7, images=100_000)
    advice = advise(seen, next_labels=50)
    last = seen[-1].labels
    assert advice.gain is not None
    assert advice.gain.value == pytest.approx(8 * (last**-0.7 - (last + 50) ** -0.7), rel=0.1)


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    hits = 0
    for seed in range(200):
        seen = rounds(12, factor=8, exponent=0.7, images=60, seed=seed)
        gain = advise(seen, next_labels=50, seed=seed).gain
        truth = 8 * (seen[-1].labels ** -0.7 - (seen[-1].labels + 50) ** -0.7)
        assert gain is not None
        hits += gain.low <= truth <= gain.high
    assert hits >= 180


def test_a_steep_curve_says_go_on_and_a_flat_one_stop() -> None:
    assert not advise(rounds(6, factor=8, exponent=0.7), next_labels=50).stop
    flat = advise(rounds(30, factor=0.05, exponent=0, images=500), next_labels=50)
    assert flat.stop
    assert "hardly worth its labels" in flat.sentence


def test_models_that_agree_settle_a_close_call() -> None:
    close = rounds(6, factor=8, exponent=0.7)
    gain = advise(close, next_labels=50).gain
    assert gain is not None
    between = (gain.value + gain.high) / 2  # the estimate is below, the upper end above
    rng = np.random.default_rng(0)
    same = rng.integers(0, 10, 300)
    doubtful = [rng.integers(0, 10, 300) for _ in range(3)]
    assert advise(close, next_labels=50, committee=[same] * 4, worthwhile=between).stop
    assert not advise(close, next_labels=50, committee=doubtful, worthwhile=between).stop


def test_agreement_is_cohens_kappa_of_the_last_models() -> None:
    one, other = np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1])
    assert advise([], next_labels=5, committee=[other, one]).agreement == pytest.approx(0.5)
    assert advise([], next_labels=5, committee=[one]).agreement is None
    assert advise([], next_labels=5, committee=[np.zeros(4), np.zeros(4)]).agreement == 1


def test_few_rounds_are_too_early_to_say() -> None:
    for seen in ([], rounds(2, factor=8, exponent=0.7), [RoundEvidence(100, 0, 0)] * 5):
        advice = advise(seen, next_labels=50)
        assert (advice.gain, advice.stop) == (None, False)
        assert "too early" in advice.sentence


def test_a_perfect_model_expects_nothing_more() -> None:
    seen = [RoundEvidence(200 + 50 * number, 500, 500) for number in range(5)]
    advice = advise(seen, next_labels=50)
    assert advice.gain is not None
    assert advice.gain.high == pytest.approx(0, abs=1e-6)
    assert advice.stop


@pytest.mark.parametrize("bad", [RoundEvidence(10, 5, 6), RoundEvidence(0, 5, 5), RoundEvidence(10, 5, -1)])
def test_counts_that_cannot_be_are_refused(bad: RoundEvidence) -> None:
    with pytest.raises(ValueError, match=r"expected 0 <= correct <= images"):
        advise([bad], next_labels=5)


def test_predictions_of_different_images_are_refused() -> None:
    with pytest.raises(ValueError, match="expected those of the same images"):
        advise([], next_labels=5, committee=[np.zeros(3), np.zeros(4)])
