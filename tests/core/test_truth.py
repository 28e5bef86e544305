"""Who may judge is decided by content, for ever, uniformly, and independently of how images are drawn."""

from __future__ import annotations

import hashlib

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from al_core.judging.truth import MODULUS, Reserve, Role
from al_core.records import image_keys
from al_core.strategies.base import KEY_SPACE

IDS = [hashlib.blake2b(str(number).encode(), digest_size=16).hexdigest() for number in range(20_000)]
KEYS = image_keys(IDS)


@given(st.floats(0, 0.99), st.text(max_size=5), st.lists(st.sampled_from(IDS), max_size=20, unique=True))
def test_the_decision_is_the_same_wherever_it_is_made(share: float, salt: str, ids: list[str]) -> None:
    reserve = Reserve(share, salt)
    decided = [reserve.holds(image_id) for image_id in ids]
    assert reserve.among(ids) == [image_id for image_id, judges in zip(ids, decided, strict=True) if judges]
    keys = pl.DataFrame({"key": image_keys(ids)})
    roles: list[Role] = ["judge", "teach", "measure", "duel"]
    in_a_store = {role: keys.select(reserve.part(role).filter(pl.col("key")).alias("in"))["in"] for role in roles}
    assert in_a_store["judge"].to_list() == decided
    assert in_a_store["teach"].to_list() == [not judges for judges in decided]
    for role in roles:
        assert [reserve.holds(image_id, role) for image_id in ids] == in_a_store[role].to_list()
    for measures, duels, judges in zip(in_a_store["measure"], in_a_store["duel"], decided, strict=True):
        assert measures + duels == judges  # either one or the other


@given(st.floats(0, 0.99), st.floats(0, 0.99))
def test_a_larger_reserve_holds_the_smaller_one(one: float, other: float) -> None:
    small, large = (Reserve(share).part("judge").mask(KEYS[:2_000]) for share in sorted([one, other]))
    assert not (small & ~large).any()


@pytest.mark.parametrize("salt", ["truth", "a", "b"])
@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
def test_the_reserve_is_its_share_of_all_images_and_of_every_window_of_keys(share: float, salt: str) -> None:
    reserved = Reserve(share, salt).part("judge").mask(KEYS)
    for start in range(10):  # a random draw is a window of keys: it must not be reserved as a whole
        window = (start * KEY_SPACE // 10 <= KEYS) & ((start + 1) * KEY_SPACE // 10 > KEYS)
        spread = np.sqrt(share * (1 - share) / window.sum())
        assert abs(reserved[window].mean() - share) < 4 * spread


def test_two_salts_decide_independently() -> None:
    both = Reserve(0.3, "a").part("judge").mask(KEYS) & Reserve(0.3, "b").part("judge").mask(KEYS)
    assert both.mean() == pytest.approx(0.09, abs=0.01)


def test_the_largest_key_does_not_overflow() -> None:
    reserve = Reserve(0.5)
    largest = KEY_SPACE - 1
    judges = reserve.part("judge")
    exact = (largest % MODULUS * reserve.multiplier + reserve.offset) % MODULUS < judges.bounds[1]
    assert bool(judges.mask(np.array([largest]))[0]) == exact


@pytest.mark.parametrize("share", [-0.1, 1, 1.5])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=f"a reserve of {share} of all images"):
        Reserve(share)
