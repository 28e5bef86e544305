"""Labeling: exports become labels, and labels become a dataset."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import polars as pl

if TYPE_CHECKING:
    from al_core.dataset import Dataset
    from al_resources.datasets import DatasetStore
    from al_resources.image_store import ImageStore
    from al_resources.labeling.merge import Merge
    from al_resources.ledgers import LedgerReader, Ledgers
    from al_resources.platform import Platform
    from al_resources.settings import HoldoutSettings


def merge_exports(platform: Platform, path: str, log: Callable[[str], None]) -> list[Merge]:
    """Bring one export, or all that wait, into the label ledger. Repeating it changes nothing."""
    from al_resources.labeling.merge import merge_export

    merges = []
    for export in [path] if path else [blob.path for blob in platform.inbox.unmerged()]:
        try:
            merge = merge_export(platform.inbox, export)
        except (FileNotFoundError, PermissionError) as error:  # gone since it was listed, or not for us to read
            if path:
                raise
            log(f"{export} is left out: {error.strerror or error}")
            continue
        merges.append(merge)
        log(f"{merge.path}: {merge.labels} labels, {merge.new_labels} new, {merge.set_aside} set aside; {merge.reason}")
    return merges


def publish_dataset(platform: Platform, round_: int) -> Dataset:
    """Build the dataset from the ledger and publish it, unless that very version is there already."""
    from al_loop.consensus import counting_labels

    return build_and_publish(
        platform.datasets,
        platform.ledgers,
        platform.images,
        counting_labels(platform),
        round_=round_,
        holdout=platform.settings.holdout,
        near_duplicate_distance=platform.settings.selection.near_duplicate_distance,
    )


def build_and_publish(
    datasets: DatasetStore,
    ledgers: Ledgers,
    images: ImageStore,
    resolved: pl.DataFrame,
    *,
    round_: int,
    holdout: HoldoutSettings,
    near_duplicate_distance: int,
) -> Dataset:
    """The dataset that the labels amount to now, of which `resolved` count; the same give the version there is."""
    from al_core.dataset import build_dataset

    parent = datasets.latest()
    labels = ledgers.read("labels")
    # why an image was chosen first is what decides its split: a review asks again
    selections = ledgers.read("selections").filter(pl.col("reason") != "review").unique("image_id", keep="last")
    new = resolved if parent is None else resolved.join(parent.rows, on="image_id", how="anti")
    urls, hashes = _describe(new["image_id"].to_list(), selections, images)
    dataset = build_dataset(
        resolved,
        reasons=reasons_to_judge(new["image_id"].to_list(), selections, labels, parent, ledgers, images),
        urls=urls,
        hashes=hashes,
        parent=parent,
        reserve=holdout.judges,
        validation_share=holdout.validation_share,
        near_duplicate_distance=near_duplicate_distance,
        round_=round_,
        taken_back=() if parent is None else set(parent.rows["image_id"]) - set(resolved["image_id"]),
    )
    datasets.publish(dataset)
    return dataset


def reasons_to_judge(
    image_ids: Sequence[str],
    selections: pl.DataFrame,
    labels: pl.DataFrame,
    parent: Dataset | None,
    ledgers: LedgerReader,
    images: ImageStore,
) -> dict[str, str]:
    """Image id -> why it was selected; of one that never was, why its label may judge, if it may.

    Labels that were there before any round are no random sample of the images: somebody chose what to label. They may
    judge where people say that it was chance, or where every image that there is was labeled. That is looked at once,
    for the first dataset; what is labeled later was left over by the first.
    """
    from al_core.answers import answered
    from al_core.judging.truth import CENSUS, SAMPLE
    from al_resources.labeling.merge import declared_random

    reasons: dict[str, str] = dict(selections.select("image_id", "reason").iter_rows())
    others = [image_id for image_id in image_ids if image_id not in reasons]
    if not others:
        return reasons
    if parent is None:
        known = set(answered(labels))
        if all(image_id in known for image_id in images.ids()):
            reasons = dict.fromkeys(others, CENSUS) | reasons
    declared = declared_random(ledgers)
    return reasons | {image_id: SAMPLE for image_id in others if image_id in declared}


def said_of_imports(dataset: Dataset) -> str | None:
    """What labels that no round asked for may do in this dataset; None where there are none."""
    from al_core.dataset import JUDGES
    from al_core.judging.truth import LABELED_BEFORE

    judging = dataset.rows.filter(pl.col("reason").is_in(LABELED_BEFORE) & pl.col("split").is_in(JUDGES)).height
    chosen_by_people = dataset.rows.filter(pl.col("reason").is_null()).height
    told = [f"{judging} judge: they were drawn at random, or all there were"] if judging else []
    if chosen_by_people:
        told.append(
            f"{chosen_by_people} are no random sample and judge nothing; random rounds bring labels that do "
            "(or `al import --random-sample` declares that chance decided)"
        )
    return "; ".join(told) or None


def _describe(
    image_ids: list[str], selections: pl.DataFrame, images: ImageStore
) -> tuple[dict[str, str], dict[str, str | None]]:
    """Address and near-duplicate hash of each image: from its selection, or from the image itself."""
    from al_core.images import BadImage, decode_stored_image
    from al_core.near_duplicates import near_duplicate_hash

    urls: dict[str, str] = dict(selections.select("image_id", "image_uri").iter_rows())
    hashes: dict[str, str | None] = dict(selections.select("image_id", "image_hash").iter_rows())
    for image_id in image_ids:
        if image_id not in urls:
            urls[image_id] = images.path_of(image_id)
        if hashes.get(image_id) is None:
            try:
                hashes[image_id] = near_duplicate_hash(
                    decode_stored_image(images.read(urls[image_id]), name=urls[image_id])
                )
            except (BadImage, FileNotFoundError):
                hashes[image_id] = None  # training records and skips what it cannot read
    return urls, hashes
