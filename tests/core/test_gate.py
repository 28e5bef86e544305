"""When a challenger may take the champion's place: better, worse, or open for now."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import polars as pl
import pytest

from al_core.judging.duels import PAIRING
from al_core.judging.gate import LEAST_IMAGES, Costs, Rules, Truth, decide, first_model
from al_core.judging.truth import Reserve
from al_core.records import GateVerdict

RESERVE = Reserve(0.5)
IDS = [hashlib.blake2b(str(number).encode(), digest_size=16).hexdigest() for number in range(9000)]
DUELLING, MEASURING = RESERVE.among(IDS, "duel"), RESERVE.among(IDS, "measure")
HOLDOUT = MEASURING[:100]
RULES = Rules(tolerance=0.01, confidence=0.95, class_tolerance=0.1)


def judged(won: int, lost: int, agreed: int, *, rules: Rules = RULES, costs: Costs | None = None) -> GateVerdict:
    """The verdict on a challenger that won and lost so many images, all of class x."""
    images = DUELLING[: won + lost + agreed]
    answers = [("x", "o")] * lost + [("o", "x")] * won + [("x", "x")] * agreed
    rows = [(one, one, None, *answer) for one, answer in zip(images, answers, strict=True)]
    labels = dict.fromkeys(images[: won + lost], "x")
    truth = Truth(labels | dict.fromkeys(HOLDOUT, "x"), HOLDOUT, "h1")
    return decided(rows, truth, rules, costs)


def decided(rows: list, truth: Truth, rules: Rules = RULES, costs: Costs | None = None) -> GateVerdict:
    return decide(
        pl.DataFrame(rows, schema=PAIRING, orient="row"),
        truth,
        answered=truth.labels,
        reserve=RESERVE,
        champion_version=3,
        rules=rules,
        costs=costs or Costs(),
    )


def test_a_clearly_better_challenger_passes_and_the_reason_says_on_what() -> None:
    verdict = judged(won=20, lost=2, agreed=600)
    assert (verdict.outcome, verdict.passed, verdict.champion_version) == ("better", True, 3)
    assert verdict.reason.startswith("better: +2.9 points against v3; they disagree on 3.5% of 622 reserved images")
    assert "won 20, lost 2 of 22 labeled images of these" in verdict.reason
    assert (verdict.won, verdict.lost, verdict.tied, verdict.agreed) == (20, 2, 0, 600)


def test_a_worse_challenger_is_worse() -> None:
    verdict = judged(won=2, lost=20, agreed=600)
    assert (verdict.outcome, verdict.passed) == ("worse", False)


def test_too_few_labels_leave_it_open() -> None:
    assert judged(won=3, lost=2, agreed=60).outcome == "open"


def test_nobody_answered_a_reserved_image() -> None:
    verdict = judged(0, 0, 0)
    assert verdict.outcome == "open"
    assert "send traffic, or raise holdout.reserve" in verdict.reason


def test_two_that_never_disagree_are_told_apart_by_the_tolerance_alone() -> None:
    assert judged(0, 0, agreed=800).outcome == "better"
    assert judged(0, 0, agreed=800, rules=replace(RULES, tolerance=0)).outcome == "open"


def test_without_tolerance_a_challenger_has_to_win() -> None:
    strict = replace(RULES, tolerance=0.0)
    assert judged(won=6, lost=6, agreed=2000, rules=strict).outcome == "open"
    assert judged(won=12, lost=0, agreed=2000, rules=strict).outcome == "better"


def test_a_class_that_surely_lost_its_recall_holds_back_a_challenger_that_is_better_over_all() -> None:
    rare, common = DUELLING[:15], DUELLING[15:75]
    rows = [(one, one, None, "rare", "x") for one in rare] + [(one, one, None, "o", "x") for one in common]
    rows += [(one, one, None, "x", "x") for one in DUELLING[75:175]]
    labels = dict.fromkeys(rare, "rare") | dict.fromkeys(common, "x")
    labels |= dict.fromkeys(HOLDOUT[:5], "rare") | dict.fromkeys(HOLDOUT[5:], "x")
    verdict = decided(rows, Truth(labels, HOLDOUT, "h1"))
    assert verdict.outcome == "worse"
    assert "class rare lost 15 of these images and won 0" in verdict.reason
    assert decided(rows, Truth(labels, HOLDOUT, "h1"), replace(RULES, class_tolerance=1.0)).outcome == "better"


def test_a_class_the_champion_does_not_know_is_won_by_who_knows_it() -> None:
    rows = [(one, one, None, "x", "new") for one in DUELLING[:20]] + [(o, o, None, "x", "x") for o in DUELLING[20:200]]
    verdict = decided(rows, Truth(dict.fromkeys(DUELLING[:20], "new"), [], "h1"))
    assert (verdict.outcome, verdict.won) == ("better", 20)


@pytest.mark.parametrize(
    ("rules", "costs", "reason"),
    [
        (replace(RULES, latency_ms=10), Costs(latency_ms=12.5), "latency of 12.5 ms is over the budget of 10"),
        (replace(RULES, size_mb=1), Costs(size_mb=1.6), "size of 1.6 MB is over the budget of 1"),
    ],
)
def test_who_costs_more_than_the_budget_is_held_back_however_good(rules: Rules, costs: Costs, reason: str) -> None:
    verdict = judged(won=20, lost=2, agreed=600, rules=rules, costs=costs)
    assert verdict.outcome == "worse"
    assert reason in verdict.reason
    assert first_model(90, 100, rules, Truth({}, [], "h1"), costs).outcome == "worse"


def test_the_first_model_passes_on_a_holdout_that_can_tell_something() -> None:
    truth = Truth({}, HOLDOUT, "h1")
    passed = first_model(90, 100, RULES, truth, Costs())
    assert (passed.passed, passed.champion_version) == (True, None)
    assert "90.0% right on 100 holdout images" in passed.reason
    few = first_model(15, LEAST_IMAGES - 1, RULES, truth, Costs())
    assert few.outcome == "open"
    assert "label more random images" in few.reason


def test_a_verdict_that_is_taken_again_is_equal() -> None:
    assert judged(won=12, lost=5, agreed=300) == judged(won=12, lost=5, agreed=300)
