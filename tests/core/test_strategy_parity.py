"""Every strategy chooses what its naive twin chooses."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace

import naive
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pools import random_pool, random_probs

from al_core.strategies import _balls, _spread, typiclust
from al_core.strategies._balls import Balls
from al_core.strategies._spread import Embedded, draw_far_apart
from al_core.strategies.auto import Auto, has_long_tail, neighbour_agreement
from al_core.strategies.badge import Badge, Gradients
from al_core.strategies.balanced_boundary import BalancedBoundary
from al_core.strategies.base import Labeled, Pool
from al_core.strategies.class_balanced import ClassBalanced
from al_core.strategies.cluster_margin import ClusterMargin
from al_core.strategies.clustering import kmeans, nearest_centre
from al_core.strategies.cost_aware import CostAware, seconds_per_class
from al_core.strategies.probcover import pure_radius
from al_core.strategies.registry import get_strategy
from al_core.strategies.typiclust import choose_typical
from al_core.strategies.uherding import NARROWEST, WIDEST, adapted_bandwidth

SEEDS = st.integers(0, 100_000)
any_pool = given(size=st.integers(1, 60), budget=st.integers(1, 20), labeled=st.integers(0, 6), seed=SEEDS)
lightly = settings(max_examples=25, deadline=None)


def whole_numbers(pool: Pool, seed: int) -> Pool:
    """Embeddings that are small whole numbers: every distance is exact, so that ties are ties."""
    rng = np.random.default_rng(seed)
    assert pool.embeddings is not None
    assert pool.labeled_embeddings is not None
    return replace(
        pool,
        embeddings=rng.integers(-3, 4, pool.embeddings.shape).astype(np.float32),
        labeled_embeddings=rng.integers(-3, 4, pool.labeled_embeddings.shape).astype(np.float32),
    )


# ---------------------------------------------------------------- diversity


@any_pool
@lightly
@pytest.mark.parametrize("exact", [True, False])
def test_k_center_greedy(exact: bool, size: int, budget: int, labeled: int, seed: int) -> None:
    assume(size != 2 or labeled)  # of two images both lie as near to their mean
    pool = random_pool(size, labeled=max(1, labeled) if exact else labeled, seed=seed)
    pool = whole_numbers(pool, seed) if exact else pool
    picks = get_strategy("k_center_greedy").query(pool, budget, seed)
    expected = naive.k_center(pool.embeddings, pool.labeled_embeddings, min(budget, size))
    assert picks.indices.tolist() == expected
    known = [pool.labeled_embeddings, pool.embeddings[expected[:-1]]]
    if len(np.concatenate(known)):
        nearest = naive.distances(pool.embeddings[expected[-1:]], np.concatenate(known)).min()
        assert picks.scores[-1] == pytest.approx(nearest, abs=1e-3)


@pytest.mark.parametrize("width", [1, 2, 64])
def test_looking_ahead_does_not_change_who_is_farthest(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = random_pool(300, width=4, seed=3)
    expected = get_strategy("k_center_greedy").query(pool, 100, 0)
    monkeypatch.setattr(_spread, "MOST_COLUMNS", width)
    np.testing.assert_array_equal(get_strategy("k_center_greedy").query(pool, 100, 0).indices, expected.indices)


def test_indices_are_positions_in_the_pool_also_with_labels_around() -> None:
    """Not in the labeled images and the pool together, nor among what was left after some were skipped."""
    pool = random_pool(4, labeled=50)
    rows = np.array([[0, 0], [9, 9], [1, 0], [-9, 9]], np.float32)
    pool = replace(pool, embeddings=rows, labeled_embeddings=np.zeros((50, 2), np.float32))
    assert set(get_strategy("k_center_greedy").query(pool, 2, 0).indices.tolist()) == {1, 3}


@pytest.mark.parametrize("points", ["spread", "two heaps"])
def test_far_apart_rows_are_drawn_as_k_means_plus_plus_draws_them(points: str) -> None:
    rng = np.random.default_rng(5)
    rows = rng.normal(size=(5, 2))
    if points == "two heaps":
        rows = np.array([[0, 0], [0.1, 0], [0, 0.1], [3, 3], [3.1, 3]])
    expected = naive.sequences(rows, 4, first=0)
    features, draws = Embedded(rows.astype(np.float32)), 4000
    counts = Counter(tuple(draw_far_apart(features, 4, 0, rng)[0].tolist()) for _ in range(draws))
    assert set(counts) <= set(expected)
    common = [one for one, probability in expected.items() if draws * probability >= 5]
    rare = draws - sum(counts[one] for one in common)
    statistic = sum((counts[one] - draws * expected[one]) ** 2 / (draws * expected[one]) for one in common)
    share = 1 - sum(expected[one] for one in common)
    assert statistic < len(common) + 4 * (2 * len(common)) ** 0.5
    assert abs(rare - draws * share) < 5 * (draws * share + 1) ** 0.5


def test_equal_rows_are_drawn_in_their_order_once_all_distances_are_zero() -> None:
    rows = np.array([[0, 0], [1, 1], [0, 0], [1, 1], [0, 0]], np.float32)
    picks, distances = draw_far_apart(Embedded(rows), 5, 0, np.random.default_rng(0))
    assert sorted(picks[:2].tolist()) in ([0, 1], [0, 3])
    assert picks[2:].tolist() == sorted(picks[2:].tolist())
    assert distances[2:].tolist() == [0, 0, 0]


@given(size=st.integers(1, 200), clusters=st.integers(1, 20), seed=SEEDS)
@lightly
def test_every_row_belongs_to_its_nearest_centre(size: int, clusters: int, seed: int) -> None:
    rows = random_pool(size, seed=seed).embeddings
    labels, centres = kmeans(rows, clusters, seed)
    assert len(centres) == min(clusters, size)
    nearest = naive.distances(rows, centres)
    np.testing.assert_allclose(nearest[np.arange(size), labels], nearest.min(axis=1), atol=1e-3)


def test_clusters_that_lie_apart_are_found_also_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 7, 3001)
    rows = (20 * np.eye(7, 12)[truth] + rng.normal(size=(3001, 12))).astype(np.float32)
    whole, _ = kmeans(rows, 7, 1)
    monkeypatch.setattr("al_core.strategies.clustering.CHUNK_VALUES", 1000)
    parts, centres = kmeans(rows, 7, 1)
    np.testing.assert_array_equal(whole, parts)
    assert len(set(zip(truth.tolist(), whole.tolist(), strict=True))) == 7
    np.testing.assert_allclose(centres[whole[0]], rows[truth == truth[0]].mean(axis=0), atol=1e-4)


def test_rows_between_two_centres_go_to_the_first() -> None:
    rows, centres = np.zeros((3, 2), np.float32), np.array([[1, 0], [-1, 0]], np.float32)
    assert nearest_centre(rows, centres).tolist() == [0, 0, 0]


@any_pool
@lightly
def test_kmeans(size: int, budget: int, labeled: int, seed: int) -> None:
    pool = random_pool(size, seed=seed)
    picks = get_strategy("kmeans").query(pool, budget, seed)
    clusters, centres = kmeans(pool.embeddings, min(budget, size), seed)
    to_centre = naive.distances(pool.embeddings, centres)[np.arange(size), clusters]
    by_size = sorted(np.unique(clusters), key=lambda one: (-(clusters == one).sum(), one))
    queues = [sorted(np.flatnonzero(clusters == one), key=lambda row: to_centre[row]) for one in by_size]
    expected = naive.in_turns(queues, min(budget, size))  # a cluster of two has two nearest: ties within rounding
    np.testing.assert_allclose(picks.scores, to_centre[expected], atol=1e-3)
    np.testing.assert_array_equal(picks.clusters, clusters[expected])
    np.testing.assert_array_equal(picks.clusters, clusters[picks.indices])


@given(
    size=st.integers(1, 70),
    budget=st.integers(1, 40),
    labeled=st.integers(0, 6),
    clusters=st.integers(1, 9),
    seed=SEEDS,
)
@lightly
def test_typiclust(size: int, budget: int, labeled: int, clusters: int, seed: int) -> None:
    rows, rng = random_pool(size, seed=seed).embeddings, np.random.default_rng(seed)
    mine, theirs = rng.integers(0, clusters, size), rng.integers(0, clusters, labeled)
    picks = choose_typical(rows, mine, theirs, min(budget, size), seed)
    expected, density = naive.typical(rows, mine, theirs, min(budget, size))
    np.testing.assert_allclose(picks.scores, density, rtol=1e-3)
    np.testing.assert_array_equal(picks.clusters, mine[expected])  # two of a pair are equally dense
    distinct = np.abs(np.subtract.outer(density, density) + np.eye(len(density))).min(axis=1) > 1e-3
    assert picks.indices[distinct].tolist() == np.array(expected)[distinct].tolist()


@pytest.mark.parametrize("size", [501, 999, 1003])
def test_no_image_is_beyond_the_reach_of_typiclust(size: int) -> None:
    """The densest spot is the very end of the pool, whatever its size is divided by."""
    rows = np.random.default_rng(0).normal(size=(size, 3)).astype(np.float32)
    rows[-15:] = [50, 0, 0] + 0.01 * rows[-15:]
    pool = replace(random_pool(size, labeled=0), embeddings=rows)
    picks = get_strategy("typiclust").query(pool, 1, 0)
    assert picks.indices[0] >= size - 15 or picks.scores[0] < 100
    assert set(get_strategy("typiclust").query(pool, size, 0).indices.tolist()) == set(range(size))


def test_a_huge_cluster_is_compared_with_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(typiclust, "_MOST_COMPARED", 50)
    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.normal(size=(400, 2)), rng.normal(size=(200, 2)) / 50]).astype(np.float32)
    picks = choose_typical(rows, np.zeros(600, np.int64), np.empty(0, np.int64), 10, 0)
    assert (picks.indices >= 400).all()


@given(
    size=st.integers(1, 60),
    budget=st.integers(1, 20),
    labeled=st.integers(0, 6),
    radius=st.floats(0.05, 1.9),
    pruned=st.booleans(),
    seed=SEEDS,
)
@lightly
def test_probcover(size: int, budget: int, labeled: int, radius: float, pruned: bool, seed: int) -> None:
    pool = random_pool(size, labeled=labeled, width=4, seed=seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_balls, "PRUNED_FROM", 0 if pruned else 1_000_000)
        picks = get_strategy("probcover", radius=radius).query(pool, budget, seed)
    rows, known = naive.unit(pool.embeddings), naive.unit(pool.labeled_embeddings)
    expected, gains = naive.cover(rows, known, radius, min(budget, size))
    assert picks.indices[: len(expected)].tolist() == expected
    assert picks.scores.tolist() == gains + [0] * (min(budget, size) - len(gains))


def test_balls_are_complete_where_clusters_hide_most_pairs() -> None:
    rng = np.random.default_rng(1)
    centres = rng.normal(size=(30, 16)) * 3
    rows = naive.unit(centres[rng.integers(0, 30, 1500)] + rng.normal(size=(1500, 16)) / 2).astype(np.float32)
    balls, radius = Balls(rows, 0.4, seed=0), 0.4
    graph = (naive.distances(rows, rows) <= radius)[balls.order][:, balls.order]
    assert balls._touching.mean() < 0.5, "or nothing was hidden"
    np.testing.assert_array_equal(balls.sizes(), graph.sum(axis=1))
    np.testing.assert_array_equal(balls.members(700), np.flatnonzero(graph[700]))
    some = np.array([3, 400, 1499])
    np.testing.assert_array_equal(balls.overlap(some), graph[:, some].sum(axis=1))
    np.testing.assert_array_equal(balls.around(balls.points[some]), graph[:, some].any(axis=1))


@given(size=st.integers(4, 80), seed=SEEDS, purity=st.sampled_from([0.5, 0.9, 0.95]))
@lightly
def test_the_radius_is_the_largest_that_is_pure_enough(size: int, seed: int, purity: float) -> None:
    rows = naive.unit(random_pool(size, width=3, seed=seed).embeddings).astype(np.float32)
    clusters, _ = kmeans(rows, 2, seed)
    radius = pure_radius(rows, 2, purity, seed)

    def pure(limit: float) -> float:
        near = naive.distances(rows, rows) <= limit
        return 1 - (near & (clusters[:, None] != clusters)).any(axis=1).mean()

    assert pure(radius * (1 - 1e-4)) >= purity - 1e-9
    assert pure(radius * (1 + 1e-4) + 1e-4) < purity + 1e-9 or radius == 2


@any_pool
@lightly
def test_max_herding(size: int, budget: int, labeled: int, seed: int) -> None:
    pool = random_pool(size, labeled=labeled, width=3, seed=seed)
    picks = get_strategy("max_herding", bandwidth=0.5).query(pool, budget, seed)
    rows, known = naive.unit(pool.embeddings), naive.unit(pool.labeled_embeddings)
    expected, gains = naive.herding(rows, known, 0.5, min(budget, size))
    np.testing.assert_allclose(picks.scores[: len(gains)], gains, atol=1e-5)
    assert picks.indices[: len(expected)].tolist() == expected


def test_max_herding_looks_at_references_only_where_the_pool_is_large() -> None:
    pool = random_pool(500, width=4)
    few = get_strategy("max_herding", references=50).query(pool, 20, seed=1)
    assert len(set(few.indices.tolist())) == 20
    assert (np.diff(few.scores) <= 1e-6).all(), "rises can only shrink"


@any_pool
@lightly
def test_uherding(size: int, budget: int, labeled: int, seed: int) -> None:
    pool = random_pool(size, labeled=labeled, width=3, seed=seed)
    picks = get_strategy("uherding").query(pool, budget, seed)
    rows, known = naive.unit(pool.embeddings), naive.unit(pool.labeled_embeddings)
    apart = naive.distances(known, known)[~np.eye(len(known), dtype=bool)]
    bandwidth = float(np.clip(apart.min(initial=WIDEST), NARROWEST, WIDEST))
    probs = np.sort(pool.probs.astype(np.float64), axis=1)
    doubts = 1 - (probs[:, -1] - probs[:, -2]) if probs.shape[1] > 1 else np.zeros(size)
    expected, gains = naive.herding(rows, known, bandwidth, min(budget, size), doubts)
    np.testing.assert_allclose(picks.scores[: len(gains)], gains, atol=1e-5)
    assert picks.indices[: len(expected)].tolist() == expected


def test_uherding_chooses_typical_images_first_and_doubtful_ones_once_labels_are_many() -> None:
    """One crowd that the model is sure of, one lone image that it doubts."""
    rng = np.random.default_rng(0)
    crowd = naive.unit(np.array([1.0, 0, 0, 0]) + 0.2 * rng.normal(size=(30, 4)))
    rows = np.concatenate([crowd, [[0, 1.0, 0, 0]]]).astype(np.float32)
    probs = np.array([[0.9, 0.1]] * 30 + [[0.5, 0.5]], np.float32)
    ids = np.array([f"{n:032x}" for n in range(31)])
    nothing, targets = np.empty((0, 4), np.float32), np.empty(0, np.int64)
    known = naive.unit(np.array([0, 0, 1.0, 0]) + 0.01 * rng.normal(size=(4, 4))).astype(np.float32)
    first = Pool(ids, probs=probs, embeddings=rows, labeled_embeddings=nothing, labeled_targets=targets)
    later = replace(first, labeled_embeddings=known, labeled_targets=np.zeros(4, np.int64))
    strategy = get_strategy("uherding")
    assert strategy.query(first, 1, 0).indices[0] < 30
    assert adapted_bandwidth(known) == NARROWEST
    assert strategy.query(later, 1, 0).indices[0] == 30


# ---------------------------------------------------------------- uncertainty and diversity


@any_pool
@lightly
def test_badge_draws_what_k_means_plus_plus_draws_from_the_gradients_themselves(
    size: int, budget: int, labeled: int, seed: int
) -> None:
    pool = random_pool(size, classes=3, width=4, seed=seed)
    picks = Badge().query(pool, budget, seed)
    formed = Embedded(naive.gradients(pool.probs, pool.embeddings).astype(np.float32))
    first = int(formed.squares.argmax())
    expected, distances = draw_far_apart(formed, min(budget, size), first, np.random.default_rng(seed))
    assert picks.indices.tolist() == expected.tolist()
    assert picks.scores[0] == pytest.approx(formed.squares[first] ** 0.5, rel=1e-4)
    np.testing.assert_allclose(picks.scores[1:], np.sqrt(distances[1:]), atol=1e-3)


def test_products_of_gradients_are_those_of_the_formed_ones() -> None:
    pool = random_pool(30, classes=5, width=6)
    formed = naive.gradients(pool.probs, pool.embeddings)
    factors, chosen = Gradients(pool.probs, pool.embeddings), np.array([2, 17])
    np.testing.assert_allclose(factors.products(chosen), formed[chosen] @ formed.T, atol=1e-4)
    np.testing.assert_allclose(factors.squares, (formed**2).sum(axis=1), rtol=1e-4)


def test_badge_is_not_least_confidence() -> None:
    """Among copies of the least confident image it takes one, then looks elsewhere."""
    probs = np.array([[0.5, 0.5]] * 5 + [[0.7, 0.3]] * 5, np.float32)
    rows = np.array([[1, 0]] * 5 + [[0, 1]] * 5, np.float32)
    pool = replace(random_pool(10, width=2), probs=probs, embeddings=rows)
    picks = Badge().query(pool, 2, seed=0).indices
    assert (picks[0] < 5, picks[1] >= 5) == (True, True)


@any_pool
@lightly
def test_cluster_margin(size: int, budget: int, labeled: int, seed: int) -> None:
    pool, count = random_pool(size, seed=seed), min(budget, size)
    picks = ClusterMargin(candidates=2).query(pool, budget, seed)
    margins = [float(np.sort(row)[-1] - np.sort(row)[-2]) for row in pool.probs]
    uncertain = sorted(sorted(range(size), key=margins.__getitem__)[: 2 * count])
    clusters, _ = kmeans(pool.embeddings[uncertain], count, seed)
    groups: dict[int, list[int]] = {}
    for row, cluster in zip(uncertain, clusters.tolist(), strict=True):
        groups.setdefault(cluster, []).append(row)
    turns = sorted(groups, key=lambda one: (len(groups[one]), one))
    queues = [sorted(groups[one], key=margins.__getitem__) for one in turns]
    assert picks.indices.tolist() == naive.in_turns(queues, count)
    np.testing.assert_array_equal(picks.scores, np.array(margins)[picks.indices])


@any_pool
@lightly
def test_entropy_density(size: int, budget: int, labeled: int, seed: int) -> None:
    pool = random_pool(size, seed=seed)
    pool = replace(pool, embeddings=pool.embeddings + 1)
    picks = get_strategy("entropy_density", beta=2.0).query(pool, budget, seed)
    directions = naive.unit(pool.embeddings)
    density = np.maximum((directions @ directions.T).mean(axis=1), 0)
    scores = [naive.entropy(p) * d**2 for p, d in zip(pool.probs, density, strict=True)]
    assert picks.indices.tolist() == sorted(range(size), key=lambda row: -round(scores[row], 12))[:budget]
    np.testing.assert_allclose(picks.scores, np.array(scores)[picks.indices], atol=1e-5)


# ---------------------------------------------------------------- committees and noise


@any_pool
@lightly
def test_bald_and_mean_std(size: int, budget: int, labeled: int, seed: int) -> None:
    pool = random_pool(size, seed=seed)
    bald, scatter = [], []
    for members in pool.committee.astype(np.float64):
        bald.append(naive.entropy(members.mean(axis=0)) - np.mean([naive.entropy(one) for one in members]))
        scatter.append(np.mean([np.std(members[:, column]) for column in range(members.shape[1])]))
    for name, scores in (("bald", bald), ("mean_std", scatter)):
        picks = get_strategy(name).query(pool, budget, seed)
        assert picks.indices.tolist() == sorted(range(size), key=lambda row: -scores[row])[:budget]
        np.testing.assert_allclose(picks.scores, np.array(scores)[picks.indices], atol=1e-6)


@pytest.mark.parametrize("shape", [(4, 3), (4, 0, 3)])
def test_a_committee_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    pool = replace(random_pool(4), committee=np.zeros(shape, np.float32))
    with pytest.raises(ValueError, match=r"expected \(images, members, classes\), at least one member"):
        get_strategy("bald").query(pool, 2, 0)


@pytest.mark.parametrize(("name", "beta"), [("power_margin", 1), ("power_entropy", 2), ("power_least_confidence", 0)])
def test_power_draws_in_proportion_to_the_power_of_the_uncertainty(name: str, beta: float) -> None:
    probs, draws = random_probs(5, 3, seed=4), 3000
    pool, strategy = Pool(random_pool(5).image_ids, probs=probs), get_strategy(name, beta=beta)
    top = np.sort(probs, axis=1)
    uncertainty = {
        "power_margin": 1 - (top[:, -1] - top[:, -2]),
        "power_entropy": np.array([naive.entropy(row) for row in probs]),
        "power_least_confidence": 1 - top[:, -1],
    }[name].astype(np.float64)
    weights = uncertainty**beta
    counts = Counter(tuple(strategy.query(pool, 2, seed).indices.tolist()) for seed in range(draws))
    statistic = 0.0
    for one, two in itertools.permutations(range(5), 2):
        share = weights[one] / weights.sum() * weights[two] / (weights.sum() - weights[one])
        statistic += (counts[(one, two)] - draws * share) ** 2 / (draws * share)
    assert statistic < 43.8  # chi-square, 19 degrees of freedom, p = 0.001


def test_certain_images_come_last_in_a_power_draw() -> None:
    pool = Pool(random_pool(3).image_ids, probs=np.array([[1, 0], [0.9, 0.1], [1, 0]], np.float32))
    picks = get_strategy("power_margin").query(pool, 3, 0)
    assert picks.indices.tolist() == [1, 0, 2]


# ---------------------------------------------------------------- imbalance and cost


@given(size=st.integers(1, 40), budget=st.integers(1, 45), classes=st.integers(1, 5), seed=SEEDS)
@lightly
def test_balanced_boundary(size: int, budget: int, classes: int, seed: int) -> None:
    pool = random_pool(size, classes=classes, seed=seed)
    picks = BalancedBoundary().query(pool, budget, seed)
    queues = []
    for column in range(classes):
        rivals = np.delete(pool.probs, column, axis=1).max(axis=1, initial=np.finfo(np.float32).tiny)
        gaps = np.abs(np.log(pool.probs[:, column]) - np.log(rivals))
        queues.append(sorted(range(size), key=gaps.__getitem__))
    assert picks.indices.tolist() == naive.in_turns(queues, min(budget, size))


def test_a_class_that_is_never_predicted_gets_its_share() -> None:
    rng = np.random.default_rng(0)
    probs = np.zeros((200, 3), np.float32)
    probs[:, 2] = rng.uniform(0, 0.1, 200)
    probs[:, 0] = rng.uniform(0.3, 0.6, 200)
    probs[:, 1] = 1 - probs[:, 0] - probs[:, 2]
    picks = BalancedBoundary().query(Pool(random_pool(200).image_ids, probs=probs), 30, 0)
    assert np.bincount(picks.clusters).tolist() == [10, 10, 10]
    chance = picks.indices[picks.clusters == 2]
    assert probs[chance, 2].min() > np.median(probs[:, 2])


@any_pool
@lightly
@pytest.mark.parametrize("base", ["margin", "random", "k_center_greedy"])
def test_class_balanced(base: str, size: int, budget: int, labeled: int, seed: int) -> None:
    pool, count = random_pool(size, labeled=labeled, seed=seed), min(budget, size)
    inner = get_strategy(base)
    picks = ClassBalanced(inner).query(pool, budget, seed)
    predicted = pool.probs.argmax(axis=1)
    have = np.bincount(pool.labeled_targets, minlength=4).tolist()
    turns: list[int] = []
    for _ in range(count):
        open_ = [one for one in range(4) if turns.count(one) < (predicted == one).sum()]
        turns.append(min(open_, key=lambda one: (have[one], one)))
        have[turns[-1]] += 1
    queues = {}
    for one in set(turns):
        members = np.flatnonzero(predicted == one)
        chosen = inner.query(pool.take(members), turns.count(one), seed).indices
        queues[one] = members[chosen].tolist()
    assert picks.indices.tolist() == [queues[one].pop(0) for one in turns]
    assert picks.clusters.tolist() == turns


def test_a_label_the_model_does_not_know_yet_is_no_obstacle_to_balance() -> None:
    pool = replace(random_pool(20), labeled_targets=np.array([0, 0, 7, 1, 2]))
    assert len(ClassBalanced().query(pool, 5, 0).indices) == 5


@any_pool
@lightly
@pytest.mark.parametrize("uncertainty", ["least_confidence", "margin", "entropy"])
def test_cost_aware(uncertainty: str, size: int, budget: int, labeled: int, seed: int) -> None:
    pool, seconds = random_pool(size, seed=seed), [1.0, 2.0, 5.0, 30.0]
    picks = CostAware(uncertainty, seconds).query(pool, budget, seed)
    scores = []
    for row in pool.probs.astype(np.float64):
        top = np.sort(row)
        doubt = {
            "least_confidence": 1 - top[-1],
            "margin": 1 - top[-1] + top[-2],
            "entropy": naive.entropy(row),
        }
        scores.append(doubt[uncertainty] / sum(p * cost for p, cost in zip(row, seconds, strict=True)))
    np.testing.assert_allclose(picks.scores, sorted(scores, reverse=True)[:budget], rtol=1e-4)


def test_without_times_cost_aware_is_the_plain_score() -> None:
    pool = random_pool(50)
    plain = get_strategy("margin").query(pool, 10, 0).indices
    np.testing.assert_array_equal(CostAware().query(pool, 10, 0).indices, plain)


@pytest.mark.parametrize("seconds", [[1.0, 2.0], [1, 2, 3, 0], [1, 2, 3, np.nan]])
def test_seconds_that_do_not_fit_the_classes_are_refused(seconds: list[float]) -> None:
    with pytest.raises(ValueError, match="for 4 classes; expected one positive number per class"):
        CostAware(seconds=seconds).query(random_pool(5), 2, 0)


def test_an_uncertainty_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="uncertainty 'bald'; expected one of least_confidence, margin, entropy"):
        CostAware("bald").query(random_pool(5), 2, 0)  # type: ignore[arg-type]


def test_seconds_per_class_are_means_drawn_towards_the_mean_of_all() -> None:
    timed = [("cat", 2.0)] * 500 + [("dog", 10.0)] * 500 + [("owl", None), ("fox", 3.0)]
    cat, dog, owl = seconds_per_class(timed, ["cat", "dog", "owl"])
    assert (round(cat, 1), round(dog, 1), round(owl, 1)) == (2.0, 10.0, 6.0)


def test_a_coffee_break_is_no_annotation_time() -> None:
    timed = [("cat", 2.0)] * 20 + [("dog", 2.0)] * 19 + [("dog", 4000.0)]
    cat, dog = seconds_per_class(timed, ["cat", "dog"])
    assert dog < 2 * cat


def test_without_any_time_every_class_takes_a_second() -> None:
    assert seconds_per_class([("cat", None)], ["cat", "dog"]).tolist() == [1, 1]


# ---------------------------------------------------------------- auto


@given(labels=st.integers(0, 30), seed=SEEDS)
@lightly
def test_neighbour_agreement(labels: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows, classes = rng.normal(size=(labels, 3)), rng.integers(0, 3, labels)
    cosines = naive.unit(rows) @ naive.unit(rows).T
    rates = []
    for one in np.unique(classes):
        hits = [
            labels > 1 and classes[max(set(range(labels)) - {i}, key=lambda j, i=i: cosines[i, j])] == one
            for i in np.flatnonzero(classes == one)
        ]
        rates.append(np.mean(hits))
    measured = neighbour_agreement(rows.astype(np.float32), classes)
    assert measured == pytest.approx(np.mean(rates) if rates else 0)


def test_auto_begins_with_typical_images_and_switches_when_labels_describe_the_data() -> None:
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 4, 80)
    rows = (5 * np.eye(4, 8)[classes] + rng.normal(size=(80, 8))).astype(np.float32)
    ids = np.arange(80).astype(str)
    plan = Auto().plan
    assert plan(Labeled(ids[:0], rows[:0], classes[:0])).name == "uherding"
    assert plan(Labeled(ids[:60], rows[:60], rng.permutation(classes[:60]))).name == "uherding"
    assert plan(Labeled(ids[:60], rows[:60], classes[:60])).name == "cluster_margin"


def test_auto_does_not_switch_back_because_uncertain_images_disagree() -> None:
    rng = np.random.default_rng(0)
    easy = rng.integers(0, 4, 40)
    typical = 5 * np.eye(4, 8)[easy] + rng.normal(size=(40, 8))
    hard = rng.integers(0, 4, 35)
    between = rng.normal(size=(35, 8))
    rows = np.concatenate([typical, between]).astype(np.float32)
    classes = np.concatenate([easy, hard])
    assert neighbour_agreement(rows, classes) < Auto().switch_at
    assert Auto().plan(Labeled(np.arange(75).astype(str), rows, classes)).name == "cluster_margin"


def test_auto_switches_on_many_labels_even_where_neighbours_never_agree() -> None:
    rng = np.random.default_rng(0)
    rows, classes = rng.normal(size=(80, 8)).astype(np.float32), rng.integers(0, 4, 80)
    ids = np.arange(80).astype(str)
    assert Auto(enough=20).plan(Labeled(ids, rows, classes)).name == "cluster_margin"
    assert Auto(enough=21).plan(Labeled(ids, rows, classes)).name == "uherding"


def test_auto_chooses_what_the_planned_strategy_chooses() -> None:
    pool = random_pool(60)
    auto, planned = Auto().query(pool, 6, 1), get_strategy("uherding").query(pool, 6, 1)
    np.testing.assert_array_equal(auto.indices, planned.indices)
    classes = np.arange(40) % 2
    warm = replace(pool, labeled_embeddings=np.eye(2, 8, dtype=np.float32)[classes], labeled_targets=classes)
    np.testing.assert_array_equal(Auto().query(warm, 6, 1).indices, ClusterMargin().query(warm, 6, 1).indices)


def counted(*counts: int, seed: int = 0) -> np.ndarray:
    """So many labels of each class, in a random order."""
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))


@pytest.mark.parametrize("seed", range(20))
def test_classes_that_are_equally_common_are_no_long_tail(seed: int) -> None:
    assert not has_long_tail(np.random.default_rng(seed).integers(0, 10, 1000))


def test_a_long_tail_is_noticed_by_itself_and_stays_noticed_once_batches_have_evened_it_out() -> None:
    tail = counted(60, 30, 15, 8, 4)
    assert has_long_tail(tail)
    assert has_long_tail(np.concatenate([tail, counted(0, 30, 45, 52, 56)]))
    assert not has_long_tail(counted(3, 2, 1))
    assert not has_long_tail(counted(400, 200)), "one class in three is not rare"
    assert not has_long_tail(np.empty(0, np.int64))


def test_auto_goes_by_class_on_a_long_tail() -> None:
    rng = np.random.default_rng(0)
    classes = counted(60, 12, 4)
    rows = rng.normal(size=(76, 8)).astype(np.float32)
    planned = Auto().plan(Labeled(np.arange(76).astype(str), rows, classes))
    assert (planned.name, planned.base.name) == ("class_balanced", "uherding")
    planned = Auto(enough=20).plan(Labeled(np.arange(76).astype(str), rows, classes))
    assert (planned.name, planned.base.name) == ("class_balanced", "cluster_margin")
