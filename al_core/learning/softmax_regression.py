"""The head on a frozen encoder: softmax regression whose strength and certainty the labels decide themselves.

Every label teaches. How strongly the weights are held down, and how sure the answers may be, is read from answers out
of fold: each label is predicted once by a head that was fitted without it, so no label has to be set aside. While
labels are few, the head also learns from its own surest answers to images without a label, where answers out of fold
say that this helps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from statistics import fmean

import numpy as np
import torch
from scipy.optimize import minimize  # type: ignore[import-untyped]
from torch.nn import functional

from al_core.errors import InvalidInput
from al_core.learning.calibration import calibration_error, fit_temperature, losses

# from strong to weak: a head that is held down is found in a few steps, and is where the next one begins
DECAYS = tuple(10.0 ** (exponent / 2) for exponent in range(2, -8, -1))
UNDECIDED = 0.1  # where no label can be predicted by others: what did best on images of CIFAR-10 at 200 to 1 700 labels
SURELY = 2.0  # standard errors by which images without a label are easier than labels before these count by crowds
UNSURE = 2.0  # deviation of ln T: a head that is held down is too modest by far, and answers out of fold do err
FOLDS = 5
FEWER_FOLDS, MANY_LABELS = 3, 2_000  # with so many labels two thirds of them tell the same as four fifths
PATIENCE = 2  # weaker decays that are tried after the best one
# with many labels the loss out of fold is smooth: it is followed downhill from the middle until one decay is worse
MIDDLE, LESS_PATIENCE = 1.0, 1
MOST_ITERATIONS = 200
STEEPEST = 1e-4  # slope at the minimum, as scikit-learn stops; closer changes no answer and takes half again as long
ROUGHLY = 1e-3  # slope at which a fold is good enough to be compared
# as many labels' worth of each feature's variance is the mean of all: one that hardly moves in twenty pictures moves in
# the next, and divided by next to nothing would drown the others (EfficientNet-Lite0 on CIFAR-10, 8 seeds, without and
# with it: 20 labels .292 -> .347, 50 .457 -> .488, 200 .641 -> .652; ECE at 50 labels .25 -> .14)
BORROWED = 50
NEGLIGIBLE = 1e-7  # share of the largest variance below which a direction is none

# Self-training (Lee 2013, Pseudo-label). EfficientNet-Lite2 on CIFAR-10, 1 280 values, 3 seeds, without and with it:
# 50 labels .513 -> .531, 200 .681 -> .703, 500 .732 -> .738; at 1 700 it brings nothing
TAUGHT_UP_TO = 500  # labels; above them the head does not ask whether it would help
FEWEST_UNLABELED = 50
MOST_UNLABELED = 3_000  # images without a label that are looked at; more take longer and tell no more
LESSONS = 2  # the second one's teacher is the first one's pupil
SUREST = 0.5  # share of the images of each predicted class whose answers teach, together as heavy as all labels
DIRECTIONS = 256  # of the images without a label, those in which they differ most


@dataclass(frozen=True)
class OutOfFold:
    """How well the labels were predicted by heads that had not seen them, at the temperature."""

    labels: int
    accuracy: float
    nll: float
    ece: float


@dataclass(frozen=True)
class LinearHead:
    """What was found, and how."""

    weight: torch.Tensor  # (C, d) float32
    bias: torch.Tensor  # (C,)
    loss: float
    evaluations: int
    weight_decay: float
    temperature: float = 1.0
    out_of_fold: OutOfFold | None = None
    tried: dict[float, float] = field(default_factory=dict)  # weight decay -> loss out of fold
    taught_by: int = 0  # images without a label whose answers teach, too
    taught_loss: float | None = None  # out of fold, of the head that learns from its own answers, where it was tried


def fit_linear_head(
    embeddings: torch.Tensor,
    targets: torch.Tensor,
    class_weights: torch.Tensor,
    *,
    weight_decay: float | None = None,
    seed: int = 0,
    unlabeled: torch.Tensor | None = None,
) -> LinearHead:
    """The minimum of the weighted cross-entropy plus `weight_decay / 2` times the squared weights on standardised
    features, by L-BFGS (Liu & Nocedal 1989); the scaling is folded into the weights.

    The weight decay is the one of `DECAYS` whose answers out of fold have the least cross-entropy, each at the
    temperature that suits it; the head's temperature follows from that one, see `_carried_over` and `_deployed`. A
    label of a class that the other folds do not have says only that the answer is wrong. The features are turned into
    their principal directions: with fewer labels than values an exact and much smaller problem, and one whose curvature
    is known beforehand.

    Args:
        embeddings: (N, d), float32.
        targets: (N,), positions of the classes.
        class_weights: (C,).
        weight_decay: This one, without cross-validation and at temperature 1.
        seed: Of the folds.
        unlabeled: (M, d), embeddings of images without a label. Up to `TAUGHT_UP_TO` labels a head that learns from
            its own answers to at most `MOST_UNLABELED` of them is tried as well, and taken where its answers out of
            fold have less cross-entropy; and they tell whether labels were picked for being doubtful.

    Raises:
        InvalidInput: the embeddings are not finite.
    """
    if not torch.isfinite(embeddings).all():
        raise InvalidInput("the embeddings of the frozen encoder are not finite; its weights are broken")
    space = _Space.of(embeddings)
    problem = _Problem(space.features, _wanted(targets, class_weights), space.variances)
    exam = None if weight_decay is not None else _Exam(targets, class_weights, seed)
    passed = None if exam is None or not exam.possible else _cross_validate(problem, exam)
    decay = passed.decay if passed is not None else UNDECIDED if weight_decay is None else weight_decay
    solved = problem.solve(problem.every, decay, None if passed is None else passed.between, STEEPEST)
    weight, bias = space.unfold(solved.weight, solved.bias)
    head = LinearHead(weight, bias, solved.loss, problem.evaluations, decay)
    if passed is None or exam is None:
        return head
    head = replace(
        head,
        temperature=_carried_over(passed.temperature, problem, solved, passed.heads),
        tried=passed.tried,
        out_of_fold=exam.judged(passed.logits / passed.temperature),
    )
    if unlabeled is None or len(unlabeled) < FEWEST_UNLABELED or len(targets) > TAUGHT_UP_TO:
        return head
    asked = unlabeled[:MOST_UNLABELED]
    pool = _Pool.of(embeddings, asked)
    head = replace(head, temperature=_deployed(problem, exam, passed, solved, space.project(asked), pool.crowds))
    return _better_taught(head, passed, pool, problem.wanted, exam)


def folds(targets: torch.Tensor, count: int, seed: int) -> torch.Tensor:
    """A fold for each label, (N,): every class is dealt out as evenly as it goes, in an order that the seed decides."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(targets), generator=generator).to(targets.device)
    dealt = order[torch.argsort(targets[order], stable=True)]
    found = torch.empty_like(targets)
    found[dealt] = torch.arange(len(targets), device=targets.device) % count
    return found


@dataclass(frozen=True)
class _Space:
    """Standardised features in their principal directions."""

    features: torch.Tensor  # (N, r)
    variances: torch.Tensor  # (r,)
    directions: torch.Tensor  # (d, r)
    mean: torch.Tensor
    std: torch.Tensor

    @classmethod
    def of(cls, embeddings: torch.Tensor, most: int | None = None) -> _Space:
        """That of these (N, d) embeddings, of the `most` directions in which they differ most."""
        count, width = embeddings.shape
        variance, mean = torch.var_mean(embeddings, dim=0, correction=0)
        shared = variance.mean().clamp(min=1e-12)
        std = ((count * variance + BORROWED * shared) / (count + BORROWED)).sqrt()
        standard = (embeddings - mean) / std
        few = count < width
        # the products are of single precision; a direction of hardly any variance is orthogonal to the others in the
        # second case, too, and in the first it is divided by what is left of it
        products = (standard @ standard.T).double() if few else standard.T @ standard
        values, vectors = torch.linalg.eigh(products)
        kept = values > NEGLIGIBLE * values[-1].clamp(min=1e-30)
        kept[: len(kept) - (most or len(kept))] = False  # the largest come last
        values, vectors = values[kept], vectors[:, kept]
        directions = standard.T @ (vectors / values.sqrt()).float() if few else vectors.float()
        return cls(standard @ directions, (values / count).float(), directions, mean, std)

    def project(self, embeddings: torch.Tensor) -> torch.Tensor:
        """(M, r) of other (M, d) embeddings."""
        return ((embeddings - self.mean) / self.std) @ self.directions

    def unfold(self, weight: torch.Tensor, bias: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight (C, d) and bias for embeddings as they are."""
        plain = (weight @ self.directions.T) / self.std
        return plain, bias - plain @ self.mean


@dataclass(frozen=True)
class _Solved:
    weight: torch.Tensor  # (C, r)
    bias: torch.Tensor  # (C,)
    loss: float

    def logits(self, features: torch.Tensor) -> torch.Tensor:
        """(N, C) of (N, r)."""
        return torch.addmm(self.bias, features, self.weight.T)


class _Problem:
    """Softmax regression on some of the rows: `wanted` (N, C) is what each should be answered, times its weight."""

    def __init__(self, features: torch.Tensor, wanted: torch.Tensor, variances: torch.Tensor) -> None:
        self.features, self.wanted, self.variances = features, wanted, variances
        self.evaluations = 0

    def spread(self, head: _Solved) -> float:
        """The deviation of a head's logits over the images, of each image around their mean."""
        centred = head.weight - head.weight.mean(dim=0)
        return float((centred.square().sum(dim=0) * self.variances).sum().sqrt().clamp(min=1e-12))

    @property
    def every(self) -> torch.Tensor:
        """All rows."""
        return torch.arange(len(self.features), device=self.features.device)

    def solve(self, rows: torch.Tensor, decay: float, start: _Solved | None, steepest: float) -> _Solved:
        """The head of these rows, from `start` on."""
        return self.solve_with(self.features[rows], self.wanted[rows], decay, start, steepest)

    def solve_with(
        self, features: torch.Tensor, wanted: torch.Tensor, decay: float, start: _Solved | None, steepest: float
    ) -> _Solved:
        """The head of other rows of the same space.

        The solver sees each direction divided by the square root of its curvature, so all are equally far away.
        """
        classes = wanted.shape[1]
        curvature = (self.variances * (classes - 1) / classes**2 + decay).sqrt()
        # a row a class: half the time of a row an image where classes are few, and softmax a twentieth
        wanted = (wanted / wanted.sum()).T.contiguous()
        weights = wanted.sum(dim=0)
        held = decay / curvature.square()

        def loss_and_slope(values: np.ndarray) -> tuple[float, np.ndarray]:
            self.evaluations += 1
            weight, bias = _unpack(values, classes, features)
            log_probs = torch.log_softmax((weight / curvature) @ features.T + bias[:, None], dim=0)
            at_logits = log_probs.exp() * weights - wanted
            slope = torch.cat([at_logits @ features / curvature + held * weight, at_logits.sum(dim=1)[:, None]], dim=1)
            loss = (held * weight.square()).sum() / 2 - (wanted * log_probs).sum()
            return loss.item(), slope.double().cpu().numpy().ravel()

        first = np.zeros(classes * (features.shape[1] + 1))
        if start is not None:
            first = torch.cat([start.weight * curvature, start.bias[:, None]], dim=1).double().cpu().numpy().ravel()
        options = {"maxiter": MOST_ITERATIONS, "gtol": steepest}
        found = minimize(loss_and_slope, first, jac=True, method="L-BFGS-B", options=options)
        weight, bias = _unpack(found.x, classes, features)
        return _Solved(weight / curvature, bias, float(found.fun))


class _Exam:
    """Answers out of fold, and what they are worth."""

    def __init__(self, targets: torch.Tensor, class_weights: torch.Tensor, seed: int) -> None:
        count = FOLDS if len(targets) <= MANY_LABELS else FEWER_FOLDS
        fold = folds(targets, count, seed)
        parts = [(torch.nonzero(fold != number)[:, 0], torch.nonzero(fold == number)[:, 0]) for number in range(count)]
        self.parts = [(learn, ask) for learn, ask in parts if len(ask) and len(targets[learn].unique()) > 1]
        self.told = torch.full_like(targets, -1)  # where others know the class, the class
        for learn, ask in self.parts:
            self.told[ask] = torch.where(torch.isin(targets[ask], targets[learn]), targets[ask], -1)
        self.weights = class_weights[targets]

    @property
    def possible(self) -> bool:
        """Whether any label can be predicted by others."""
        return bool((self.told >= 0).any())

    def mark(self, logits: torch.Tensor) -> tuple[float, float]:
        """The loss of (N, C) answers out of fold at the temperature that suits them, and that temperature."""
        temperature = fit_temperature(logits, self.told, deviation=UNSURE)
        lost = self.weights * losses(logits / temperature, self.told)
        return float(lost.sum() / self.weights.sum()), temperature

    def judged(self, logits: torch.Tensor) -> OutOfFold:
        """How good the answers are."""
        return _judged(logits, self.told)


@dataclass(frozen=True)
class _Passed:
    """The best weight decay, with the heads of all folds and their answers."""

    decay: float
    loss: float
    temperature: float
    logits: torch.Tensor  # (N, C), out of fold
    heads: list[_Solved]
    tried: dict[float, float]

    @property
    def between(self) -> _Solved:
        """The mean of all folds' heads: near to the one of all labels."""
        weight = torch.stack([head.weight for head in self.heads]).mean(dim=0)
        return _Solved(weight, torch.stack([head.bias for head in self.heads]).mean(dim=0), self.loss)


def _cross_validate(problem: _Problem, exam: _Exam) -> _Passed:
    """Each decay from the strong to the weak, until they get worse; with many labels from the middle on."""
    if len(exam.told) <= MANY_LABELS:
        return _best_of(DECAYS, problem, exam, PATIENCE)
    middle = DECAYS.index(MIDDLE)
    weaker = _best_of(DECAYS[middle:], problem, exam, LESS_PATIENCE)
    if weaker.decay != MIDDLE:
        return weaker
    stronger = _best_of(DECAYS[middle::-1], problem, exam, LESS_PATIENCE)
    return replace(stronger, tried=dict(sorted((weaker.tried | stronger.tried).items(), reverse=True)))


def _best_of(decays: Sequence[float], problem: _Problem, exam: _Exam, patience: int) -> _Passed:
    """One decay after the other, until so many are worse than the best."""
    tried: dict[float, float] = {}
    best: _Passed | None = None
    for decay, logits, heads in _path(problem, exam.parts, decays):
        tried[decay], temperature = exam.mark(logits)
        if best is None or tried[decay] < best.loss:
            best = _Passed(decay, tried[decay], temperature, logits, heads, {})
        elif len(tried) - 1 - list(tried).index(best.decay) >= patience:
            break
    assert best is not None
    return replace(best, tried={decay: round(loss, 5) for decay, loss in tried.items()})


def _path(
    problem: _Problem, parts: list[tuple[torch.Tensor, torch.Tensor]], decays: Sequence[float]
) -> Iterator[tuple[float, torch.Tensor, list[_Solved]]]:
    """Each decay with its answers out of fold, (N, C); every head begins where the one before ended."""
    heads: list[_Solved] = []
    for decay in decays:
        before: list[_Solved | None] = [*heads] or [None] * len(parts)
        heads = [problem.solve(learn, decay, head, ROUGHLY) for (learn, _), head in zip(parts, before, strict=True)]
        yield decay, _out_of_fold(problem, parts, heads), heads


def _out_of_fold(
    problem: _Problem, parts: list[tuple[torch.Tensor, torch.Tensor]], heads: list[_Solved]
) -> torch.Tensor:
    logits = problem.features.new_zeros(problem.wanted.shape)
    for (_, ask), head in zip(parts, heads, strict=True):
        logits[ask] = head.logits(problem.features[ask])
    return logits


@dataclass(frozen=True)
class _Pool:
    """Labeled images and images without a label, in the directions in which all of them differ most."""

    space: _Space
    labeled: torch.Tensor  # (N, r)
    asked: torch.Tensor  # (M, r)

    @classmethod
    def of(cls, embeddings: torch.Tensor, unlabeled: torch.Tensor) -> _Pool:
        """That of (N, d) and (M, d) embeddings."""
        space = _Space.of(torch.cat([embeddings, unlabeled]), DIRECTIONS)
        return cls(space, space.features[: len(embeddings)], space.features[len(embeddings) :])

    @cached_property
    def crowds(self) -> torch.Tensor:
        """For how many images each label stands, (N,), one on average: those without a label to which it is nearest.

        Loog (2012), Nearest neighbor-based importance weighting; flattened by the root, as single counts are noisy
        (Shimodaira 2000).
        """
        nearest = torch.cdist(self.asked, self.labeled).argmin(dim=1)
        crowds = (torch.bincount(nearest, minlength=len(self.labeled)) + 1.0).sqrt()
        return crowds / crowds.mean()


def _deployed(
    problem: _Problem, exam: _Exam, passed: _Passed, solved: _Solved, asked: torch.Tensor, crowds: torch.Tensor
) -> float:
    """The temperature of the head of all labels, where images without a label are at hand.

    Labels that were picked for being doubtful are harder than the images that will come: where the folds' heads are
    surely surer of images without a label, (M, r), than of the labels they had not seen, each counts by its crowd.
    """
    temperature = passed.temperature
    told = (passed.logits / temperature).softmax(dim=1).amax(dim=1)
    pool = fmean(float((head.logits(asked) / temperature).softmax(dim=1).amax(dim=1).mean()) for head in passed.heads)
    if pool - float(told.mean()) > SURELY * float(told.std()) / len(told) ** 0.5:
        temperature = fit_temperature(passed.logits, exam.told, deviation=UNSURE, weights=crowds)
    return _carried_over(temperature, problem, solved, passed.heads)


def _carried_over(temperature: float, problem: _Problem, solved: _Solved, heads: Sequence[_Solved]) -> float:
    """The temperature of the head of all labels, from that of the folds' heads.

    A head of more labels has larger logits where it is hardly held down: it takes as much more temperature as its
    logits spread further.
    """
    return temperature * problem.spread(solved) / fmean(map(problem.spread, heads))


def _better_taught(head: LinearHead, passed: _Passed, pool: _Pool, wanted: torch.Tensor, exam: _Exam) -> LinearHead:
    """The head that learns from its own answers, too, where that predicts labels out of fold better; else `head`."""
    space, asked = pool.space, pool.asked
    problem = _Problem(pool.labeled, wanted, space.variances)
    alone = _cross_validate(problem, exam)
    decay, temperature = alone.decay, alone.temperature
    pupils = [
        _taught(problem, learn, teacher, asked, decay, temperature, ROUGHLY)
        for (learn, _), teacher in zip(exam.parts, alone.heads, strict=True)
    ]
    logits = _out_of_fold(problem, exam.parts, pupils)
    loss, sureness = exam.mark(logits)
    if loss >= passed.loss:
        return replace(head, taught_loss=round(loss, 5), evaluations=head.evaluations + problem.evaluations)
    teacher = problem.solve(problem.every, decay, None, ROUGHLY)
    solved = _taught(problem, problem.every, teacher, asked, decay, temperature, STEEPEST)
    weight, bias = space.unfold(solved.weight, solved.bias)
    taught = _Passed(decay, loss, sureness, logits, pupils, {})
    return replace(
        head,
        weight=weight,
        bias=bias,
        loss=solved.loss,
        evaluations=head.evaluations + problem.evaluations,
        weight_decay=decay,
        temperature=_deployed(problem, exam, taught, solved, asked, pool.crowds),
        out_of_fold=exam.judged(logits / sureness),
        taught_by=len(_surest(teacher, asked, temperature)[0]),
        taught_loss=round(loss, 5),
    )


def _taught(
    problem: _Problem,
    rows: torch.Tensor,
    teacher: _Solved,
    asked: torch.Tensor,
    decay: float,
    temperature: float,
    steepest: float,
) -> _Solved:
    """What these rows and the surest answers to (M, r) images make of a teacher, lesson after lesson."""
    for _ in range(LESSONS):
        kept, answers = _surest(teacher, asked, temperature)
        said = functional.one_hot(answers, problem.wanted.shape[1]).to(problem.wanted)
        said *= problem.wanted[rows].sum() / len(kept)
        features = torch.cat([problem.features[rows], asked[kept]])
        teacher = problem.solve_with(features, torch.cat([problem.wanted[rows], said]), decay, teacher, steepest)
    return teacher


def _surest(teacher: _Solved, asked: torch.Tensor, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions and answers of the surest `SUREST` of each predicted class, so that no class crowds out another."""
    confidence, answers = (teacher.logits(asked) / temperature).softmax(dim=1).max(dim=1)
    kept = []
    for name in answers.unique().tolist():
        members = torch.nonzero(answers == name)[:, 0]
        count = max(1, int(SUREST * len(members)))
        kept.append(members[confidence[members].argsort(descending=True, stable=True)[:count]])
    chosen = torch.cat(kept)
    return chosen, answers[chosen]


def _wanted(targets: torch.Tensor, class_weights: torch.Tensor) -> torch.Tensor:
    """What each row should be answered, times its weight, (N, C)."""
    return class_weights[targets][:, None] * functional.one_hot(targets, len(class_weights)).to(class_weights)


def _judged(logits: torch.Tensor, targets: torch.Tensor) -> OutOfFold:
    probs = logits.double().softmax(dim=1)
    confidence, predicted = probs.max(dim=1)
    right = predicted == targets
    return OutOfFold(
        labels=len(targets),
        accuracy=round(right.double().mean().item(), 5),
        nll=round(losses(logits.double(), targets).mean().item(), 5),
        ece=round(calibration_error(confidence.cpu().numpy(), right.cpu().numpy()), 5),
    )


def _unpack(values: np.ndarray, classes: int, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight (C, r) and bias (C,) of what the solver holds, where the features are."""
    table = torch.from_numpy(values.reshape(classes, -1)).to(features)
    return table[:, :-1], table[:, -1]
