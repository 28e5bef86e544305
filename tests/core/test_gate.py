"""When a challenger may take the champion's place."""

from __future__ import annotations

from functools import cache

import numpy as np
import polars as pl
import pytest
from scipy.stats import binom

from al_core.judging.evaluation import COLUMNS, Evaluation
from al_core.judging.gate import LEAST_IMAGES, GateMismatch, decide, verify
from al_core.records import GateVerdict


def answers(correct: np.ndarray, first: int = 0) -> Evaluation:
    count = len(correct)
    rows = {
        "image_id": [f"{i:06d}" for i in range(first, first + count)],
        "label": ["yes"] * count,
        "predicted": np.where(correct, "yes", "no").tolist(),
        "confidence": [0.9] * count,
        "true_probability": np.where(correct, 0.9, 0.1).tolist(),
        "squared_error": [0.1] * count,
    }
    return Evaluation(pl.DataFrame(rows, schema=COLUMNS), {})


def right(count: int, of: int) -> np.ndarray:
    return np.arange(of) < count


def gate(challenger: Evaluation, champion: Evaluation | None, tolerance: float = 0.0) -> GateVerdict:
    version = None if champion is None else 3
    return decide(challenger, champion, champion_version=version, tolerance=tolerance, confidence=0.95, holdout="h1")


def test_a_clearly_better_model_passes_and_the_reason_says_by_how_much():
    verdict = gate(answers(right(180, 200)), answers(right(160, 200)))
    assert verdict.passed
    assert verdict.reason.startswith("passed: +10.0 points against v3 on 200 holdout images")
    assert verdict.difference is not None
    assert 0 < verdict.difference.low < 0.1 < verdict.difference.high
    assert (verdict.champion_version, verdict.images, verdict.holdout) == (3, 200, "h1")


def test_a_worse_model_is_refused():
    verdict = gate(answers(right(160, 200)), answers(right(180, 200)))
    assert not verdict.passed
    assert verdict.reason.startswith("refused: -10.0 points")


def test_identical_answers_show_only_what_the_holdout_can_show():
    model = answers(right(150, 200))
    refused = gate(model, model)
    assert not refused.passed
    assert refused.reason == "refused: +0.0 points against v3 on 200 holdout images, at 95% not below -1.5 (limit 0)"
    assert gate(model, model, tolerance=3 / 200).passed


@pytest.mark.parametrize(("won", "lost", "passes"), [(4, 0, False), (5, 0, True), (7, 1, True), (6, 1, False)])
def test_without_tolerance_it_takes_five_images_won_and_more_where_some_are_lost(won, lost, passes):
    challenger, champion = np.ones(300, bool), np.ones(300, bool)
    champion[:won], challenger[won : won + lost] = False, False
    assert gate(answers(challenger), answers(champion)).passed is passes


def test_a_small_gain_that_may_be_luck_is_refused():
    rng = np.random.default_rng(0)
    champion = rng.random(200) < 0.8
    challenger = champion.copy()
    challenger[np.flatnonzero(champion)[:10]] = False
    challenger[np.flatnonzero(~champion)[:12]] = True
    assert not gate(answers(challenger), answers(champion)).passed
    assert gate(answers(challenger), answers(champion), tolerance=0.05).passed


def test_the_first_model_has_nobody_to_beat():
    verdict = gate(answers(right(100, 200)), None)
    assert verdict.passed
    assert verdict.reason == "the first model: 50.0% right on 200 holdout images, nobody to beat"
    assert verdict.difference is None


@pytest.mark.parametrize("images", [0, LEAST_IMAGES - 1])
@pytest.mark.parametrize("has_champion", [True, False])
def test_a_holdout_that_is_too_small_lets_nobody_pass_and_says_the_way_out(images, has_champion):
    model = answers(right(images, images))
    verdict = gate(model, model if has_champion else None)
    assert not verdict.passed
    assert "label more random images" in verdict.reason


def test_answers_to_different_images_cannot_be_compared():
    with pytest.raises(GateMismatch, match="5 only the one, 5 only the other"):
        gate(answers(right(50, 50)), answers(right(50, 50), first=5))


def test_a_verdict_is_verified_from_the_stored_answers():
    challenger, champion = answers(right(180, 200)), answers(right(160, 200))
    verdict = gate(challenger, champion)
    stored = [Evaluation.from_bytes(model.to_bytes()) for model in (challenger, champion)]
    assert verify(verdict, *stored, confidence=0.95) == verdict


def test_a_forged_verdict_is_found_out():
    verdict = gate(answers(right(160, 200)), answers(right(180, 200)))
    forged = verdict.model_copy(update={"passed": True})
    with pytest.raises(GateMismatch, match="says passed, but its answers say: refused"):
        verify(forged, answers(right(160, 200)), answers(right(180, 200)), confidence=0.95)


def test_a_verdict_without_its_answers_is_worth_nothing():
    model = answers(right(180, 200))
    verdict = gate(model, answers(right(160, 200)))
    for challenger, champion in ((None, model), (model, None)):
        with pytest.raises(GateMismatch, match="not stored beside the model"):
            verify(verdict, challenger, champion, confidence=0.95)


@pytest.mark.parametrize("tolerance", [0.0, 0.01, 0.03])
@pytest.mark.parametrize("wins", [0.005, 0.03])
@pytest.mark.parametrize("images", [50, 150, 300])
def test_a_model_just_worse_than_tolerated_is_promoted_in_at_most_one_of_twenty_cases(images, wins, tolerance):
    """By the exact probability of every outcome that would be promoted, not by a sample of them."""
    losses = wins + tolerance
    promoted = 0.0
    most_lost = -1  # the more a challenger wins, the more it may lose
    for won in range(int(binom.isf(1e-4, images, wins)) + 1):
        while most_lost + 1 + won <= images and _passes(images, won, most_lost + 1, tolerance):
            most_lost += 1
        given_won = binom.cdf(most_lost, images - won, losses / (1 - wins)) if most_lost >= 0 else 0.0
        promoted += binom.pmf(won, images, wins) * given_won
    assert promoted <= 0.05


def test_at_the_tolerance_itself_the_error_is_about_what_was_asked():
    rng = np.random.default_rng(5)
    draws = rng.multinomial(400, [0.05, 0.08, 0.87], size=300)
    passed = np.mean([_passes(400, won, lost, 0.03) for won, lost, _ in draws])
    assert 0.01 <= passed <= 0.09


def test_a_better_model_gets_through():
    draws = np.random.default_rng(6).multinomial(300, [0.08, 0.02, 0.9], size=200)
    assert np.mean([_passes(300, won, lost, 0.0) for won, lost, _ in draws]) > 0.9


@cache
def _passes(images: int, won: int, lost: int, tolerance: float) -> bool:
    order = np.arange(images)
    challenger, champion = order >= lost, (order < lost) | (order >= lost + won)
    return gate(answers(challenger), answers(champion), tolerance).passed
