"""The promotion gate: may the challenger take the champion's place? Better, worse, or open for now.

*Better* is non-inferiority: with the demanded confidence, at all looks together, the challenger's accuracy is not
below the champion's by more than the tolerance. *Worse*: it is surely below it, or a class or the budget for latency
and size is. Everything else is *open*, and asks for more labels of images on which the two disagree (`duels`).
Two models that hardly ever disagree cannot differ by more than they disagree, so they need no label at all.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from al_core.judging.duels import Comparison, asking_order, compare, evidence, tallies
from al_core.judging.truth import Reserve
from al_core.records import GateVerdict

LEAST_IMAGES = 10  # of the first model's holdout; fewer tell nothing of a model


@dataclass(frozen=True)
class Rules:
    """What the gate demands. The numbers are explained in `GateSettings`."""

    tolerance: float
    confidence: float
    class_tolerance: float
    latency_ms: float | None = None
    size_mb: float | None = None


@dataclass(frozen=True)
class Truth:
    """The labels that judge: image id -> label, and which of these images were drawn uniformly."""

    labels: Mapping[str, str]
    holdout: Collection[str]
    version: str  # content hash of the holdout


@dataclass(frozen=True)
class Costs:
    """What an answer costs; None where it was not measured."""

    latency_ms: float | None = None
    size_mb: float | None = None


def first_model(right: int, images: int, rules: Rules, truth: Truth, costs: Costs) -> GateVerdict:
    """The first model has nobody to beat; on a holdout that tells nothing it does not pass."""
    if images < LEAST_IMAGES:
        reason = (
            f"the holdout has {images} images, at least {LEAST_IMAGES} are needed to judge a model: label more "
            "random images (selection.initial_budget, holdout.share), or raise holdout.reserve"
        )
        outcome = "open"
    elif over := _over_budget(rules, costs):
        outcome, reason = "worse", over
    else:
        outcome, reason = "better", f"the first model: {right / images:.1%} right on {images} holdout images"
    return GateVerdict(
        passed=outcome == "better",
        outcome=outcome,
        reason=reason,
        champion_version=None,
        difference=None,
        tolerance=rules.tolerance,
        images=images,
        holdout=truth.version,
    )


def decide(
    pairing: pl.DataFrame,
    truth: Truth,
    *,
    answered: Collection[str],
    reserve: Reserve,
    champion_version: int,
    rules: Rules,
    costs: Costs,
) -> GateVerdict:
    """The verdict on a challenger, from the two models' answers and the labels that judge.

    Args:
        pairing: Both answers to the reserved images, rows of `duels.PAIRING`.
        truth: The labels.
        answered: Images of which people said all they will, a label or that there is none to give.
        reserve: Which images may judge.
        champion_version: Who serves.
        rules: What the gate demands.
        costs: What the challenger's answers cost.
    """
    order = asking_order(pairing, truth.holdout, reserve)
    found = compare(pairing, tallies(pairing, order, truth.labels, answered=answered), confidence=rules.confidence)
    count = found.tally
    outcome, why = _outcome(found, rules)
    if over := _over_budget(rules, costs):
        outcome, why = "worse", over
    elif fallen := _fallen_class(pairing, order, truth, answered, rules):
        outcome, why = "worse", fallen
    return GateVerdict(
        passed=outcome == "better",
        outcome=outcome,
        reason=f"{outcome}: {_in_words(found, champion_version)}; {why}",
        champion_version=champion_version,
        difference=found.difference,
        tolerance=rules.tolerance,
        images=len(truth.holdout),
        holdout=truth.version,
        compared=found.compared,
        disagreement=found.disagreement,
        won=count.won,
        lost=count.lost,
        tied=count.tied,
        agreed=count.agreed,
        unasked=count.unasked,
    )


def _outcome(found: Comparison, rules: Rules) -> tuple[str, str]:
    if found.compared == 0:
        return "open", "no reserved image was answered by both: send traffic, or raise holdout.reserve"
    if found.difference.high < 0:
        return "worse", f"at {rules.confidence:.0%} it is below by {-100 * found.difference.high:.1f} points or more"
    bound = (
        f"at {rules.confidence:.0%} not below {100 * found.difference.low:+.1f}, "
        f"the limit is {-100 * rules.tolerance:+.1f} (gate.tolerance)"
    )
    return ("better" if found.difference.low >= -rules.tolerance else "open"), bound


def _over_budget(rules: Rules, costs: Costs) -> str | None:
    for name, unit, limit, measured in (
        ("latency", "ms", rules.latency_ms, costs.latency_ms),
        ("size", "MB", rules.size_mb, costs.size_mb),
    ):
        if limit is not None and measured is not None and measured > limit:
            return f"its {name} of {measured:.1f} {unit} is over the budget of {limit:g} (gate.{name}_{unit.lower()})"
    return None


def _fallen_class(
    pairing: pl.DataFrame,
    order: Sequence[str],
    truth: Truth,
    answered: Collection[str],
    rules: Rules,
) -> str | None:
    """The class whose recall has surely fallen by more than the tolerance for classes; tried for all, so each less.

    Of all images, the class is as frequent as in the holdout.
    """
    classes = sorted({truth.labels[one] for one in truth.holdout if one in truth.labels})
    error = (1 - rules.confidence) / max(1, len(classes))
    for name in classes:
        share = sum(truth.labels.get(one) == name for one in truth.holdout) / len(truth.holdout)
        of_class = tallies(pairing, order, truth.labels, answered=answered, label=name)
        if evidence([count.reversed() for count in of_class], rules.class_tolerance * share)[0] >= 1 / error:
            seen = of_class[-1]
            return (
                f"class {name} lost {seen.lost} of these images and won {seen.won}: its recall fell by more "
                f"than gate.class_tolerance = {rules.class_tolerance:g}"
            )
    return None


def _in_words(found: Comparison, champion: int) -> str:
    count = found.tally
    won = f"won {count.won}, lost {count.lost} of {count.labels} labeled images of these"
    unasked = f", {count.unasked} have no label and are counted against what is to be shown" if count.unasked else ""
    return (
        f"{100 * found.difference.value:+.1f} points against v{champion}; they disagree on "
        f"{found.disagreement:.1%} of {found.compared} reserved images, {won}{unasked}"
    )
