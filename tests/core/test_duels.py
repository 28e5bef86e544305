"""Which of two models is better: whom people are asked about, and what their answers prove."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from al_core.judging.duels import (
    PAIRING,
    Tally,
    asking_order,
    compare,
    evidence,
    next_images,
    tallies,
)
from al_core.judging.truth import Reserve

RESERVE = Reserve(0.5)
IDS = [hashlib.blake2b(str(number).encode(), digest_size=16).hexdigest() for number in range(3000)]
DUELLING = RESERVE.among(IDS, "duel")
MEASURING = RESERVE.among(IDS, "measure")


def pairing(differ: list[str], agree: list[str]) -> pl.DataFrame:
    """The champion says a everywhere; the challenger says b where they differ."""
    rows = [(one, f"images/{one}", None, "a", "b") for one in differ]
    rows += [(one, f"images/{one}", None, "a", "a") for one in agree]
    return pl.DataFrame(rows, schema=PAIRING, orient="row")


def scores(generator: np.random.Generator, won: float, lost: float, tied: float, size: int) -> np.ndarray:
    return generator.choice([1, -1, 2, 0], size=size, p=[won, lost, tied, 1 - won - lost - tied])


def counted(sample: np.ndarray) -> Tally:
    return Tally(*(int((sample == score).sum()) for score in (1, -1, 2, 0)))


def beginning(*facts: Any, **more: Any) -> Tally:
    """The beginning of the order in which every disagreement has a label."""
    return tallies(*facts, **more)[0]


# ---------------------------------------------------------------- whom to ask
def test_people_are_asked_only_where_the_two_disagree_and_only_about_images_for_duels() -> None:
    pair = pairing(DUELLING[:20] + MEASURING[:20], DUELLING[20:60])
    asked = next_images(pair, asking_order(pair, [], RESERVE), known=[])
    assert sorted(asked) == sorted(DUELLING[:20])


def test_nobody_is_asked_twice_and_two_that_never_disagree_ask_for_nothing() -> None:
    pair = pairing(DUELLING[:20], DUELLING[20:60])
    order = asking_order(pair, [], RESERVE)
    first = next_images(pair, order, known=[])[:8]
    assert not set(first) & set(next_images(pair, order, known=first))
    same = pairing([], DUELLING[:60])
    assert next_images(same, asking_order(same, [], RESERVE), known=[]) == []


def test_every_disagreement_has_the_same_chance_to_be_asked_for() -> None:
    pair = pairing(DUELLING[:20], DUELLING[20:60])
    drawn = dict.fromkeys(DUELLING[:20], 0)
    for salt in range(1000):
        for image_id in next_images(pair, asking_order(pair, [], Reserve(0.99, str(salt))), known=[])[:5]:
            drawn[image_id] += 1
    assert sum((count - 250) ** 2 / 250 for count in drawn.values()) < 43.8  # 19 degrees of freedom, p = 0.001


# ---------------------------------------------------------------- what is counted
def test_the_sample_ends_before_the_first_disagreement_nobody_was_asked_about() -> None:
    pair = pairing(DUELLING[:20], DUELLING[20:100])
    order = asking_order(pair, [], RESERVE)
    asked = next_images(pair, order, known=[])
    labels = {asked[0]: "b", asked[1]: "a", asked[2]: "c"}
    found = beginning(pair, order, labels, answered=asked[:3])
    assert (found.won, found.lost, found.tied) == (1, 1, 1)
    assert found.agreed == sum(one not in asked for one in order[: order.index(asked[3])])


def test_a_label_asked_for_other_models_counts_when_its_turn_has_come() -> None:
    pair = pairing(DUELLING[:20], [])
    order = asking_order(pair, [], RESERVE)
    late = {order[7]: "b"}
    assert beginning(pair, order, late, answered=late).labels == 0
    assert beginning(pair, order, late | dict.fromkeys(order[:7], "a"), answered=order[:7]).won == 1


def test_labels_of_a_duel_lie_where_the_duel_of_a_newer_challenger_needs_them() -> None:
    older, newer = pairing(DUELLING[:20], DUELLING[20:100]), pairing(DUELLING[:21], DUELLING[21:100])
    asked = next_images(older, asking_order(older, [], RESERVE), known=[])
    order = asking_order(newer, [], RESERVE)
    [only] = next_images(newer, order, known=asked)
    found = beginning(newer, order, dict.fromkeys(asked, "b"), answered=asked)
    assert found.labels + found.agreed == order.index(only)


def test_an_image_that_got_no_label_is_passed_over() -> None:
    pair = pairing(DUELLING[:20], [])
    order = asking_order(pair, [], RESERVE)
    found = beginning(pair, order, {order[0]: "b", order[2]: "b"}, answered=order[:3])
    assert (found.won, found.labels) == (2, 2)


def test_the_holdout_takes_part_at_no_cost() -> None:
    held_out = MEASURING[:30]
    pair = pairing([*held_out[:6], *DUELLING[:9]], [*held_out[6:], *DUELLING[9:40]])
    order = asking_order(pair, held_out, RESERVE)
    found = beginning(pair, order, dict.fromkeys(held_out, "b"), answered=held_out)
    assert found.won == 6
    assert found.agreed >= 24


@given(st.lists(st.sampled_from("abc"), min_size=0, max_size=20), st.randoms())
def test_the_verdict_of_the_same_labels_is_the_same_in_whatever_order_they_arrive(truths: list[str], random) -> None:
    pair = pairing(DUELLING[:20], DUELLING[20:60])
    order = asking_order(pair, [], RESERVE)
    asked = next_images(pair, order, known=[])[: len(truths)]
    labels = list(zip(asked, truths, strict=True))
    shuffled = dict(random.sample(labels, len(labels)))
    assert tallies(pair, order, dict(labels), answered=asked) == tallies(pair, order, shuffled, answered=asked)


@given(st.lists(st.sampled_from("abc"), min_size=20, max_size=20), st.sets(st.integers(0, 19)), st.booleans())
@settings(deadline=None)
def test_what_has_no_label_yet_never_proves_more_than_its_label_would(truths, missing, challenger: bool) -> None:
    pair = pairing(DUELLING[:20], DUELLING[20:60])
    order = asking_order(pair, [], RESERVE)
    labels = dict(zip(next_images(pair, order, known=[]), truths, strict=True))
    known = {image_id: label for place, (image_id, label) in enumerate(labels.items()) if place not in missing}
    for partly in tallies(pair, order, known, answered=known):
        images = partly.labels + partly.agreed + partly.unasked
        whole = beginning(pair, order[:images], labels, answered=labels)
        both = (partly, whole) if challenger else (partly.reversed(), whole.reversed())
        less, more = (float(evidence([count], -0.01)[0]) for count in both)
        assert less <= more * (1 + 1e-9)


def test_a_few_missing_labels_do_not_hide_what_all_others_say() -> None:
    pair = pairing(DUELLING[:20], DUELLING[20:600])
    order = asking_order(pair, [], RESERVE)
    first, *others = next_images(pair, order, known=[])
    found = tallies(pair, order, dict.fromkeys(others, "b"), answered=others)
    assert (found[0].labels, found[-1].won, found[-1].unasked) == (0, 19, 1)
    assert evidence(found[:1], -0.01)[0] < 20 < evidence(found, -0.01)[0]
    assert first in order[: found[0].agreed + 1]


# ---------------------------------------------------------------- what is proven
def test_without_an_image_nothing_is_known() -> None:
    found = compare(pairing([], []), [Tally()], confidence=0.95)
    assert (found.difference.value, found.difference.low, found.difference.high) == (0, -1, 1)
    assert evidence([Tally()], 0.3)[0] == pytest.approx(1)


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 30), st.integers(0, 900))
@settings(deadline=None)
def test_the_interval_holds_the_estimate_and_turns_its_sign_with_the_roles(won, lost, tied, agreed) -> None:
    count = Tally(won, lost, tied, agreed)
    pair = pairing(DUELLING[: count.labels], DUELLING[count.labels : count.labels + 300])
    ours, theirs = (compare(pair, [one], confidence=0.95).difference for one in (count, count.reversed()))
    assert ours.low <= ours.value <= ours.high
    assert (ours.low, ours.high) == (-theirs.high, -theirs.low)


@given(st.integers(0, 20), st.integers(0, 20), st.integers(0, 400))
def test_more_wins_never_speak_against_the_challenger(won: int, lost: int, agreed: int) -> None:
    less, more = Tally(won, lost, 0, agreed), Tally(won + 1, lost, 0, agreed)
    assert evidence([more], -0.01)[0] > evidence([less], -0.01)[0]
    assert evidence([more.reversed()], 0)[0] < evidence([less.reversed()], 0)[0]


def test_models_that_hardly_ever_disagree_need_no_label() -> None:
    found = compare(pairing([], DUELLING[:600]), [Tally(agreed=600)], confidence=0.95)
    assert found.difference.low > -0.01


@pytest.mark.parametrize(("won", "lost"), [(0.0, 0.01), (0.01, 0.02), (0.03, 0.04)])
def test_a_challenger_worse_by_the_tolerance_passes_in_one_of_twenty_cases_at_most(won, lost) -> None:
    generator, passed = np.random.default_rng(0), 0
    for _ in range(400):
        sample = scores(generator, won, lost, 0.002, 2000)
        looks = range(100, 2001, 100)  # somebody looks twenty times
        passed += any(evidence([counted(sample[:end])], -0.01)[0] >= 20 for end in looks)
    assert passed <= 20


def test_the_interval_holds_the_truth_at_every_look() -> None:
    generator, missed = np.random.default_rng(1), 0
    for _ in range(200):
        sample = scores(generator, 0.04, 0.02, 0.01, 1500)
        for end in (100, 300, 700, 1500):
            found = compare(pairing([], DUELLING[:10]), [counted(sample[:end])], confidence=0.95).difference
            if not found.low <= 0.02 <= found.high:
                missed += 1
                break
    assert missed <= 20  # each end holds with 95 %


def test_a_challenger_that_halves_an_error_of_2_6_percent_passes_with_forty_labels() -> None:
    generator, passed = np.random.default_rng(2), 0
    for _ in range(200):
        sample = scores(generator, 0.019, 0.006, 0.002, 5000)
        fortieth = np.flatnonzero(sample)[40]
        passed += evidence([counted(sample[:fortieth])], -0.01)[0] >= 20
    assert passed >= 180
