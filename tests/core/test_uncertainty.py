"""The uncertainty scores and the laws they obey."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from al_core import uncertainty
from al_core.uncertainty import entropy, least_confidence, margin, uncertainty_scores


@st.composite
def distributions(draw: st.DrawFn) -> np.ndarray:
    """Rows that sum to 1, zeros and one-hot rows among them, in either float type."""
    shape = draw(st.tuples(st.integers(1, 8), st.integers(1, 6)))
    weights = draw(hnp.arrays(np.float64, shape, elements=st.floats(0, 1).map(lambda x: x if x > 1e-3 else 0)))
    weights[weights.sum(axis=1) == 0, 0] = 1
    probs = weights / weights.sum(axis=1, keepdims=True)
    return probs.astype(draw(st.sampled_from([np.float32, np.float64])))


def naive(row: np.ndarray) -> tuple[float, float, float]:
    ordered = sorted(row.tolist(), reverse=True)
    return (
        ordered[0],
        ordered[0] - ordered[1] if len(ordered) > 1 else 1.0,
        -sum(p * np.log(p) for p in ordered if p > 0),
    )


@pytest.fixture(params=["numpy", "compiled"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Small arrays are left to numpy unless the test lowers the size from which kernels are compiled."""
    if request.param == "compiled":
        monkeypatch.setattr(uncertainty, "COMPILED_FROM", 0)
    return request.param


@given(distributions())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_scores_are_those_of_the_definition(engine: str, probs: np.ndarray) -> None:
    scores = uncertainty_scores(probs)
    expected = np.array([naive(row) for row in probs])
    np.testing.assert_allclose(scores.confidence, expected[:, 0], rtol=1e-6)
    np.testing.assert_allclose(scores.margin, expected[:, 1], atol=1e-6)
    np.testing.assert_allclose(scores.entropy, expected[:, 2], atol=1e-5)


@given(distributions())
def test_single_scores_agree_with_all_at_once(probs: np.ndarray) -> None:
    scores = uncertainty_scores(probs)
    np.testing.assert_array_equal(least_confidence(probs), 1 - scores.confidence)
    np.testing.assert_array_equal(margin(probs), scores.margin)
    np.testing.assert_array_equal(entropy(probs), scores.entropy)


@given(distributions(), st.randoms(use_true_random=False))
def test_the_order_of_the_classes_does_not_matter(probs: np.ndarray, random: object) -> None:
    shuffled = list(range(probs.shape[1]))
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    before, after = uncertainty_scores(probs), uncertainty_scores(probs[:, shuffled])
    np.testing.assert_array_equal(before.confidence, after.confidence)
    np.testing.assert_array_equal(before.margin, after.margin)
    np.testing.assert_allclose(before.entropy, after.entropy, atol=1e-6)


@given(distributions())
def test_scores_stay_within_their_bounds(probs: np.ndarray) -> None:
    scores, classes, slack = uncertainty_scores(probs), probs.shape[1], 1e-5
    assert (scores.confidence >= 1 / classes - slack).all()
    assert (scores.confidence <= 1 + slack).all()
    assert (scores.margin >= 0).all()
    assert (scores.margin <= scores.confidence + slack).all() or classes == 1
    assert (scores.entropy >= 0).all()
    assert (scores.entropy <= np.log(classes) + slack).all()


@given(distributions(), st.floats(0, 1))
def test_mixing_with_the_uniform_distribution_never_makes_a_prediction_more_certain(
    probs: np.ndarray, share: float
) -> None:
    probs = probs.astype(np.float64)
    before, after = (
        uncertainty_scores(probs),
        uncertainty_scores((1 - share) * probs + share / probs.shape[1]),
    )
    assert (after.confidence <= before.confidence + 1e-6).all()
    assert (after.entropy >= before.entropy - 1e-6).all()
    assert (after.margin <= before.margin + 1e-6).all()


@given(distributions())
def test_the_three_scores_agree_on_what_is_certain(probs: np.ndarray) -> None:
    scores = uncertainty_scores(probs)
    certain = scores.confidence == 1
    assert (scores.margin[certain] == 1).all()
    assert (scores.entropy[certain] == 0).all()


@given(distributions())
def test_the_input_is_left_as_it_was_and_the_type_is_kept(probs: np.ndarray) -> None:
    before = probs.copy()
    probs.setflags(write=False)
    scores = uncertainty_scores(probs)
    np.testing.assert_array_equal(probs, before)
    assert {scores.confidence.dtype, scores.margin.dtype, scores.entropy.dtype} == {probs.dtype}


@given(distributions())
@settings(max_examples=50, deadline=None)
def test_the_compiled_kernels_and_numpy_agree(probs: np.ndarray) -> None:
    plain = uncertainty_scores(probs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(uncertainty, "COMPILED_FROM", 0)
        single = least_confidence(probs)
        patch.setattr(uncertainty, "_FEW_CLASSES", 0)
        np.testing.assert_array_equal(least_confidence(probs), single)
        compiled = uncertainty_scores(probs)
        columns_first = uncertainty_scores(np.asfortranarray(probs))
    np.testing.assert_array_equal(1 - compiled.confidence, single)
    np.testing.assert_array_equal(compiled.confidence, plain.confidence)
    np.testing.assert_array_equal(compiled.margin, plain.margin)
    np.testing.assert_allclose(compiled.entropy, plain.entropy, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(columns_first.entropy, compiled.entropy)


def test_small_arrays_do_not_load_the_compiler() -> None:
    code = "import sys, numpy; from al_core.uncertainty import *; uncertainty_scores(numpy.eye(3)); "
    subprocess.run([sys.executable, "-c", code + "sys.exit('numba' in sys.modules)"], check=True)


def test_zero_probabilities_contribute_nothing_to_the_entropy() -> None:
    assert entropy(np.array([[1.0, 0.0], [0.5, 0.5]])).tolist() == [0.0, pytest.approx(np.log(2))]


def test_a_single_class_is_certain() -> None:
    scores = uncertainty_scores(np.ones((3, 1), np.float32))
    assert scores.margin.tolist() == [1, 1, 1]
    assert scores.entropy.tolist() == [0, 0, 0]


@pytest.mark.parametrize("classes", [0, 1, 5])
def test_an_empty_pool_has_no_scores(classes: int) -> None:
    assert uncertainty_scores(np.empty((0, classes), np.float32)).entropy.shape == (0,)


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ([0.5, 0.6], "sum to 1.1"),
        ([0.2, 0.2], "sum to 0.4"),
        ([np.nan, 1.0], "nan for class 0"),
        ([1.0, np.inf], "inf for class 1"),
        ([np.inf, -np.inf], "inf for class 0"),
        ([1.1, -0.1], "-0.1 for class 1"),
        ([0.0, 0.0], "sum to 0"),
        ([1.1, -0.1] + [0.0] * 30, "-0.1 for class 1"),
        ([0.5, np.nan] + [0.0] * 30, "nan for class 1"),
    ],
)
@pytest.mark.parametrize("score", [uncertainty_scores, least_confidence, margin, entropy])
def test_a_row_that_is_no_distribution_is_refused_by_its_number(engine, score, row, found) -> None:
    probs = np.zeros((4, len(row)))
    probs[:2, 0] = 1
    probs[:2, 1] = -0.0  # not negative, whatever its sign says
    probs[2:] = row
    with pytest.raises(ValueError, match=rf"row 2 holds .*{found}.*expected finite, non-negative"):
        score(probs)


def test_a_bad_row_behind_many_good_ones_is_named_by_its_place_in_the_whole() -> None:
    probs = np.full((1_000_000, 4), 0.25, np.float32)
    probs[777_777] = 1
    with pytest.raises(ValueError, match="row 777777 "):
        margin(probs)


def test_a_row_without_classes_is_refused() -> None:
    with pytest.raises(ValueError, match="row 0 holds probabilities that sum to 0"):
        uncertainty_scores(np.empty((2, 0)))


@pytest.mark.parametrize("probs", [np.ones(3), np.ones((1, 1, 1)), np.array([["a"]])])
def test_what_is_no_matrix_of_numbers_is_refused(probs: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"expected numbers of shape \(N, C\)"):
        uncertainty_scores(probs)


def test_one_hot_integers_are_taken_as_probabilities() -> None:
    assert uncertainty_scores([[0, 1], [1, 0]]).margin.tolist() == [1, 1]  # type: ignore[arg-type]


def test_the_working_memory_does_not_grow_with_the_number_of_classes() -> None:
    probs = np.full((20_000, 1000), 1e-3, np.float32)
    tracemalloc.start()
    uncertainty_scores(probs)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 4 * uncertainty.CHUNK_VALUES < probs.nbytes
