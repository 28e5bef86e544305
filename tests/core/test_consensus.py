"""Which label counts where several people answered: their answers together, and a classifier that never rules alone."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest

from al_core.consensus import FEWEST_SHARED, Consensus, consensus_labels
from al_core.dataset import resolve_labels
from al_core.records import LABELS

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CLASSES = ("cat", "dog", "fox")
IMAGES = 240


def ledger(votes: list[tuple[str, str, str]]) -> pl.DataFrame:
    """Rows of (image, annotator, label)."""
    rows = [
        {"image_id": image, "annotator": annotator, "label": label, "labeled_at": NOW, "round": 0}
        for image, annotator, label in votes
    ]
    return pl.DataFrame(rows, schema=pl.DataFrame(LABELS.empty_table()).schema)


@pytest.fixture(scope="module")
def answered() -> tuple[dict[str, str], pl.DataFrame, dict[str, np.ndarray]]:
    """(truth, answers of two to three people of three kinds, embeddings that tell the classes apart)."""
    generator = np.random.default_rng(0)
    kinds = {"careful": 0.95, "hasty": 0.6, "asleep": 0.34}
    truth = {f"{number:032x}": CLASSES[number % 3] for number in range(IMAGES)}
    votes = []
    for image, label in truth.items():
        for person in generator.choice(list(kinds), generator.integers(2, 4), replace=False):
            right = generator.random() < kinds[person]
            votes.append((image, str(person), label if right else str(generator.choice(CLASSES))))
    spot = {name: 4 * np.eye(3, 8)[place] for place, name in enumerate(CLASSES)}
    embeddings = {image: (spot[label] + generator.normal(0, 1, 8)).astype(np.float32) for image, label in truth.items()}
    return truth, ledger(votes), embeddings


def right(found: pl.DataFrame, truth: dict[str, str]) -> float:
    assert found.columns == ["image_id", "label", "round"]
    assert set(found["image_id"]) == set(truth)
    return float(np.mean([truth[image] == label for image, label in found.select("image_id", "label").iter_rows()]))


def test_whom_one_can_rely_on_counts_more_and_a_classifier_helps(answered):
    truth, labels, embeddings = answered
    by_most = right(resolve_labels(labels, "majority"), truth)
    by_people = right(consensus_labels(labels, "dawid_skene"), truth)
    with_model = right(consensus_labels(labels, "crowdlab", embeddings=embeddings), truth)
    print(f"majority {by_most:.3f}, Dawid-Skene {by_people:.3f}, CROWDLAB {with_model:.3f}")
    assert by_most < by_people < with_model


def test_the_classifier_has_no_say_where_models_are_judged(answered):
    truth, labels, embeddings = answered
    people_alone = consensus_labels(labels, "dawid_skene")
    assert consensus_labels(labels, "crowdlab", embeddings=embeddings, judges=set(truth)).equals(people_alone)
    assert consensus_labels(labels, "crowdlab").equals(people_alone)  # nor where it knows nothing


@pytest.mark.parametrize("rule", ["dawid_skene", "crowdlab"])
def test_the_label_is_one_that_somebody_gave_and_one_persons_answer_stays(answered, rule: Consensus):
    truth, labels, embeddings = answered
    alone = {f"{number:032x}": "cat" for number in range(IMAGES, IMAGES + 30)}
    fox = {image: embeddings[next(one for one, label in truth.items() if label == "fox")] for image in alone}
    more = pl.concat([labels, ledger([(image, "careful", label) for image, label in alone.items()])])
    found = consensus_labels(more, rule, embeddings=embeddings | fox)
    told = dict(found.select("image_id", "label").iter_rows())
    assert {image: told[image] for image in alone} == alone
    said = set(more.select("image_id", "label").iter_rows())
    assert set(told.items()) <= said


def test_nobody_is_known_by_a_few_answers_then_the_majority_counts(answered):
    _, labels, embeddings = answered
    first = labels["image_id"].unique().sort()[: FEWEST_SHARED - 1].to_list()
    few = labels.filter(pl.col("image_id").is_in(first))
    assert consensus_labels(few, "crowdlab", embeddings=embeddings).equals(resolve_labels(few, "majority"))


@pytest.mark.parametrize("rule", ["dawid_skene", "crowdlab"])
def test_the_order_of_the_ledger_does_not_matter(answered, rule: Consensus):
    _, labels, embeddings = answered
    shuffled = labels.sample(fraction=1, shuffle=True, seed=1)
    found = consensus_labels(labels, rule, embeddings=embeddings)
    assert found.equals(consensus_labels(shuffled, rule, embeddings=embeddings))


def test_nothing_labeled_is_no_trouble():
    assert consensus_labels(ledger([]), "crowdlab").is_empty()
