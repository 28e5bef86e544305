"""The promotion gate: may the challenger take the champion's place?

Non-inferiority on the holdout: with the demanded confidence, the challenger's accuracy is not below the
champion's by more than the tolerance. Both answer the same images, so the comparison is paired.

What cannot be told apart is not promoted: n images of identical answers show, at 95 %, no more than that the
challenger is at most 3 / n worse, so they pass from that tolerance on. With no tolerance the challenger has to win
five images more than nothing, and more where it loses some; gains that are too small to show add up over the
rounds until they do, for every challenger learns from all labels.
"""

from __future__ import annotations

from al_core.judging.evaluation import Evaluation, paired_bootstrap
from al_core.records import GateVerdict, Interval

LEAST_IMAGES = 20  # fewer cannot tell one model from another


class GateMismatch(ValueError):
    """A stored verdict does not follow from the stored answers, or the answers cannot be compared."""


def decide(
    challenger: Evaluation,
    champion: Evaluation | None,
    *,
    champion_version: int | None,
    tolerance: float,
    confidence: float,
    holdout: str,
) -> GateVerdict:
    """The verdict on a challenger; without a champion it passes, on a holdout that is too small it does not.

    Args:
        challenger: Its answers on the holdout.
        champion: The serving model's answers on the same images; None where nothing serves yet.
        champion_version: Which version that is.
        tolerance: Accuracy that may be lost, 0 to 1.
        confidence: Certainty demanded, like 0.95.
        holdout: Content hash of the holdout.

    Raises:
        GateMismatch: the two did not answer the same images.
    """
    images = challenger.answers.height
    difference = None
    if images < LEAST_IMAGES:
        passed = False
        reason = (
            f"the holdout has {images} images, at least {LEAST_IMAGES} are needed to judge a model: label more "
            "random images (selection.initial_budget, selection.control_share) or raise holdout.share"
        )
    elif champion is None:
        accuracy = float(challenger.correct.mean())
        passed, reason = (
            True,
            f"the first model: {accuracy:.1%} right on {images} holdout images, nobody to beat",
        )
    else:
        difference = _difference(challenger, champion, confidence)
        passed = difference.low >= -tolerance
        reason = _in_words(passed, difference, champion_version, images, tolerance, confidence)
    return GateVerdict(
        passed=passed,
        reason=reason,
        champion_version=champion_version,
        difference=difference,
        tolerance=tolerance,
        images=images,
        holdout=holdout,
    )


def verify(
    verdict: GateVerdict, challenger: Evaluation | None, champion: Evaluation | None, *, confidence: float
) -> GateVerdict:
    """The verdict, computed again from the stored answers.

    Raises:
        GateMismatch: answers are missing, or the stored verdict claims something else than they say.
    """
    if challenger is None or (champion is None) != (verdict.champion_version is None):
        raise GateMismatch("the answers the verdict rests on are not stored beside the model; train it again")
    again = decide(
        challenger,
        champion,
        champion_version=verdict.champion_version,
        tolerance=verdict.tolerance,
        confidence=confidence,
        holdout=verdict.holdout,
    )
    if verdict.passed and not again.passed:
        raise GateMismatch(f"the stored verdict says passed, but its answers say: {again.reason}")
    return again


def _difference(challenger: Evaluation, champion: Evaluation, confidence: float) -> Interval:
    if not challenger.answers["image_id"].equals(champion.answers["image_id"]):
        ours, theirs = set(challenger.answers["image_id"]), set(champion.answers["image_id"])
        raise GateMismatch(
            f"challenger and champion answered different images: {len(ours - theirs)} only the one, "
            f"{len(theirs - ours)} only the other; evaluate both on the same holdout"
        )
    return paired_bootstrap(challenger.correct, champion.correct, confidence=confidence)


def _in_words(
    passed: bool, difference: Interval, champion: int | None, images: int, tolerance: float, confidence: float
) -> str:
    change = f"{100 * difference.value:+.1f} points against v{champion} on {images} holdout images"
    bound = f"at {confidence:.0%} not below {100 * difference.low:+.1f}"
    limit = f"{-100 * tolerance:+.1f}" if tolerance else "0"
    return f"{'passed' if passed else 'refused'}: {change}, {bound} (limit {limit})"
