"""From a budget to a batch: who may be chosen, who is, and what is written down about it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from labeled_context import LabeledContext
from naive import hamming_distance
from pools import MemorySource, image_ids, random_hashes, random_probs

from al_core import selection as selection_module
from al_core.images import BadImage
from al_core.judging.truth import Reserve
from al_core.records import SELECTIONS
from al_core.selection import Judging, Rules, Selection, select_batch, select_seed_batch
from al_core.strategies.base import Labeled, Need, Picks, Pool, QueryStrategy
from al_core.strategies.registry import STRATEGIES, get_strategy

PROVENANCE = ("round", "image_id", "image_uri", "rank", "reason", "strategy", "seed", "selected_at")


class FarthestFromOrigin(QueryStrategy):
    """A strategy that needs arrays: the longest embeddings first."""

    name = "farthest_from_origin"
    needs: frozenset[Need] = frozenset({"embedding", "probs"})
    prefilter = "margin"

    def query(self, pool: Pool, budget: int, seed: int) -> Picks:
        assert pool.embeddings is not None
        assert pool.image_ids.tolist() == sorted(pool.image_ids.tolist())
        length = np.linalg.norm(pool.embeddings, axis=1)
        indices = np.argsort(-length, kind="stable")[: self.check(pool, budget)]
        return Picks(
            indices,
            length[indices].astype(np.float64),
            clusters=indices % 2,
            details={"pool": float(len(pool))},
        )


RULES = ("control_share", "near_duplicate_distance", "pool_limit", "device")
JUDGING = {"judges": "source", "judges_version": "version", "duels": "duels", "judged": "judged"}


def select(source: MemorySource, **changes: object) -> Selection:
    request: dict = {
        "strategy": get_strategy("margin"),
        "budget": 10,
        "seed": 7,
        "round_": 2,
        "model_version": 3,
    }
    if isinstance(changes.get("strategy"), str):
        changes["strategy"] = get_strategy(str(changes["strategy"]))
    rules = {name: changes.pop(name) for name in RULES if name in changes}
    judging = {JUDGING[name]: changes.pop(name) for name in JUDGING if name in changes}
    return select_batch(
        source,
        rules=Rules(**{"control_share": 0.1, "near_duplicate_distance": 4, **rules}),  # type: ignore[arg-type]
        judging=Judging(**judging),  # type: ignore[arg-type]
        **(request | changes),
    )


def chosen(selection: Selection, reason: str | None = None) -> list[str]:
    rows = selection.table.to_pylist()
    return [row["image_id"] for row in rows if reason in (None, row["reason"])]


def with_duplicates(count: int, groups: int, seed: int) -> list[str | None]:
    """Hashes of `groups` pictures, one bit flipped here and there; every seventh image has none."""
    rng = np.random.default_rng(seed)
    centres = rng.integers(0, 256, (groups, 16), np.uint8)
    hashes: list[str | None] = []
    for number in range(count):
        row = centres[rng.integers(groups)].copy()
        row[rng.integers(16)] ^= np.uint8(1 << int(rng.integers(8)))
        hashes.append(None if number % 7 == 3 else row.tobytes().hex())
    return hashes


@settings(max_examples=100, deadline=None)
@given(
    size=st.integers(0, 60),
    budget=st.integers(0, 70),
    share=st.sampled_from([0, 0.1, 0.5, 1]),
    groups=st.integers(1, 80),
    seed=st.integers(0, 1000),
    name=st.sampled_from(["margin", "least_confidence", "entropy", "random", "arrays"]),
)
def test_every_batch_keeps_the_laws(size: int, budget: int, share: float, groups: int, seed: int, name: str) -> None:
    probs = random_probs(size, 3, seed)
    hashes = with_duplicates(size, groups, seed)
    taken = image_ids(size)[::5]
    source = MemorySource.of(probs, hashes=hashes, embeddings=probs, taken=taken)
    strategy = FarthestFromOrigin() if name == "arrays" else get_strategy(name)
    selection = select(source, strategy=strategy, budget=budget, control_share=share, seed=seed)
    again = select(source, strategy=strategy, budget=budget, control_share=share, seed=seed)
    rows, ids = selection.table.to_pylist(), chosen(selection)

    assert selection.table.drop(["selected_at"]) == again.table.drop(["selected_at"])
    assert selection.table.schema == SELECTIONS
    assert set(ids) <= set(source.ids), "never an image that is selected or labeled already"
    assert len(set(ids)) == len(ids) <= budget
    assert [row["rank"] for row in rows] == list(range(len(rows)))
    for row in rows:
        assert all(row[name] is not None for name in (*PROVENANCE, "prediction_id", "model_version"))
    kept = [row["image_hash"] for row in rows if row["image_hash"]]
    assert all(hamming_distance(one, other) > 4 for position, one in enumerate(kept) for other in kept[:position])
    # whoever was passed over resembles somebody: a batch below the budget has used up the whole pool
    by_id = dict(zip(image_ids(size), hashes, strict=True))
    if len(ids) < budget:
        for image_id in set(source.ids) - set(ids):
            assert by_id[image_id]
            assert any(hamming_distance(by_id[image_id], other) <= 4 for other in kept)
        assert selection.shortfall
    else:
        assert selection.shortfall is None


@pytest.mark.parametrize(
    ("budget", "share", "control"),
    [
        (10, 0.1, 1),
        (50, 0.1, 5),
        (2, 0.01, 1),
        (1, 0.1, 0),
        (1, 1, 1),
        (10, 0, 0),
        (10, 1, 10),
        (15, 0.25, 4),
    ],
)
def test_the_control_slice_has_its_share_and_at_least_one_image(budget: int, share: float, control: int) -> None:
    selection = select(MemorySource.of(random_probs(100, 3)), budget=budget, control_share=share)
    assert selection.control == len(chosen(selection, "control")) == control
    assert len(chosen(selection, "strategy")) == budget - control


def test_control_images_carry_their_propensity_and_no_score() -> None:
    rows = select(MemorySource.of(random_probs(200, 3)), budget=20).table.to_pylist()
    for row in rows:
        if row["reason"] == "control":
            assert (row["propensity"], row["score"], row["strategy"]) == (2 / 200, None, "random")
        else:
            assert (row["propensity"], row["strategy"]) == (None, "margin")
            assert row["score"] is not None


def test_the_control_slice_is_uniform_over_all_eligible_images() -> None:
    """Over fresh images, as in `test_random_draws_every_image_equally_often`: the slice knows no margin."""
    count, rounds = 20, 300
    drawn = np.zeros(count)
    for seed in range(rounds):
        probs = random_probs(count, 3, seed)
        source = MemorySource.of(probs, salt=seed)
        by_margin = source._log.sort("margin")["image_id"].to_list()
        for image_id in chosen(select(source, control_share=0.2, seed=seed), "control"):
            drawn[by_margin.index(image_id)] += 1
    expected = rounds * 2 / count
    assert ((drawn - expected) ** 2 / expected).sum() < 43.8  # chi-square, 19 degrees of freedom, p = 0.001


def test_the_strategy_chooses_from_what_the_control_slice_left() -> None:
    source = MemorySource.of(random_probs(100, 3))
    selection = select(source, budget=20, control_share=0.5)
    control = set(chosen(selection, "control"))
    best = [image_id for image_id in source._log.sort("margin", "image_id")["image_id"] if image_id not in control]
    assert chosen(selection, "strategy") == best[:10]


def test_the_strategy_comes_first_in_its_own_order_and_the_control_slice_after_it() -> None:
    selection = select(MemorySource.of(random_probs(100, 3)), budget=20)
    reasons = selection.table.column("reason").to_pylist()
    assert reasons == ["strategy"] * 18 + ["control"] * 2
    scores = selection.table.column("score").to_pylist()[:18]
    assert scores == sorted(scores)


def test_a_random_strategy_is_no_continuation_of_the_control_slice() -> None:
    source = MemorySource.of(random_probs(500, 3))
    selection = select(source, strategy="random", budget=10, control_share=0.5)
    control, picked = chosen(selection, "control"), chosen(selection, "strategy")
    after_control = source.ids.index(control[-1]) + 1
    assert picked[0] != source.ids[after_control % len(source.ids)]


def test_a_near_duplicate_is_replaced_by_the_next_best_and_named_with_whom_it_resembles() -> None:
    probs = np.array([[0.5, 0.5], [0.51, 0.49], [0.6, 0.4], [0.9, 0.1]], np.float32)
    hashes = ["00" * 16, "00" * 15 + "0f", "ff" * 16, "0f" * 16]
    selection = select(MemorySource.of(probs, hashes=hashes), budget=2, control_share=0)
    ids = image_ids(4)
    assert chosen(selection) == [ids[0], ids[2]]
    assert [(one.image_id, one.resembles) for one in selection.near_duplicates] == [(ids[1], ids[0])]


def test_one_bit_more_than_the_distance_is_another_picture() -> None:
    probs = np.array([[0.5, 0.5], [0.51, 0.49]], np.float32)
    source = MemorySource.of(probs, hashes=["00" * 16, "00" * 15 + "1f"])
    assert select(source, budget=2, control_share=0).size == 2
    assert select(source, budget=2, control_share=0, near_duplicate_distance=5).size == 1


def test_the_check_for_near_duplicates_can_be_switched_off() -> None:
    source = MemorySource.of(random_probs(5, 3), hashes=["00" * 16] * 5)
    assert select(source, near_duplicate_distance=-1).size == 5
    assert select(source, near_duplicate_distance=0).size == 1


def test_a_log_full_of_near_duplicates_is_searched_until_the_budget_is_met() -> None:
    hashes = ["00" * 16] * 900 + random_hashes(100)
    probs = np.sort(random_probs(1000, 2), axis=0)
    source = MemorySource.of(probs / probs.sum(axis=1, keepdims=True), hashes=hashes)
    selection = select(source, budget=30, control_share=0)
    assert selection.size == 30
    assert len(source.calls) < 10, "in growing steps, not one by one"


def test_only_candidates_that_can_win_are_fetched() -> None:
    source = MemorySource.of(random_probs(5000, 3), hashes=random_hashes(5000))
    select(source, budget=50)
    assert sum(limit for _, limit in source.calls) < 120


def test_fewer_eligible_images_than_the_budget_are_all_taken_and_it_is_said() -> None:
    selection = select(MemorySource.of(random_probs(6, 3)), budget=10, control_share=0.5)
    assert (selection.size, selection.control) == (6, 3)
    assert selection.shortfall == "6 of 10 images chosen: 6 images were eligible"
    assert selection.facts["shortfall"] == selection.shortfall


def test_no_eligible_image_gives_an_empty_batch() -> None:
    selection = select(MemorySource.of(random_probs(0, 3)))
    assert (selection.size, selection.eligible) == (0, 0)
    assert selection.table.schema == SELECTIONS


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"budget": -1}, "budget -1 is negative"), ({"control_share": 1.5}, r"control share 1\.5; expected")],
)
def test_a_request_out_of_range_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        select(MemorySource.of(random_probs(6, 3)), **changes)


def test_a_strategy_that_needs_arrays_chooses_from_the_prefiltered_pool() -> None:
    probs = random_probs(300, 3)
    embeddings = np.random.default_rng(1).normal(size=(300, 5)).astype(np.float32)
    source = MemorySource.of(probs, embeddings=embeddings)
    selection = select(source, strategy=FarthestFromOrigin(), budget=10, pool_limit=40, control_share=0)
    pool = source._log.sort("margin", "image_id").head(40)
    by_length = sorted(pool.rows(named=True), key=lambda row: -np.linalg.norm(row["embedding"]))
    assert chosen(selection) == [row["image_id"] for row in by_length[:10]]
    assert selection.facts["pool"] == 40
    assert set(selection.table.column("cluster").to_pylist()) == {0, 1}


LABELED = Labeled(
    np.array(image_ids(6, salt=5)),
    np.random.default_rng(3).normal(size=(6, 5)).astype(np.float32),
    np.array([0, 1, 2, 0, 1, 2]),
)


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_every_strategy_works_on_the_store_and_leaves_provenance(name: str) -> None:
    rng = np.random.default_rng(1)
    source = MemorySource.of(
        random_probs(300, 3),
        hashes=with_duplicates(300, 250, 1),
        embeddings=rng.normal(size=(300, 5)).astype(np.float32),
    )

    def committee(ids: list[str]) -> np.ndarray:
        return np.stack([random_probs(len(ids), 3, seed) for seed in range(4)], axis=1)

    request: dict = {
        "strategy": name,
        "budget": 20,
        "pool_limit": 100,
        "context": LabeledContext(LABELED, committee),
    }
    selection, again = select(source, **request), select(source, **request)
    assert selection.size == 20
    assert chosen(selection) == chosen(again)
    strategies = {row["strategy"] for row in selection.table.to_pylist() if row["reason"] == "strategy"}
    assert strategies == {"auto:uherding" if name == "auto" else name}


def test_a_strategy_that_looks_at_labels_says_so_when_there_are_none() -> None:
    source = MemorySource.of(random_probs(20, 3), embeddings=np.ones((20, 5), np.float32))
    with pytest.raises(ValueError, match="strategy k_center_greedy needs labels"):
        select(source, strategy="k_center_greedy")


def test_the_pool_may_lie_on_another_device() -> None:
    """Named so that a machine without a GPU takes the way of tensors, too."""
    source = MemorySource.of(
        random_probs(50, 3), embeddings=np.random.default_rng(0).normal(size=(50, 5)).astype(np.float32)
    )
    request: dict = {"strategy": "k_center_greedy", "context": LabeledContext(LABELED)}
    assert chosen(select(source, **request)) == chosen(select(source, device="cpu:0", **request))


def test_images_without_the_arrays_a_strategy_needs_are_left_out_by_name() -> None:
    source = MemorySource.of(random_probs(10, 3))
    with_arrays = MemorySource.of(random_probs(5, 3), embeddings=np.ones((5, 2), np.float32), salt=1)
    source._log = source._log.vstack(with_arrays._log)
    selection = select(source, strategy=FarthestFromOrigin(), control_share=0)
    assert set(chosen(selection)) == set(with_arrays.ids)
    assert set(selection.unusable.values()) == {"no embedding logged"}
    assert selection.facts["unusable images"] == 10


def test_a_log_without_embeddings_names_the_way_out() -> None:
    with pytest.raises(ValueError, match=r"switch serving\.log_embeddings on"):
        select(MemorySource.of(random_probs(10, 3)), strategy=FarthestFromOrigin())


def test_embeddings_of_two_lengths_in_one_pool_are_refused() -> None:
    one = MemorySource.of(random_probs(5, 3), embeddings=np.ones((5, 2), np.float32))
    two = MemorySource.of(random_probs(5, 3), embeddings=np.ones((5, 3), np.float32), salt=1)
    one._log = one._log.vstack(two._log)
    with pytest.raises(ValueError, match=r"embedding of \[2, 3\] values in one pool"):
        select(one, strategy=FarthestFromOrigin())


def seed_batch(count: int, *, budget: int, seed: int = 0, hashes: dict[str, str] | None = None) -> Selection:
    images = {image_id: f"images/{image_id}.png" for image_id in image_ids(count)}
    return select_seed_batch(
        images,
        hash_of=(hashes or {}).get,
        budget=budget,
        near_duplicate_distance=4,
        seed=seed,
        round_=1,
    )


def test_the_seed_batch_is_a_random_draw_with_known_propensity() -> None:
    selection = seed_batch(100, budget=20)
    rows = selection.table.to_pylist()
    assert len({row["image_id"] for row in rows}) == 20
    assert {(row["reason"], row["strategy"], row["propensity"]) for row in rows} == {("seed", "random", 0.2)}
    assert {(row["model_version"], row["prediction_id"], row["score"]) for row in rows} == {(None, None, None)}
    assert [row["rank"] for row in rows] == list(range(20))


def test_the_seed_batch_depends_on_the_seed_alone() -> None:
    images = {image_id: image_id for image_id in image_ids(50)}
    backwards = dict(reversed(images.items()))
    request: dict = {"hash_of": {}.get, "budget": 10, "near_duplicate_distance": 4, "round_": 1}
    forth, back = (select_seed_batch(order, seed=3, **request) for order in (images, backwards))
    assert chosen(forth) == chosen(back)
    assert chosen(forth) != chosen(select_seed_batch(images, seed=4, **request))


def test_every_image_has_the_same_chance_in_the_seed_batch() -> None:
    drawn = dict.fromkeys(image_ids(20), 0)
    for seed in range(500):
        for image_id in chosen(seed_batch(20, budget=4, seed=seed)):
            drawn[image_id] += 1
    assert sum((count - 100) ** 2 / 100 for count in drawn.values()) < 43.8  # 19 degrees of freedom, p = 0.001


def test_the_seed_batch_holds_no_near_duplicates() -> None:
    hashes = dict.fromkeys(image_ids(10), "00" * 16) | dict.fromkeys(image_ids(10)[:1], "ff" * 16)
    selection = seed_batch(10, budget=5, hashes=hashes)
    assert selection.size == 2
    assert len(selection.near_duplicates) == 8
    assert "near-duplicates" in str(selection.shortfall)


def test_unreadable_images_are_left_out_of_the_seed_batch_with_the_reason() -> None:
    ids = image_ids(4)

    def hash_of(image_id: str) -> str | None:
        if image_id == ids[0]:
            raise BadImage("scan.png", "the file is empty")
        return None

    selection = select_seed_batch(
        {image_id: image_id for image_id in ids},
        hash_of=hash_of,
        budget=4,
        near_duplicate_distance=4,
        seed=0,
        round_=1,
    )
    assert set(chosen(selection)) == set(ids[1:])
    assert selection.unusable == {ids[0]: "the file is empty"}


def test_an_image_folder_smaller_than_the_budget_is_taken_whole() -> None:
    selection = seed_batch(3, budget=10)
    assert (selection.size, selection.table.column("propensity").to_pylist()) == (3, [1.0] * 3)
    assert seed_batch(0, budget=10).size == 0


def clouds(ids: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Images in five clouds of very different size, the last one tiny."""
    sizes = (60, 25, 20, 10, 8)
    cloud = np.repeat(np.arange(len(sizes)), sizes)
    place = {image_id: number for number, image_id in enumerate(image_ids(sum(sizes)))}
    rows = np.random.default_rng(0).normal(size=(sum(sizes), 8)) + 20 * np.eye(5, 8)[cloud]
    return list(ids), rows[[place[image_id] for image_id in ids]].astype(np.float32)


def covering(budget: int, **changes: Any) -> Selection:
    request: dict[str, Any] = {
        "hash_of": {}.get, "near_duplicate_distance": 4, "seed": 0, "round_": 0, "embed": clouds, "look_at": 123,
    }  # fmt: skip
    return select_seed_batch({one: one for one in image_ids(123)}, budget=budget, **(request | changes))


def cloud_of(image_id: str) -> int:
    return int(clouds([image_id])[1][0].argmax())


def test_with_an_encoder_the_first_images_that_teach_cover_what_there_is() -> None:
    rows = covering(5).table.to_pylist()
    assert {cloud_of(row["image_id"]) for row in rows} == {0, 1, 2, 3, 4}
    facts = {(row["reason"], row["strategy"], row["propensity"]) for row in rows}
    assert facts == {("seed", "typiclust", None)}, "no draw, so no propensity"
    assert all(row["score"] > 0 for row in rows)


def test_what_judges_in_the_seed_round_stays_a_random_draw() -> None:
    plain, covered = (
        covering(20, reserve=RESERVE, judging_share=0.25, **more) for more in ({"embed": None}, {"look_at": 60})
    )
    judges = RESERVE.among(chosen(plain))
    assert len(judges) == 5
    assert RESERVE.among(chosen(covered)) == judges
    taught = [row for row in covered.table.to_pylist() if row["image_id"] not in judges]
    assert {row["strategy"] for row in taught} == {"typiclust"}


def test_beyond_what_coverage_is_good_for_the_first_images_are_drawn(monkeypatch) -> None:
    monkeypatch.setattr(selection_module, "COVERED", 5)
    rows = covering(20).table.to_pylist()
    assert [row["strategy"] for row in rows] == ["typiclust"] * 5 + ["random"] * 15
    assert {row["propensity"] for row in rows[5:]} == {15 / 118}


def test_covering_images_that_resemble_each_other_are_replaced() -> None:
    same = dict.fromkeys(covering(5).table.column("image_id").to_pylist(), "00" * 16)
    again = covering(5, hash_of=same.get)
    assert again.size == 5
    assert len(set(chosen(again)) & set(same)) == 1


def test_images_that_cannot_be_embedded_are_named_and_a_small_folder_is_drawn_from_at_random() -> None:
    half = covering(10, embed=lambda ids: clouds([one for one in ids if one in image_ids(123)[:60]]))
    assert set(half.unusable.values()) == {"it cannot be read"}
    assert len(half.unusable) == 63
    everything = covering(123)
    assert {row["strategy"] for row in everything.table.to_pylist()} == {"random"}


# ---------------------------------------------------------------- the reserve
RESERVE = Reserve(0.3)


def split_sources(count: int) -> tuple[MemorySource, MemorySource]:
    """What teaches and what may judge, as two sources of the same log."""
    probs = random_probs(count, 3)
    reserved = set(RESERVE.among(image_ids(count)))
    rest = set(image_ids(count)) - reserved
    return MemorySource.of(probs, taken=reserved), MemorySource.of(probs, taken=rest)


def test_the_control_slice_is_drawn_from_the_reserve_and_the_strategy_never_sees_it() -> None:
    teaching, judging = split_sources(100)
    selection = select(teaching, judges=judging, budget=20, control_share=0.25)
    assert len(chosen(selection, "control")) == 5
    assert all(RESERVE.holds(one) for one in chosen(selection, "control"))
    assert not any(RESERVE.holds(one) for one in chosen(selection, "strategy"))
    propensity = {row["propensity"] for row in selection.table.to_pylist() if row["reason"] == "control"}
    assert propensity == {5 / len(judging.ids)}


def test_where_the_reserve_is_used_up_the_strategy_fills_the_batch_and_the_batch_says_so() -> None:
    teaching, _ = split_sources(100)
    nobody = MemorySource.of(random_probs(5, 3), taken=image_ids(5))
    selection = select(teaching, judges=nobody, budget=20, control_share=0.25)
    assert (len(chosen(selection, "control")), len(chosen(selection, "strategy"))) == (0, 20)
    assert str(selection.facts["reserve"]).startswith("5 images fewer than wanted to judge by")


def seed_with_judges(count: int, budget: int, seed: int = 0) -> Selection:
    return select_seed_batch(
        {image_id: image_id for image_id in image_ids(count)},
        hash_of={}.get,
        budget=budget,
        near_duplicate_distance=4,
        seed=seed,
        round_=0,
        reserve=RESERVE,
        judging_share=0.25,
    )


def test_a_share_of_the_seed_round_is_drawn_uniformly_from_the_reserve_and_the_rest_from_the_others() -> None:
    judges = dict.fromkeys(RESERVE.among(image_ids(120), "measure"), 0)
    for seed in range(400):
        batch = chosen(seed_with_judges(120, budget=20, seed=seed))
        drawn = RESERVE.among(batch)
        assert (len(batch), len(drawn)) == (20, 5)
        assert drawn == RESERVE.among(batch, "measure")
        for image_id in drawn:
            judges[image_id] += 1
    expected = 400 * 5 / len(judges)
    assert sum((count - expected) ** 2 / expected for count in judges.values()) < 2.5 * len(judges)


def test_where_either_part_of_a_small_folder_is_used_up_the_others_fill_the_seed_round_duels_last() -> None:
    images, for_duels = {*image_ids(60)}, {*RESERVE.among(image_ids(60), "duel")}
    most = seed_with_judges(60, budget=60 - len(for_duels))
    assert {*chosen(most)} == images - for_duels
    assert most.control == len(RESERVE.among(image_ids(60), "measure"))
    everything = seed_with_judges(60, budget=70)
    assert {*chosen(everything)} == images
    assert everything.control == len(RESERVE.among(image_ids(60)))
    assert len(for_duels & {*chosen(seed_with_judges(60, budget=59))}) == len(for_duels) - 1


@pytest.mark.parametrize("strategy", ["margin", "kmeans"])
def test_no_strategy_is_offered_what_resembles_a_judge_and_the_control_slice_is(strategy: str) -> None:
    rng = np.random.default_rng(2)
    hashes = [rng.integers(0, 256, 16, np.uint8).tobytes().hex() for _ in range(30)]
    probs, embeddings = rng.dirichlet(np.ones(3), 30), rng.normal(size=(30, 4))
    source = MemorySource.of(probs, hashes=hashes, embeddings=embeddings)
    judged = {"a judge": hashes[0], "another": hashes[1]}
    resembling = set(image_ids(30)[:2])
    batch = select(source, judged=judged, strategy=strategy, budget=30, control_share=0)
    assert set(chosen(batch)) == set(image_ids(30)) - resembling
    assert {one.image_id for one in batch.near_duplicates} == resembling
    assert set(chosen(select(source, judged=judged, budget=30, control_share=1), "control")) == set(image_ids(30))


def test_each_row_of_a_batch_says_which_version_it_was_scored_by() -> None:
    rng = np.random.default_rng(3)
    asked = MemorySource.of(rng.dirichlet(np.ones(3), 30))
    judges = MemorySource.of(rng.dirichlet(np.ones(3), 30), salt=1)
    rows = select(asked, judges=judges, judges_version=2, model_version=3).table.to_pylist()
    assert {(row["reason"], row["model_version"]) for row in rows} == {("strategy", 3), ("control", 2)}
