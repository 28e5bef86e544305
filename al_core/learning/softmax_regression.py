"""The head on a frozen encoder: softmax regression whose strength and certainty the labels decide themselves.

Every label teaches. How strongly the weights are held down, and how sure the answers may be, is read from answers out
of fold: each label is predicted once by a head that was fitted without it, so no label has to be set aside.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.optimize import minimize  # type: ignore[import-untyped]
from torch.nn import functional

from al_core.errors import InvalidInput
from al_core.learning.calibration import calibration_error, fit_temperature, losses

# from strong to weak: a head that is held down is found in a few steps, and is where the next one begins
DECAYS = tuple(10.0 ** (exponent / 2) for exponent in range(2, -8, -1))
UNDECIDED = 0.1  # where no label can be predicted by others: what did best on images of CIFAR-10 at 200 to 1 700 labels
UNSURE = 2.0  # deviation of ln T: a head that is held down is too modest by far, and answers out of fold do err
FOLDS = 5
FEWER_FOLDS, MANY_LABELS = 3, 2_000  # with so many labels two thirds of them tell the same as four fifths
PATIENCE = 2  # weaker decays that are tried after the best one
MOST_ITERATIONS = 200
STEEPEST = 1e-4  # slope at the minimum, as scikit-learn stops; closer changes no answer and takes half again as long
ROUGHLY = 1e-3  # slope at which a fold is good enough to be compared
# as many labels' worth of each feature's variance is the mean of all: one that hardly moves in twenty pictures moves in
# the next, and divided by next to nothing would drown the others (EfficientNet-Lite0 on CIFAR-10, 8 seeds, without and
# with it: 20 labels .292 -> .347, 50 .457 -> .488, 200 .641 -> .652; ECE at 50 labels .25 -> .14)
BORROWED = 50
NEGLIGIBLE = 1e-7  # share of the largest variance below which a direction is none


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


def fit_linear_head(
    embeddings: torch.Tensor,
    targets: torch.Tensor,
    class_weights: torch.Tensor,
    *,
    weight_decay: float | None = None,
    seed: int = 0,
) -> LinearHead:
    """The minimum of the weighted cross-entropy plus `weight_decay / 2` times the squared weights on standardised
    features, by L-BFGS (Liu & Nocedal 1989); the scaling is folded into the weights.

    The weight decay is the one of `DECAYS` whose answers out of fold have the least cross-entropy, each at the
    temperature that suits it, and that temperature is the head's. A label of a class that the other folds do not have
    says only that the answer is wrong. The features are turned into their principal directions: with fewer labels than
    values an exact and much smaller problem, and one whose curvature is known beforehand.

    Args:
        embeddings: (N, d), float32.
        targets: (N,), positions of the classes.
        class_weights: (C,).
        weight_decay: This one, without cross-validation and at temperature 1.
        seed: Of the folds.

    Raises:
        InvalidInput: the embeddings are not finite.
    """
    if not torch.isfinite(embeddings).all():
        raise InvalidInput("the embeddings of the frozen encoder are not finite; its weights are broken")
    space = _Space.of(embeddings)
    problem = _Problem(space.features, targets, class_weights, space.variances)
    chosen, temperature, tried, found = (
        _cross_validate(problem, seed) if weight_decay is None else (weight_decay, 1.0, {}, None)
    )
    solved = problem.solve(torch.arange(len(targets), device=targets.device), chosen, None, STEEPEST)
    weight, bias = space.unfold(solved.weight, solved.bias)
    return LinearHead(weight, bias, solved.loss, problem.evaluations, chosen, temperature, found, tried)


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
    def of(cls, embeddings: torch.Tensor) -> _Space:
        count, width = embeddings.shape
        variance, mean = torch.var_mean(embeddings, dim=0, correction=0)
        shared = variance.mean().clamp(min=1e-12)
        std = ((count * variance + BORROWED * shared) / (count + BORROWED)).sqrt()
        standard = (embeddings - mean) / std
        few = count < width
        products = (standard @ standard.T if few else standard.T @ standard).double()
        values, vectors = torch.linalg.eigh(products)
        kept = values > NEGLIGIBLE * values[-1].clamp(min=1e-30)
        values, vectors = values[kept], vectors[:, kept]
        directions = standard.T @ (vectors / values.sqrt()).float() if few else vectors.float()
        return cls(standard @ directions, (values / count).float(), directions, mean, std)

    def unfold(self, weight: torch.Tensor, bias: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight (C, d) and bias for embeddings as they are."""
        plain = (weight @ self.directions.T) / self.std
        return plain, bias - plain @ self.mean


@dataclass(frozen=True)
class _Solved:
    weight: torch.Tensor  # (C, r)
    bias: torch.Tensor  # (C,)
    loss: float


class _Problem:
    """Softmax regression on some of the labels."""

    def __init__(
        self, features: torch.Tensor, targets: torch.Tensor, class_weights: torch.Tensor, variances: torch.Tensor
    ) -> None:
        self.features, self.targets, self.class_weights, self.variances = features, targets, class_weights, variances
        self.evaluations = 0

    def solve(self, rows: torch.Tensor, decay: float, start: _Solved | None, steepest: float) -> _Solved:
        """The head of these rows, from `start` on.

        The solver sees each direction divided by the square root of its curvature, so all are equally far away.
        """
        classes = len(self.class_weights)
        curvature = (self.variances * (classes - 1) / classes**2 + decay).sqrt()
        features, targets = self.features[rows] / curvature, self.targets[rows]
        weights = self.class_weights[targets]
        weights = (weights / weights.sum())[:, None]
        wanted = weights * functional.one_hot(targets, classes)
        held = decay / curvature.square()

        def loss_and_slope(values: np.ndarray) -> tuple[float, np.ndarray]:
            self.evaluations += 1
            weight, bias = _unpack(values, classes, features)
            log_probs = torch.log_softmax(torch.addmm(bias, features, weight.T), dim=1)
            at_logits = log_probs.exp() * weights - wanted
            slope = torch.cat([at_logits.T @ features + held * weight, at_logits.sum(dim=0)[:, None]], dim=1)
            loss = (held * weight.square()).sum() / 2 - (wanted * log_probs).sum()
            return loss.item(), slope.double().cpu().numpy().ravel()

        first = np.zeros(classes * (features.shape[1] + 1))
        if start is not None:
            first = torch.cat([start.weight * curvature, start.bias[:, None]], dim=1).double().cpu().numpy().ravel()
        options = {"maxiter": MOST_ITERATIONS, "gtol": steepest}
        found = minimize(loss_and_slope, first, jac=True, method="L-BFGS-B", options=options)
        weight, bias = _unpack(found.x, classes, features)
        return _Solved(weight / curvature, bias, float(found.fun))

    def logits(self, rows: torch.Tensor, head: _Solved) -> torch.Tensor:
        """(len(rows), C)."""
        return torch.addmm(head.bias, self.features[rows], head.weight.T)


def _cross_validate(problem: _Problem, seed: int) -> tuple[float, float, dict[float, float], OutOfFold | None]:
    """The best decay and its temperature, the loss of each decay that was tried, and how good the best one is."""
    targets = problem.targets
    count = FOLDS if len(targets) <= MANY_LABELS else FEWER_FOLDS
    fold = folds(targets, count, seed)
    parts = [(torch.nonzero(fold != number)[:, 0], torch.nonzero(fold == number)[:, 0]) for number in range(count)]
    parts = [(learn, ask) for learn, ask in parts if len(ask) and len(targets[learn].unique()) > 1]
    told = torch.full_like(targets, -1)  # where others know the class, the class
    for learn, ask in parts:
        told[ask] = torch.where(torch.isin(targets[ask], targets[learn]), targets[ask], -1)
    if not (told >= 0).any():
        return UNDECIDED, 1.0, {}, None
    weights = problem.class_weights[targets]
    tried: dict[float, float] = {}
    best, at, kept = UNDECIDED, 1.0, None
    for decay, logits in _path(problem, parts):
        temperature = fit_temperature(logits, told, deviation=UNSURE)
        tried[decay] = float((weights * losses(logits / temperature, told)).sum() / weights.sum())
        if kept is None or tried[decay] < tried[best]:
            best, at, kept = decay, temperature, logits
        elif len(tried) - 1 - list(tried).index(best) >= PATIENCE:
            break
    assert kept is not None
    return best, at, {decay: round(loss, 5) for decay, loss in tried.items()}, _judged(kept / at, told)


def _path(problem: _Problem, parts: list[tuple[torch.Tensor, torch.Tensor]]) -> Iterator[tuple[float, torch.Tensor]]:
    """Each decay with its answers out of fold, (N, C); every head begins where the stronger one ended."""
    heads: list[_Solved | None] = [None] * len(parts)
    for decay in DECAYS:
        logits = problem.features.new_zeros(len(problem.targets), len(problem.class_weights))
        for number, (learn, ask) in enumerate(parts):
            head = problem.solve(learn, decay, heads[number], ROUGHLY)
            heads[number] = head
            logits[ask] = problem.logits(ask, head)
        yield decay, logits


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
