"""Least confidence, margin, entropy and random against their naive twins."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pools import image_ids, random_pool, random_probs

from al_core.strategies._ranking import first_by
from al_core.strategies.base import Pool
from al_core.strategies.registry import get_strategy

NAIVE: dict[str, Callable[[list[float]], float]] = {
    "least_confidence": max,
    "margin": lambda row: sorted(row)[-1] - sorted(row)[-2],
    "entropy": lambda row: sum(p * np.log(p) for p in row if p > 0),
}


@given(size=st.integers(1, 30), budget=st.integers(1, 30), seed=st.integers(0, 10_000))
@pytest.mark.parametrize("name", NAIVE)
def test_the_choice_is_that_of_a_plain_sort(name: str, size: int, budget: int, seed: int) -> None:
    probs, ids = random_probs(size, 5, seed).astype(np.float64), image_ids(size)
    expected = sorted(range(size), key=lambda row: (round(NAIVE[name](probs[row].tolist()), 9), ids[row]))
    picks = get_strategy(name).query(Pool(np.array(ids), probs=probs), budget, seed=0)
    assert picks.indices.tolist() == expected[:budget]


@given(st.lists(st.integers(0, 4), max_size=30), st.integers(0, 35), st.booleans())
def test_ties_keep_the_order_of_the_image_ids(values: list[int], count: int, descending: bool) -> None:
    expected = sorted(range(len(values)), key=lambda row: -values[row] if descending else values[row])[:count]
    assert first_by(np.array(values, float), count, descending=descending).tolist() == expected


def test_random_draws_every_image_equally_often() -> None:
    """Over fresh images: the keys of a fixed set divide the circle unevenly, fresh hashes do not."""
    strategy, drawn = get_strategy("random"), np.zeros(10)
    for seed in range(2000):
        ids = image_ids(10, salt=seed)
        order = np.random.default_rng(seed).permutation(10)  # which image has which id
        drawn[order[strategy.query(Pool(np.array(ids)), 3, seed).indices]] += 1
    expected = 2000 * 3 / 10
    assert ((drawn - expected) ** 2 / expected).sum() < 27.9  # chi-square, 9 degrees of freedom, p = 0.001


def test_random_picks_have_no_score() -> None:
    assert np.isnan(get_strategy("random").query(random_pool(5), 3, seed=0).scores).all()


def test_another_seed_draws_other_images() -> None:
    pool, strategy = random_pool(500), get_strategy("random")
    assert set(strategy.query(pool, 20, 1).indices) != set(strategy.query(pool, 20, 2).indices)
