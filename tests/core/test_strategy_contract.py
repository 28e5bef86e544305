"""The contract of `QueryStrategy`; every registered strategy passes it."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pools import MemorySource, image_ids, random_pool, random_probs

from al_core.strategies.base import Pool, QueryStrategy
from al_core.strategies.registry import STRATEGIES, get_strategy


@pytest.fixture(params=sorted(STRATEGIES))
def strategy(request: pytest.FixtureRequest) -> QueryStrategy:
    return get_strategy(request.param)


def frozen(pool: Pool) -> Pool:
    """The same pool with arrays that cannot be written to."""
    for item in fields(pool):
        array = getattr(pool, item.name)
        if array is not None:
            array.setflags(write=False)
    return pool


def check_answer(strategy: QueryStrategy, pool: Pool, budget: int, seed: int = 0) -> list[int]:
    picks = strategy.query(frozen(pool), budget, seed)
    chosen = picks.indices.tolist()
    assert picks.indices.dtype == np.int64
    assert len(chosen) == len(set(chosen)) == min(budget, len(pool))
    assert all(0 <= index < len(pool) for index in chosen)
    assert picks.scores.dtype == np.float64
    assert picks.scores.shape == (len(chosen),)
    assert picks.clusters is None or picks.clusters.shape == (len(chosen),)
    return chosen


@pytest.mark.parametrize(("size", "budget"), [(40, 7), (40, 40), (40, 41), (40, 0), (1, 1), (1, 5), (0, 5), (0, 0)])
def test_a_query_gives_min_of_budget_and_pool_distinct_images(strategy: QueryStrategy, size: int, budget: int) -> None:
    check_answer(strategy, random_pool(size), budget)


def test_a_query_is_deterministic_under_a_seed(strategy: QueryStrategy) -> None:
    pool = random_pool(60)
    one, two = strategy.query(pool, 10, seed=5), strategy.query(pool, 10, seed=5)
    np.testing.assert_array_equal(one.indices, two.indices)
    np.testing.assert_array_equal(one.scores, two.scores)


def test_a_query_leaves_global_random_state_alone(strategy: QueryStrategy) -> None:
    np.random.seed(1)
    expected = np.random.random()
    np.random.seed(1)
    strategy.query(random_pool(30), 5, seed=3)
    assert np.random.random() == expected


def test_a_pool_of_equal_candidates_is_answered(strategy: QueryStrategy) -> None:
    pool = random_pool(30)
    assert pool.probs is not None
    equal = replace(
        pool,
        probs=np.full_like(pool.probs, 0.25),
        embeddings=np.ones((30, 8), np.float32),
        committee=np.full((30, 3, 4), 0.25, np.float32),
    )
    check_answer(strategy, equal, 10)


def test_a_single_class_is_answered(strategy: QueryStrategy) -> None:
    pool = random_pool(20, classes=1)
    check_answer(strategy, pool, 5)


def test_without_labeled_images_the_strategy_still_answers(strategy: QueryStrategy) -> None:
    check_answer(strategy, random_pool(20, labeled=0), 5)


def test_a_negative_budget_is_refused(strategy: QueryStrategy) -> None:
    with pytest.raises(ValueError, match="budget -1 is negative"):
        strategy.query(random_pool(5), -1, seed=0)


def test_a_pool_without_what_the_strategy_needs_is_refused(strategy: QueryStrategy) -> None:
    bare = Pool(image_ids=random_pool(5).image_ids)
    if not strategy.needs:
        check_answer(strategy, bare, 3)
        return
    with pytest.raises(ValueError, match=f"strategy {strategy.name} needs"):
        strategy.query(bare, 3, seed=0)


def test_arrays_of_another_length_than_the_pool_are_refused(strategy: QueryStrategy) -> None:
    pool, other = random_pool(6), random_pool(5)
    mixed = replace(other, image_ids=pool.image_ids)
    if not strategy.needs:
        check_answer(strategy, mixed, 3)
        return
    with pytest.raises(ValueError, match="expected one per image"):
        strategy.query(mixed, 3, seed=0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_image_with_an_unusable_embedding_is_named(strategy: QueryStrategy, bad: float) -> None:
    pool = random_pool(9)
    assert pool.embeddings is not None
    embeddings = pool.embeddings.copy()
    embeddings[4, 2] = bad
    spoiled = replace(pool, embeddings=embeddings)
    if "embedding" not in strategy.needs:
        check_answer(strategy, spoiled, 3)
        return
    with pytest.raises(ValueError, match=rf"image {pool.image_ids[4]} holds NaN or infinity \(1 such"):
        strategy.query(spoiled, 3, seed=0)


def test_labels_embedded_by_another_model_are_refused(strategy: QueryStrategy) -> None:
    if not {"embedding", "labels"} <= strategy.needs:
        pytest.skip("compares no image with a labeled one")
    other = replace(random_pool(9), labeled_embeddings=np.ones((5, 3), np.float32))
    with pytest.raises(ValueError, match=r"3 values, those of the pool 8; expected both from the same model"):
        strategy.query(other, 3, seed=0)


@pytest.mark.parametrize("bad", [np.nan, -0.5, 2.0])
def test_probabilities_that_are_none_are_refused(strategy: QueryStrategy, bad: float) -> None:
    pool = random_pool(9)
    assert pool.probs is not None
    assert pool.committee is not None
    probs, committee = pool.probs.copy(), pool.committee.copy()
    probs[4, 2] = committee[4, 1, 2] = bad
    spoiled = replace(pool, probs=probs, committee=committee)
    if not {"probs", "committee"} & strategy.needs:
        check_answer(strategy, spoiled, 3)
        return
    with pytest.raises(ValueError, match=r"sum to 1 within"):
        strategy.query(spoiled, 3, seed=0)


def test_the_ids_of_other_images_do_not_matter(strategy: QueryStrategy) -> None:
    """Indices in, indices out: a pool of the same arrays under other ids gives the same positions."""
    if strategy.name == "random":
        pytest.skip("draws by the ids")
    pool = random_pool(40)
    renamed = replace(pool, image_ids=np.array(image_ids(40, salt=9)))
    np.testing.assert_array_equal(strategy.query(pool, 7, seed=1).indices, strategy.query(renamed, 7, seed=1).indices)


def test_tensors_give_the_picks_of_arrays(strategy: QueryStrategy) -> None:
    """On the CPU; a GPU runs the same code."""
    torch = pytest.importorskip("torch")
    pool = random_pool(120, width=16)
    arrays = ("probs", "embeddings", "committee", "labeled_embeddings", "labeled_targets")
    tensors = replace(pool, **{name: torch.from_numpy(getattr(pool, name).copy()) for name in arrays})
    one, two = strategy.query(pool, 12, seed=2), strategy.query(tensors, 12, seed=2)
    np.testing.assert_array_equal(one.indices, two.indices)
    np.testing.assert_allclose(one.scores, two.scores, rtol=1e-4)


def test_every_strategy_says_what_it_is(strategy: QueryStrategy) -> None:
    assert STRATEGIES[strategy.name] is type(strategy)
    assert strategy.reference
    assert "O(" in strategy.cost
    assert type(strategy).__doc__


@settings(max_examples=15, deadline=None)
@given(size=st.integers(0, 25), budget=st.integers(0, 30), seed=st.integers(0, 2**32 - 1), few=st.booleans())
@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_any_pool_is_answered(name: str, size: int, budget: int, seed: int, few: bool) -> None:
    pool = random_pool(size, seed=seed % 1000)
    if few and size:  # many ties
        repeated = np.arange(size) % 3 % size
        pool = replace(pool.take(repeated), image_ids=pool.image_ids)
    check_answer(get_strategy(name), pool, budget, seed)


@settings(max_examples=25, deadline=None)
@given(
    size=st.integers(0, 40),
    budget=st.integers(0, 45),
    seed=st.integers(0, 2**32 - 1),
    levels=st.integers(1, 6),
)
@pytest.mark.parametrize("name", [name for name in sorted(STRATEGIES) if get_strategy(name).order(0)])
def test_the_store_and_the_arrays_give_the_same_images(
    name: str, size: int, budget: int, seed: int, levels: int
) -> None:
    strategy = get_strategy(name)
    probs = random_probs(levels, 3, seed)[np.random.default_rng(seed).integers(0, levels, size)]
    order = strategy.order(seed)
    assert order is not None
    from_store = MemorySource.of(probs).eligible(order, budget, []).column("image_id").to_pylist()
    pool = Pool(image_ids=np.array(image_ids(size), "<U32"), probs=probs)
    assert pool.image_ids[strategy.query(pool, budget, seed).indices].tolist() == from_store


def test_an_unknown_strategy_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ValueError, match="no strategy is called 'margni'; did you mean 'margin'"):
        get_strategy("margni")


def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(ValueError, match="strategy margin has no setting 'temprature'"):
        get_strategy("margin", temprature=2)
