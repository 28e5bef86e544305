"""Suspicious labels, agreement and consensus: against planted errors, simulated people and worked examples."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.metrics import average_precision_score

from al_core.errors import InvalidInput
from al_core.judging.label_quality import (
    PATIENCE,
    UNKNOWN,
    ReviewQueue,
    agreement_by_class,
    agreement_by_pair,
    answer_table,
    crowdlab,
    dawid_skene,
    krippendorff_alpha,
    majority,
    out_of_sample_probs,
    suspicion,
)

ERRORS = 0.09  # as many as people made in CIFAR-10N's aggregate labels


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    """Handwritten digits as rows of brightness, and what they are."""
    found = load_digits()
    return (found.data / 16).astype(np.float32), found.target.astype(np.int64)


@pytest.fixture(scope="module")
def planted(digits: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(given labels, which are wrong, probabilities): one in eleven is taken for what it looks most like."""
    rows, truth = digits
    honest = out_of_sample_probs(rows, truth, 10)
    honest[np.arange(len(truth)), truth] = 0
    generator = np.random.default_rng(0)
    wrong = generator.random(len(truth)) < ERRORS
    likeliest_mistake = honest.argmax(1)
    at_random = (truth + generator.integers(1, 10, len(truth))) % 10
    mistake = np.where(generator.random(len(truth)) < 0.5, likeliest_mistake, at_random)
    given_labels = np.where(wrong, mistake, truth)
    return given_labels, wrong, out_of_sample_probs(rows, given_labels, 10)


# ---------------------------------------------------------------- suspicious labels
def test_planted_errors_come_first(planted: tuple[np.ndarray, np.ndarray, np.ndarray]):
    given_labels, wrong, probs = planted
    score = suspicion(probs, given_labels)
    precision = average_precision_score(wrong, score)
    print(f"average precision {precision:.3f}")
    assert precision >= 0.88


def test_a_review_in_that_order_stops_by_itself_where_it_pays_no_more(
    planted: tuple[np.ndarray, np.ndarray, np.ndarray],
):
    given_labels, wrong, probs = planted
    order = np.argsort(-suspicion(probs, given_labels), kind="stable")
    queue = ReviewQueue(floor=0.3)
    for place in order:
        if queue.is_over():
            break
        queue = queue.after([bool(wrong[place])])
    reviewed, found = len(queue.found), sum(queue.found)
    f1 = 2 * found / (reviewed + wrong.sum())
    print(f"{reviewed} reviews found {found} of {wrong.sum()} errors: F1 {f1:.3f}")
    assert f1 >= 0.75
    assert reviewed < 2 * wrong.sum()


def test_a_queue_without_errors_stops_after_as_many_reviews_as_it_takes_to_know():
    queue = ReviewQueue(floor=0.3)
    assert not queue.is_over()
    queue = queue.after([False] * (PATIENCE - 1))
    assert not queue.is_over()
    assert queue.after([False]).is_over()


def test_probabilities_are_of_images_that_the_head_has_not_seen(digits: tuple[np.ndarray, np.ndarray]):
    rows, truth = digits
    shuffled = np.random.default_rng(1).permutation(truth)  # labels that say nothing can only be learned by heart
    probs = out_of_sample_probs(rows, shuffled, 10)
    assert np.allclose(probs.sum(1), 1, atol=1e-5)
    assert (probs.argmax(1) == shuffled).mean() < 0.2


def test_a_class_of_one_image_and_labels_that_do_not_fit():
    rows = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    probs = out_of_sample_probs(rows, np.array([0, 0, 0, 1, 1, 1, 2]), 3)
    assert np.isfinite(probs).all()
    for bad in (np.array([0]), np.array([0, 0, 0, 0, 0, 0, 3]), np.array([0, 0, 0, 0, 0, 0, -1])):
        with pytest.raises(InvalidInput):
            suspicion(probs, bad)


def test_a_class_of_which_the_model_is_never_sure_is_not_suspicious_for_that():
    sure, unsure = [0.9, 0.05, 0.05], [0.3, 0.36, 0.34]
    probs = np.array([sure] * 10 + [unsure] * 10)
    given_labels = np.array([0] * 10 + [2] * 10)
    plain = probs.max(1) - probs[np.arange(20), given_labels]
    assert plain[15] > 0
    assert suspicion(probs, given_labels)[15] < 0


# ---------------------------------------------------------------- agreement
def test_alpha_of_krippendorffs_own_example():
    """Nominal data of "Computing Krippendorff's alpha-reliability" (2011), section C: alpha is 0.743."""
    x = UNKNOWN
    rows = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, x, x, x],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, x, 3],
        [x, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, x],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, x],
    ]
    assert krippendorff_alpha(np.array(rows).T, 6) == pytest.approx(0.743, abs=0.0005)


def test_alpha_is_one_where_all_agree_about_zero_by_chance_and_unknown_without_pairs():
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 3, 300)
    assert krippendorff_alpha(np.stack([truth, truth], axis=1), 3) == pytest.approx(1)
    assert abs(krippendorff_alpha(generator.integers(0, 3, (3000, 2)), 3)) < 0.05
    assert math.isnan(krippendorff_alpha(np.array([[0, UNKNOWN], [UNKNOWN, 1]]), 2))
    assert krippendorff_alpha(np.zeros((5, 2), int), 2) == 1


def test_agreement_is_told_by_class_and_by_pair_with_its_numbers():
    answers = np.array([[0, 0, UNKNOWN], [1, 2, UNKNOWN], [2, 1, UNKNOWN], [0, 0, 0]])
    by_class = agreement_by_class(answers, ["cat", "dog", "fox", "owl"])
    assert by_class["cat"] == pytest.approx(1)
    assert by_class["dog"] < 0.2
    assert math.isnan(by_class["owl"])
    assert agreement_by_pair(answers, ["ada", "bob", "cid"]) == {
        ("ada", "bob"): (2, 4),
        ("ada", "cid"): (1, 1),
        ("bob", "cid"): (1, 1),
    }


# ---------------------------------------------------------------- consensus
def people(truth: np.ndarray, classes: int, generator: np.random.Generator) -> np.ndarray:
    """Three kinds of people: careful ones, hasty ones, and some who mix up neighbouring classes; 1 to 3 an image."""
    kinds = [0.95] * 6 + [0.6] * 8 + [None] * 6
    answers = np.full((len(truth), len(kinds)), UNKNOWN)
    for place, right in enumerate(truth):
        for person in generator.choice(len(kinds), generator.integers(1, 4), replace=False):
            kind = kinds[person]
            if kind is None:
                answers[place, person] = (right + (generator.random() < 0.6)) % classes
            else:
                answers[place, person] = right if generator.random() < kind else generator.integers(0, classes)
    return answers


def test_people_and_classifier_together_are_better_than_majority_and_dawid_skene(
    digits: tuple[np.ndarray, np.ndarray],
):
    rows, truth = digits
    answers = people(truth, 10, np.random.default_rng(0))
    by_majority = majority(answers, 10)
    probs = out_of_sample_probs(rows, by_majority, 10)
    right = {
        "majority": (by_majority == truth).mean(),
        "Dawid-Skene": (dawid_skene(answers, 10).argmax(1) == truth).mean(),
        "CROWDLAB": (crowdlab(answers, probs).argmax(1) == truth).mean(),
    }
    print(", ".join(f"{name} {share:.3f}" for name, share in right.items()))
    assert right["CROWDLAB"] > max(right["majority"], right["Dawid-Skene"])


def test_dawid_skene_sees_through_an_annotator_who_always_swaps_two_classes():
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 2, 300)
    honest = np.where(generator.random((300, 2)) < 0.8, truth[:, None], 1 - truth[:, None])
    answers = np.column_stack([honest, 1 - truth])
    assert (dawid_skene(answers, 2).argmax(1) == truth).mean() > 0.99
    assert (majority(answers, 2) == truth).mean() < 0.8


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), images=st.integers(1, 12), annotators=st.integers(1, 4), classes=st.integers(2, 5))
def test_consensus_is_a_distribution_and_knows_no_order_of_people(
    seed: int, images: int, annotators: int, classes: int
):
    generator = np.random.default_rng(seed)
    answers = generator.integers(UNKNOWN, classes, (images, annotators))
    probs = generator.dirichlet(np.ones(classes), images)
    order = generator.permutation(annotators)
    for consensus in (lambda table: crowdlab(table, probs), lambda table: dawid_skene(table, classes)):
        found = consensus(answers)
        assert np.isfinite(found).all()
        assert np.allclose(found.sum(1), 1)
        assert np.allclose(found, consensus(answers[:, order]), atol=1e-6)
    alpha = krippendorff_alpha(answers, classes)
    assert math.isnan(alpha) or alpha == pytest.approx(krippendorff_alpha(answers[:, order], classes))


def test_votes_become_a_table():
    votes = [("b", "ada", "cat"), ("a", "bob", "dog"), ("a", "ada", "cat"), ("a", "cid", "unicorn")]
    images, annotators, table = answer_table(votes, ["cat", "dog"])
    assert (images, annotators) == (["a", "b"], ["ada", "bob"])
    assert table.tolist() == [[0, 1], [0, UNKNOWN]]
