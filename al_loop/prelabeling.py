"""Prelabeling: what the newest model says of the images that wait for people, for tools that order tasks by it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import polars as pl

if TYPE_CHECKING:
    from al_resources.labeling import Prediction
    from al_resources.platform import Platform


def refresh_predictions(platform: Platform, log: Callable[[str], None]) -> int:
    """Tell the labeling tool what the newest version says of open images; for how many.

    A tool that cannot be asked stops neither training nor staging: people label in another order until the next time.
    """
    from al_resources.labeling import LabelingError

    versions = platform.registry.versions()
    if not versions:
        return 0
    try:
        told = platform.labeling.refresh(versions[-1], partial(predictions_of, platform, versions[-1]))
    except LabelingError as error:
        log(f"the labeling tool keeps the predictions it has: {error}")
        return 0
    if told:
        log(f"the labeling tool orders {told} open images by what v{versions[-1]} says of them")
    return told


def predictions_of(platform: Platform, version: int, image_ids: Sequence[str]) -> Iterator[Prediction]:
    """What a version says of these images: from the log where it said so, otherwise it is asked here.

    Images that cannot be read are left out.
    """
    from al_core.learning.contract import LabeledImage
    from al_core.uncertainty import margin
    from al_loop.answering import answers_of, predictor_of
    from al_resources.labeling import Prediction

    columns = ["image_id", "model_name", "model_version", "predicted_label", "margin"]
    logged = pl.DataFrame(platform.predictions.rows_of(image_ids, columns)).filter(
        model_name=platform.settings.model.name, model_version=version
    )
    known = logged.unique("image_id", keep="first", maintain_order=True).select("image_id", "predicted_label", "margin")
    for image_id, label, certainty in known.iter_rows():
        yield Prediction(image_id, label, 1.0 - certainty)
    if not (rest := set(image_ids) - set(known["image_id"])):
        return
    selected = platform.ledgers.read("selections").select("image_id", "image_uri").unique("image_id").sort("image_id")
    images = [LabeledImage(image_id, uri, "") for image_id, uri in selected.iter_rows() if image_id in rest]
    predictor = predictor_of(platform, version)
    ids, probs, _ = answers_of(platform, predictor, images)
    for image_id, best, certainty in zip(ids, probs.argmax(axis=1), margin(probs), strict=True):
        yield Prediction(image_id, predictor.classes[best], 1.0 - float(certainty))
