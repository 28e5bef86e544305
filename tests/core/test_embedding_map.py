"""The map of embeddings: what lies close, coloured by what is known of it, in a page that runs nothing."""

from __future__ import annotations

import re
import sys
from types import ModuleType

import numpy as np
import pytest

from al_core import embedding_map
from al_core.embedding_map import NOT_ASKED, NOT_LABELED, NOT_SCORED, MapPoints, drawn, page, projected


def two_groups(count: int = 60, width: int = 8) -> np.ndarray:
    """The first half lies far from the second."""
    rows = np.random.default_rng(0).normal(size=(count, width))
    rows[: count // 2, 3] += 50
    return rows.astype(np.float32)


def points(count: int = 60) -> MapPoints:
    return MapPoints(
        image_ids=[f"{n:032x}" for n in range(count)],
        embeddings=two_groups(count),
        labels=[None if n % 3 == 0 else "<cat>" if n % 3 == 1 else "dog" for n in range(count)],
        doubts=np.where(np.arange(count) % 2, np.linspace(0, 1, count), np.nan),
        reasons=["strategy" if n < 10 else None for n in range(count)],
    )


def test_what_is_alike_lies_close_and_within_the_drawing() -> None:
    places, how = projected(two_groups())
    assert places.min() >= 0
    assert places.max() <= 1
    near, far = np.ptp(places[:30, 0]), abs(places[:30, 0].mean() - places[30:, 0].mean())
    assert far > 3 * near
    assert "principal components, which hold 9" in how


def test_the_places_are_those_of_scikit_learns_principal_components() -> None:
    from sklearn.decomposition import PCA

    rows = two_groups(200, 40)
    expected = PCA(2, svd_solver="full").fit_transform(rows)
    places, held = embedding_map._principal_components(rows, 2)
    for own, theirs in zip(places.T, expected.T, strict=True):  # a direction may point either way
        assert np.allclose(own, theirs, atol=1e-3) or np.allclose(own, -theirs, atol=1e-3)
    assert held == pytest.approx(expected.var(0).sum() / rows.var(0).sum(), rel=1e-4)


@pytest.mark.parametrize("rows", [np.zeros((3, 4)), np.ones((1, 5)), np.arange(4.0).reshape(4, 1)])
def test_images_without_any_difference_are_drawn_all_the_same(rows: np.ndarray) -> None:
    places, _ = projected(rows)
    assert places.shape == (len(rows), 2)
    assert np.isfinite(places).all()


def test_umap_places_them_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Recorded:
        def __init__(self, **settings: int) -> None:
            assert settings["n_components"] == 2

        def fit_transform(self, rows: np.ndarray) -> np.ndarray:
            assert rows.shape == (60, 8), "the principal components"
            return np.stack([np.arange(60), np.zeros(60)], axis=1)

    monkeypatch.setitem(sys.modules, "umap", ModuleType("umap"))
    monkeypatch.setattr(sys.modules["umap"], "UMAP", Recorded, raising=False)
    monkeypatch.setattr(embedding_map, "find_spec", lambda name: name == "umap")
    places, how = projected(two_groups())
    assert how == "UMAP"
    assert (np.diff(places[:, 0]) >= 0).all()


def test_every_point_has_a_colour_for_its_label_its_doubt_and_its_reason() -> None:
    piece = drawn(points(), "map", "sixty images")
    classes = [set(found.split()) for found in re.findall(r'class="([ldr0-9 ]+)"', piece)]
    assert len(classes) == 60
    rules = set(re.findall(r"\.([ldr]\d+)\{fill:#[0-9a-f]{6}\}", piece))
    assert all(len(each) == 3 and each <= rules for each in classes)
    assert "&lt;cat&gt; (20)</span>" in piece
    assert f"{NOT_LABELED} (20)" in piece
    assert f"{NOT_ASKED} (50)" in piece
    assert f"{NOT_SCORED} (30)" in piece


def test_what_was_asked_for_lies_on_top() -> None:
    radii = re.findall(r'r="(\d)"', drawn(points(), "map", "sixty images"))
    assert radii == ["4"] * 50 + ["6"] * 10


def test_many_labels_share_a_colour_beyond_the_most_common() -> None:
    many = points()
    many = MapPoints(many.image_ids, many.embeddings, [f"class {n // 2}" for n in range(60)], many.doubts, many.reasons)
    assert "others (36)" in drawn(many, "map", "sixty images")


def test_the_page_runs_nothing_asks_for_nothing_and_takes_no_markup_from_names() -> None:
    whole = page("a <b> map", drawn(points(), "one", "first"), drawn(points(), "two", "second"))
    assert "<script" not in whole
    assert "<cat>" not in whole
    assert "a <b> map" not in whole
    assert not re.search(r"https?://|@import|url\(|src=", whole)
    assert len(set(re.findall(r'id="([^"]+)"', whole))) == 6, "the buttons of two maps on a page are told apart"
