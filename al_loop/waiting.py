"""What the loop waits for and what ends it: one sentence, the same for schedule, sensor, terminal and UI.

It is told from the records. What only Dagster knows, whether a run is at work, is handed in.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from al_resources.platform import Platform

MODELS_LOOKED_AT = 3  # the newest
Whom = Literal["people", "training", "images", "advice", "selection"]


@dataclass(frozen=True)
class Waiting:
    """What the loop waits for."""

    whom: Whom
    what: str  # what it waits for, in words
    ends: str  # what ends it

    @property
    def sentence(self) -> str:
        """Both in one line."""
        return f"{self.what}; {self.ends}"


def reason_to_wait(platform: Platform, training: str = "") -> Waiting | None:
    """Why no round is opened now; None where one can be.

    `training`: the id of a run that trains, or is about to.
    """
    limits = platform.settings.selection
    waiting, version = platform.unlabeled_candidates(), platform.endpoint.state().serving_version
    if training:
        first = "the first model" if version is None else "on the newest labels"
        return Waiting("training", f"run {training} trains {first}", "the next round follows when it has ended")
    if version is None and waiting:
        return Waiting(
            "people",
            f"no model yet: the seed round's {waiting} images wait for their labels",
            "label them on the page of `al label`, or with any tool, and release or export them",
        )
    if waiting > limits.most_unlabeled:
        return Waiting(
            "people",
            f"{waiting} candidates wait for a label, more than selection.max_unlabeled = {limits.most_unlabeled}",
            "label some and release them, or raise it",
        )
    if version is None:
        return _for_the_first_model(platform)
    return _for_images(platform, version) or (_by_advice(platform) if limits.stop_when_advised else None)


def standing(platform: Platform, training: str = "") -> Waiting:
    """What it waits for now, always something: what is delivered and not merged, or the round that is due."""
    if not training:
        if delivered := platform.inbox.unmerged(turn=0):
            return Waiting(
                "training",
                f"{len(delivered)} exports with labels lie in the inbox",
                "the export sensor merges them at its next look, and trains",
            )
        if untrained := _untrained(platform):
            return untrained
    found = reason_to_wait(platform, training)
    if found is not None and found.whom == "people":
        return _with_answers(platform, found)
    return found or Waiting("selection", "a round is due", "the next look of the sensor or the schedule opens it")


def _untrained(platform: Platform) -> Waiting | None:
    """The newest dataset, where no model has learned from it: it is being trained on, or that failed."""
    made = platform.datasets.manifests()
    versions = platform.registry.versions()[-MODELS_LOOKED_AT:]
    if not made or any(platform.registry.manifest(one).dataset_version == made[-1].version for one in versions):
        return None
    failed = platform.ledgers.read("failures", job="training_deployment", round=made[-1].round)
    failed = failed.filter(failed["failed_at"] > made[-1].created_at)
    if failed.height:
        step, reason = failed.select("step", "reason").row(-1)
        return Waiting(
            "people",
            f"the training of round {made[-1].round} failed in {step}: {reason}",
            "mend that and run it again from the Runs page, or bring more labels",
        )
    return Waiting(
        "training",
        f"the labels of round {made[-1].round} are merged, and a run of training_deployment learns from them",
        "the next round follows when it has ended",
    )


def _with_answers(platform: Platform, waiting: Waiting) -> Waiting:
    """What was answered already and not yet released: that ends it, too."""
    from al_resources.labeling import LabelingError

    newest = max(platform.ledgers.read("selections")["round"].to_list())
    try:
        told = platform.labeling.status(newest)
    except (LabelingError, FileNotFoundError):  # FileNotFoundError: it is being staged
        return waiting
    if not told.labeled + told.skipped:
        return waiting
    answered = f"{told.labeled + told.skipped} of {told.total} of round {newest} are answered"
    if told.labeled + told.skipped >= told.total:
        return Waiting("people", f"{answered}", "release them on the labeling page")
    return Waiting("people", f"{waiting.what} ({answered})", waiting.ends)


def _for_the_first_model(platform: Platform) -> Waiting | None:
    """Nothing waits for a label. Where no training is on its way, more images have to be drawn, if there are any."""
    from al_core.answers import answered

    if platform.images.is_empty():
        return Waiting("images", "there are no images yet", "add some with `al ingest FOLDER`")
    labels = platform.ledgers.read("labels")
    if labels.is_empty():
        return None
    asked = set(platform.ledgers.read("selections")["image_id"]) | set(answered(labels))
    if all(image_id in asked for image_id in platform.images.ids()):
        return Waiting(
            "images",
            "no model yet, and every image is labeled; what is missing says the newest run of training_deployment",
            "add images with `al ingest FOLDER`",
        )
    return None


def _for_images(platform: Platform, version: int) -> Waiting | None:
    from al_loop.scoring import unscored

    limits = platform.settings.selection
    eligible = platform.predictions.count_eligible(platform.settings.model.name, version)
    missing = limits.min_new_predictions - eligible
    to_score = 0
    if missing > 0 and limits.pool_scoring_limit:
        to_score = len(list(islice(unscored(platform, version), min(missing, limits.pool_scoring_limit))))
    if to_score >= missing or (eligible and _an_alarm_opens_it(platform)):
        return None
    pool = "" if not to_score else f" and {to_score} more that it has yet to score"
    return Waiting(
        "images",
        f"{eligible} images that model v{version} scored{pool} are neither selected nor labeled",
        f"a round starts at selection.min_new_predictions = {limits.min_new_predictions}: send it traffic, add images "
        "with `al ingest FOLDER`, or lower it",
    )


def _an_alarm_opens_it(platform: Platform) -> bool:
    """Whether the traffic differs since after the newest round was selected: an alarm opens one round, not many."""
    if not platform.settings.monitoring.opens_round:
        return False
    from al_loop.monitoring import drift_on_record

    state = drift_on_record(platform)
    if not state.alarm or state.look is None or state.look.alarm_since is None:
        return False
    selected = platform.ledgers.read("selections")["selected_at"]
    return not (selected > state.look.alarm_since).any()


def _by_advice(platform: Platform) -> Waiting | None:
    from al_loop.advice import stopping_advice

    advice = stopping_advice(platform)
    if not advice.stop:
        return None
    return Waiting("advice", f"{advice.sentence} (selection.stop_when_advised)", "switch that off to go on")
