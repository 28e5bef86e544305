"""Distances to labeled images, kept between rounds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pools import random_pool

from al_core.strategies._spread import Embedded
from al_core.strategies.base import Pool
from al_core.strategies.distance_cache import DistanceCache
from al_core.strategies.k_center_greedy import KCenterGreedy


class Counting(Embedded):
    """Counts the distances that are computed."""

    computed = 0

    def to_nearest(self, others: np.ndarray) -> np.ndarray:
        Counting.computed += len(self.rows) * len(others)
        return super().to_nearest(others)


@pytest.fixture
def rounds(monkeypatch: pytest.MonkeyPatch) -> list[Pool]:
    """Four rounds: every round 10 images become labeled and 20 new ones arrive."""
    monkeypatch.setattr("al_core.strategies.distance_cache.Embedded", Counting)
    monkeypatch.setattr(Counting, "computed", 0)
    everything = random_pool(200, labeled=0)
    pools = []
    for number in range(4):
        labeled, present = np.arange(10 * (number + 1)), np.arange(10 * (number + 1), 100 + 20 * number)
        pool = everything.take(present)
        pools.append(
            replace(
                pool,
                labeled_ids=everything.image_ids[labeled],
                labeled_embeddings=everything.embeddings[labeled],
                labeled_targets=np.zeros(len(labeled), np.int64),
            )
        )
    return pools


def test_cached_distances_choose_the_same_images(rounds: list[Pool], tmp_path: Path) -> None:
    for pool in rounds:
        cache = DistanceCache("encoder-1", tmp_path / "distances.npz")  # every round is another process
        cached, plain = KCenterGreedy(cache).query(pool, 10, 0), KCenterGreedy().query(pool, 10, 0)
        np.testing.assert_array_equal(cached.indices, plain.indices)
        np.testing.assert_allclose(cached.scores, plain.scores, rtol=1e-5)


def test_only_new_images_and_new_labels_are_compared(rounds: list[Pool]) -> None:
    cache = DistanceCache("encoder-1")
    costs = []
    for pool in rounds:
        Counting.computed = 0
        cache.to_nearest(pool, Embedded(pool.embeddings))
        costs.append(Counting.computed)
    assert costs == [90 * 10, 80 * 10 + 20 * 20, 90 * 10 + 20 * 30, 100 * 10 + 20 * 40]


def test_another_encoder_starts_afresh(rounds: list[Pool], tmp_path: Path) -> None:
    file = tmp_path / "distances.npz"
    DistanceCache("encoder-1", file).to_nearest(rounds[0], Embedded(rounds[0].embeddings))
    moved = replace(rounds[0], embeddings=rounds[0].embeddings + 5)
    nearest = DistanceCache("encoder-2", file).to_nearest(moved, Embedded(moved.embeddings))
    np.testing.assert_allclose(nearest, Embedded(moved.embeddings).to_nearest(moved.labeled_embeddings))


def test_a_withdrawn_label_is_forgotten(rounds: list[Pool]) -> None:
    cache = DistanceCache("encoder-1")
    cache.to_nearest(rounds[1], Embedded(rounds[1].embeddings))
    fewer = replace(
        rounds[1],
        labeled_ids=rounds[1].labeled_ids[3:],
        labeled_embeddings=rounds[1].labeled_embeddings[3:],
        labeled_targets=rounds[1].labeled_targets[3:],
    )
    nearest = cache.to_nearest(fewer, Embedded(fewer.embeddings))
    np.testing.assert_allclose(nearest, Embedded(fewer.embeddings).to_nearest(fewer.labeled_embeddings))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 half", b"no archive"])
def test_a_broken_file_is_computed_again(rounds: list[Pool], tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "distances.npz"
    file.write_bytes(content)
    nearest = DistanceCache("encoder-1", file).to_nearest(rounds[0], Embedded(rounds[0].embeddings))
    assert np.isfinite(nearest).all()
    assert len(np.load(file)["image_ids"]) == len(rounds[0])


def test_a_cache_without_ids_is_refused(rounds: list[Pool]) -> None:
    anonymous = replace(rounds[0], labeled_ids=None)
    with pytest.raises(ValueError, match="needs the ids of the labeled images"):
        KCenterGreedy(DistanceCache("encoder-1")).query(anonymous, 3, 0)
