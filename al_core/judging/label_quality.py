"""Labels one can trust: which are probably wrong, how far people agree, what they mean together.

Suspicious labels are ranked by what a model says of images that it was not trained on. The ranking is excellent at its
head and no list tells where it should end, so a review goes down it and stops by itself (`ReviewQueue`).

Sources: Northcutt, Jiang & Chuang (2021), Confident learning; Kuan & Mueller (2022), Model-agnostic label quality
scoring; Krippendorff (2011), Computing Krippendorff's alpha-reliability; Dawid & Skene (1979); Goh, Tkachenko &
Mueller (2022), CROWDLAB.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from al_core.errors import InvalidInput

FOLDS = 5
UNKNOWN = -1  # in a table of answers: this annotator did not answer that image
PATIENCE = 20  # reviews that the share of errors is taken over
LEAST = 1e-12  # probability below which none is told from another
# weight of what is mixed up in general beside what is seen in this image: the confident joint counts the model's own
# mistakes as people's (average precision on CIFAR-10N aggregate, resnet18: 0 -> .880, .1 -> .883, 1 -> .856)
OF_HABIT = 0.1


# ---------------------------------------------------------------- suspicious labels
def out_of_sample_probs(
    embeddings: np.ndarray, targets: np.ndarray, classes: int, *, folds: int = FOLDS, seed: int = 0
) -> np.ndarray:
    """What heads on the embeddings say of images they were not trained on.

    Args:
        embeddings: (N, d) float32.
        targets: (N,) positions of the given labels.
        classes: C.
        folds: Heads; each is trained on the other folds. Every class is spread over them evenly.
        seed: Of the spread.

    Returns:
        (N, C) float32. A class with one image has no other image to be learned from: its column is small there.
    """
    import torch

    from al_core.learning.softmax_regression import fit_linear_head

    _check_targets(targets, classes, len(embeddings))
    fold_of = _stratified_folds(targets, folds, seed)
    rows = torch.from_numpy(np.ascontiguousarray(embeddings, np.float32))
    wanted = torch.from_numpy(targets.astype(np.int64))
    probs = np.full((len(targets), classes), 1 / classes, np.float32)
    for fold in range(folds):
        inside = torch.from_numpy(np.flatnonzero(fold_of == fold))
        outside = torch.from_numpy(np.flatnonzero(fold_of != fold))
        if not len(inside) or not len(outside):
            continue
        head = fit_linear_head(rows[outside], wanted[outside], torch.ones(classes), weight_decay=1e-2)
        logits = rows[inside] @ head.weight.T + head.bias
        probs[inside.numpy()] = torch.softmax(logits, dim=1).numpy()
    return probs


def suspicion(probs: np.ndarray, given: np.ndarray) -> np.ndarray:
    """How much speaks against each given label, shape (N,): higher is more suspicious, above 0 another class wins.

    Log odds of the likeliest other class against the given one. Every class is put on one footing first by its mean
    self-confidence, so that a class of which the model is never sure is not suspicious for that; and the two that are
    mixed up often are a little likelier to have been mixed up here. Unlike a difference of probabilities, log odds
    depend on no temperature: they rank as well where the model is hardly sure of anything.

    Args:
        probs: (N, C), out of sample.
        given: (N,) positions of the given labels.

    Raises:
        InvalidInput: the shapes do not fit.
    """
    _check_targets(given, probs.shape[1], len(probs))
    rows = np.arange(len(given))
    counts = np.bincount(given, minlength=probs.shape[1])
    own = probs[rows, given]
    confidence = np.bincount(given, own, minlength=probs.shape[1]) / np.maximum(counts, 1)
    confidence = np.where(counts > 0, confidence, confidence.max(initial=0))
    footing = probs / np.maximum(confidence, LEAST)
    mixed_up = _mixed_up(footing, given)
    evidence = np.log(np.maximum(footing, LEAST)) + OF_HABIT * np.log(mixed_up)[given]
    of_given = evidence[rows, given]
    evidence[rows, given] = -np.inf
    return evidence.max(1) - of_given


def _mixed_up(footing: np.ndarray, given: np.ndarray) -> np.ndarray:
    """(C, C): of the images that are surely of the column's class, the share that was given the row's: how often the
    two are taken for each other, by the confident joint, with one image more everywhere."""
    classes = footing.shape[1]
    sure = footing.max(1, initial=0) >= 1  # at least as sure of a class as it is of its own images on average
    joint = np.ones((classes, classes))
    np.add.at(joint, (given[sure], footing[sure].argmax(1)), 1)
    return joint / joint.sum(0)


@dataclass
class ReviewQueue:
    """Goes down a ranking of suspicious labels and stops by itself.

    It stops when fewer than `floor` of the last `PATIENCE` reviewed labels were wrong: below half of the F1 that is
    reached, one more review lowers it, and people are better asked for new labels.
    """

    floor: float
    found: tuple[bool, ...] = ()  # of every review so far, in order: was the label wrong

    def is_over(self) -> bool:
        """Whether to stop; with few reviews nothing can be said, so it goes on."""
        return len(self.found) >= PATIENCE and self.share() < self.floor

    def share(self) -> float:
        """Errors among the last reviews."""
        recent = self.found[-PATIENCE:]
        return sum(recent) / len(recent) if recent else 1.0

    def after(self, found: Sequence[bool]) -> ReviewQueue:
        """The queue once these were reviewed, too."""
        return ReviewQueue(self.floor, (*self.found, *found))


# ---------------------------------------------------------------- agreement
def krippendorff_alpha(answers: np.ndarray, classes: int) -> float:
    """Agreement beyond chance, nominal: 1 is perfect, 0 is chance, NaN where no image has two answers.

    Args:
        answers: (N, J) positions of classes, `UNKNOWN` where annotator j did not answer image i.
        classes: C.
    """
    counts = _votes(answers, classes)
    answered = counts.sum(1)
    counts, answered = counts[answered >= 2], answered[answered >= 2]
    if not len(counts):
        return float("nan")
    # The coincidence matrix's diagonal and margins: all that a nominal alpha needs.
    agreeing = ((counts * (counts - 1)).sum(1) / (answered - 1)).sum()
    margins = counts.sum(0)
    total = margins.sum()
    expected = (margins * (margins - 1)).sum() / (total - 1)
    if np.isclose(expected, total):
        return 1.0  # everybody always says the same: nothing can be told from chance, and nobody disagrees
    return float(1 - (total - agreeing) / (total - expected))


def agreement_by_class(answers: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    """Alpha of each class against all others; NaN for a class that nobody answered twice over."""
    found = {}
    for place, name in enumerate(names):
        of_class = np.where(answers == UNKNOWN, UNKNOWN, (answers == place).astype(int))
        asked = (answers == place).any(1)
        found[name] = krippendorff_alpha(of_class, 2) if asked.any() else float("nan")
    return found


def agreement_by_pair(answers: np.ndarray, annotators: Sequence[str]) -> dict[tuple[str, str], tuple[int, int]]:
    """(annotator, annotator) -> (images on which they agree, images both answered); pairs without any are left out."""
    found = {}
    for first in range(len(annotators)):
        for second in range(first + 1, len(annotators)):
            both = (answers[:, first] != UNKNOWN) & (answers[:, second] != UNKNOWN)
            if both.any():
                same = int((answers[both, first] == answers[both, second]).sum())
                found[annotators[first], annotators[second]] = (same, int(both.sum()))
    return found


# ---------------------------------------------------------------- consensus
def majority(answers: np.ndarray, classes: int) -> np.ndarray:
    """The class with most answers of each image, shape (N,); `UNKNOWN` without an answer, ties to the lower class."""
    counts = _votes(answers, classes)
    return np.where(counts.sum(1) > 0, counts.argmax(1), UNKNOWN)


def dawid_skene(answers: np.ndarray, classes: int, *, iterations: int = 50) -> np.ndarray:
    """Probabilities (N, C) of the true classes, by each annotator's table of confusions (expectation maximisation)."""
    from scipy.sparse import csr_matrix  # type: ignore[import-untyped]

    counts = _votes(answers, classes)
    truth = (counts + 1e-9) / (counts + 1e-9).sum(1, keepdims=True)
    images, annotators = np.nonzero(answers != UNKNOWN)
    # a row for each thing an annotator may say: most of them are said of few images
    place = annotators * classes + answers[images, annotators]
    said = csr_matrix((np.ones(len(place)), (place, images)), (answers.shape[1] * classes, len(answers)))
    for _ in range(iterations):
        confusion = (said @ truth).reshape(-1, classes, classes) + 0.01  # (J, said, true)
        confusion /= confusion.sum(1, keepdims=True)
        logs = np.log(truth.mean(0) + 1e-12) + said.T @ np.log(confusion).reshape(-1, classes)
        new = np.exp(logs - logs.max(1, keepdims=True))
        new /= new.sum(1, keepdims=True)
        done = np.abs(new - truth).max(initial=0) < 1e-6
        truth = new
        if done:
            break
    return truth


def crowdlab(answers: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """Probabilities (N, C) of the true classes from people and a classifier together.

    Each takes part by how much better than a constant guess they agree with the others: annotators by their answers
    for images that several people answered, the classifier by the majority there. Its weight grows with the number of
    answers that it is as good as.

    Args:
        answers: (N, J) positions of classes, `UNKNOWN` where there is no answer.
        probs: (N, C) of a classifier that was not trained on the image; a row of NaN where it was not asked.
    """
    classes = probs.shape[1]
    asked = ~np.isnan(probs).any(1)
    probs = np.where(asked[:, None], probs, 1 / classes)
    counts = _votes(answers, classes)
    answered = counts.sum(1)
    if not answered.any():
        return np.asarray(probs, float)
    best = _broken_ties(counts, probs)
    several = answered >= 2
    if not several.any():
        several = answered >= 1
    guess = np.bincount(best[several], minlength=classes).max() / max(1, several.sum())
    agreeing = answers == best[:, None]
    given = answers != UNKNOWN
    overall = (agreeing & given)[several].sum() / max(1, given[several].sum())
    shared = (given & several[:, None]).sum(0)
    of_annotator = (agreeing & given & several[:, None]).sum(0) / np.maximum(shared, 1)
    of_annotator = np.where(shared > 0, of_annotator, overall)
    compared = several & asked
    of_model = (probs.argmax(1) == best)[compared].mean() if compared.any() else 0.0
    people = np.maximum(1 - (1 - of_annotator) / max(1 - guess, 1e-9), 0)
    model = max(1 - (1 - of_model) / max(1 - guess, 1e-9), 0) * np.sqrt(answered[answered > 0].mean()) * asked
    certain = np.clip(overall, 1 / classes, 1 - 1e-9)
    others = (1 - certain) / max(classes - 1, 1)
    of_people = given @ people
    weighed = model[:, None] * probs + others * of_people[:, None]
    images, annotators = np.nonzero(given)
    np.add.at(weighed, (images, answers[images, annotators]), people[annotators] * (certain - others))
    weights = model + of_people
    return np.where(weights[:, None] > 0, weighed / np.maximum(weights[:, None], 1e-12), probs)


def answer_table(
    votes: Sequence[tuple[str, str, str]], classes: Sequence[str]
) -> tuple[list[str], list[str], np.ndarray]:
    """(image id, annotator, label) -> image ids (N), annotators (J), the table (N, J); other classes are left out."""
    place: Mapping[str, int] = {name: number for number, name in enumerate(classes)}
    kept = [vote for vote in votes if vote[2] in place]
    images = sorted({image for image, _, _ in kept})
    annotators = sorted({annotator for _, annotator, _ in kept})
    row = {image: number for number, image in enumerate(images)}
    column = {annotator: number for number, annotator in enumerate(annotators)}
    table = np.full((len(images), len(annotators)), UNKNOWN)
    for image, annotator, label in kept:
        table[row[image], column[annotator]] = place[label]
    return images, annotators, table


# ---------------------------------------------------------------- helpers
def _votes(answers: np.ndarray, classes: int) -> np.ndarray:
    """(N, C): how many said what."""
    images, annotators = np.nonzero(answers != UNKNOWN)
    place = images * classes + answers[images, annotators]
    return np.bincount(place, minlength=len(answers) * classes).reshape(len(answers), classes)


def _broken_ties(counts: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """The majority; among classes with as many answers the one that the classifier finds likelier."""
    return (counts + 0.5 * probs).argmax(1)


def _check_targets(targets: np.ndarray, classes: int, rows: int) -> None:
    if len(targets) != rows or (len(targets) and not 0 <= targets.min() <= targets.max() < classes):
        raise InvalidInput(f"{len(targets)} labels for {rows} images; expected one of 0 to {classes - 1} for each")


def _stratified_folds(targets: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """(N,): the fold of each image; the images of a class go round the folds in random order."""
    order = np.random.default_rng(seed).permutation(len(targets))
    by_class = order[np.argsort(targets[order], kind="stable")]
    fold_of = np.empty(len(targets), np.int64)
    fold_of[by_class] = np.arange(len(targets)) % folds
    return fold_of
