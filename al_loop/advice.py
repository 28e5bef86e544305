"""Whether another round is worth its labels, from what the rounds so far did to the holdout."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from al_core.judging.evaluation import Evaluation
    from al_core.judging.stopping import StoppingAdvice
    from al_core.records import ModelManifest
    from al_resources.platform import Platform

ROUNDS_LOOKED_AT = 12  # the newest; bounds the work, and the far past says little of the next round
MODELS_COMPARED = 4


def stopping_advice(platform: Platform) -> StoppingAdvice:
    """What the next round will probably bring: refused challengers count, they too learned from those labels.

    The holdout consists of seed images and control slices only, so its images are a random sample.
    """
    from al_core.judging.stopping import RoundEvidence, advise

    selection = platform.settings.selection
    judged = _judged_models(platform)
    return advise(
        [
            RoundEvidence(manifest.labels, len(answers.correct), int(answers.correct.sum()))
            for manifest, answers in judged
        ],
        next_labels=selection.budget,
        committee=_predictions_of_the_same_images([answers for _, answers in judged[-MODELS_COMPARED:]]),
        worthwhile=selection.worthwhile_gain,
    )


def _judged_models(platform: Platform) -> list[tuple[ModelManifest, Evaluation]]:
    from al_loop.judging import evaluation_of

    manifests = [platform.registry.manifest(version) for version in platform.registry.versions()[-ROUNDS_LOOKED_AT:]]
    evaluations = [evaluation_of(platform, manifest) for manifest in manifests]
    return [(one, answers) for one, answers in zip(manifests, evaluations, strict=True) if answers is not None]


def _predictions_of_the_same_images(models: list[Evaluation]) -> list[np.ndarray]:
    """The classes that each model predicted, for the images that all of them answered."""
    if not models:
        return []
    shared = set.intersection(*(set(model.answers["image_id"]) for model in models))
    if not shared:
        return []
    return [
        model.answers.filter(model.answers["image_id"].is_in(list(shared))).sort("image_id")["predicted"].to_numpy()
        for model in models
    ]
