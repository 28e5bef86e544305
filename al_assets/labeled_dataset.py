"""`labeled_dataset`: what people answered, merged into one versioned dataset with an untouched holdout."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from al_assets import views
from al_assets.rounds import ROUNDS
from al_assets.selected_candidates import selected_candidates
from al_resources.platform import Platform

if TYPE_CHECKING:
    from al_core.dataset import Dataset
    from al_resources.labeling.merge import Merge


class ExportConfig(dg.Config):
    """Which export to merge. Empty: every export of the inbox that was not merged yet."""

    export: str = Field("", description="path in the blob store, like labeling/exports/0003.json")


@dg.asset(
    deps=[selected_candidates],
    partitions_def=ROUNDS,
    group_name="active_learning",
    kinds={"python", "jsonl"},
    owners=["team:active-learning"],
    pool="training_deployment",
    code_version="1",
)
def labeled_dataset(
    context: dg.AssetExecutionContext, config: ExportConfig, platform: dg.ResourceParam[Platform]
) -> dg.MaterializeResult:
    """All labels so far, split into train, validation and holdout. The same labels give the same version."""
    round_ = int(context.partition_key)
    merges = merge_exports(platform, config.export, context.log.info)
    dataset = publish_dataset(platform, round_)
    manifest = dataset.manifest
    return dg.MaterializeResult(
        data_version=dg.DataVersion(manifest.version),
        metadata={
            "dagster/row_count": sum(manifest.counts.values()),
            "dataset version": manifest.version,
            "parent version": manifest.parent or "none",
            "new labels": sum(merge.new_labels for merge in merges),
            "set aside": sum(merge.set_aside for merge in merges),
            "exports": dg.MetadataValue.json([merge.path for merge in merges]),
            **{f"{split} images": count for split, count in manifest.counts.items()},
            "class balance": views.class_balance(dataset.rows),
            **views.labeling_progress(platform),
            "stored at": dg.MetadataValue.url(platform.blobs.url(f"datasets/{manifest.version}")),
        },
    )


def merge_exports(platform: Platform, path: str, log: Callable[[str], None]) -> list["Merge"]:
    """Bring one export, or all that wait, into the label ledger. Repeating it changes nothing."""
    from al_resources.labeling.merge import merge_export, unmerged_exports

    paths = [path] if path else unmerged_exports(platform.blobs, platform.ledgers)
    merges = [
        merge_export(platform.blobs, platform.ledgers, platform.images, platform.settings.labeling, export)
        for export in paths
    ]
    for merge in merges:
        log(f"{merge.path}: {merge.labels} labels, {merge.new_labels} new, {merge.set_aside} set aside")
    return merges


def publish_dataset(platform: Platform, round_: int) -> "Dataset":
    """Build the dataset from the ledger and publish it, unless that very version is there already."""
    from al_resources.datasets import build_and_publish

    return build_and_publish(
        platform.datasets,
        platform.ledgers,
        platform.images,
        round_=round_,
        holdout=platform.settings.holdout,
        resolve=platform.settings.labeling.resolve,
        near_duplicate_distance=platform.settings.selection.near_duplicate_distance,
    )
