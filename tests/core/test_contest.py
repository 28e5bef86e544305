"""Who serves, who asks and whom people judge, given the verdicts: the rules of the loop and of its simulation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from al_core.judging.contest import CHALLENGERS, challengers, duels, who_asks, who_takes_over, whom_to_judge
from al_core.judging.duels import PAIRING
from al_core.judging.truth import Reserve
from al_core.records import GateVerdict

Outcome = Literal["better", "worse", "open"]
OUTCOMES = st.lists(st.sampled_from(["better", "worse", "open"]), min_size=0, max_size=6)


def verdicts(outcomes: dict[int, Outcome]) -> Callable[[int], GateVerdict]:
    def of(version: int) -> GateVerdict:
        outcome = outcomes[version]
        return GateVerdict(
            passed=outcome == "better", outcome=outcome, reason="", champion_version=1, difference=None,
            tolerance=0.01, images=100, holdout="h",
        )  # fmt: skip

    return of


def test_the_newest_that_is_better_takes_over_though_a_newer_one_is_open() -> None:
    assert who_takes_over([5, 4, 3], verdicts({5: "open", 4: "better", 3: "better"})) == 4
    assert who_takes_over([5, 4], verdicts({5: "open", 4: "worse"})) is None


def test_the_newest_that_is_not_proven_worse_asks_so_that_an_open_verdict_stalls_nothing() -> None:
    assert who_asks([5, 4], 3, verdicts({5: "open", 4: "better"})) == 5
    assert who_asks([5, 4], 3, verdicts({5: "worse", 4: "open"})) == 4
    assert who_asks([5, 4], 3, verdicts({5: "worse", 4: "worse"})) == 3


@pytest.mark.parametrize(("outcome", "judged"), [("open", 5), ("better", None), ("worse", None)])
def test_people_judge_the_newest_while_it_is_open(outcome: Outcome, judged: int | None) -> None:
    assert whom_to_judge([5, 4], verdicts({5: outcome, 4: "open"})) == judged
    assert whom_to_judge([], verdicts({})) is None


@given(st.sets(st.integers(1, 30)), st.integers(1, 30) | st.none())
def test_challengers_are_the_newest_ones_and_newer_than_who_serves(models: set[int], serving: int | None) -> None:
    found = challengers(models, serving)
    assert found == sorted(found, reverse=True)
    assert len(found) == min(CHALLENGERS, sum(serving is None or model > serving for model in models))
    assert all(model > (serving or 0) for model in found)


@given(OUTCOMES)
def test_who_takes_over_is_never_older_than_who_asks_allows(outcomes: list[Outcome]) -> None:
    known = dict(enumerate(outcomes, start=2))
    candidates, verdict = challengers(known, 1), verdicts(known)
    winner = who_takes_over(candidates, verdict)
    assert winner is None or who_asks(candidates, 1, verdict) >= winner


def test_fewer_disagreements_than_asked_for_are_all_asked_for() -> None:
    reserve = Reserve(0.9)
    ids = reserve.among([f"{number:032x}" for number in range(1, 400)], "duel")
    rows = [(one, one, None, "a", "b" if place < 3 else "a") for place, one in enumerate(ids)]
    pairing = pl.DataFrame(rows, schema=PAIRING, orient="row")
    asked = duels(pairing, [], reserve, known=ids[:1], count=20)
    assert {row["image_id"] for row in asked} == set(ids[1:3])
    assert {row["propensity"] for row in asked} == {1.0}
    assert duels(pairing, [], reserve, known=ids[:3], count=20) == []
