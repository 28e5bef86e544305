"""`labeled_dataset`: what people answered, merged into one versioned dataset with an untouched holdout."""

import dagster as dg
from pydantic import Field

from al_assets import views
from al_assets.loop_names import loop_asset
from al_assets.rounds import round_of_run
from al_loop.labeling import merge_exports, publish_dataset, said_of_imports
from al_resources.platform import Platform


class ExportConfig(dg.Config):
    """Which export to merge. Empty: every export of the inbox that was not merged yet."""

    export: str = Field("", description="path in the blob store, like labeling/exports/0003.json")


@loop_asset(
    after="selected_candidates",
    kinds={"python", "jsonl"},
    pool="training_deployment",
    code_version="1",
)
def labeled_dataset(
    context: dg.AssetExecutionContext, config: ExportConfig, platform: dg.ResourceParam[Platform]
) -> dg.MaterializeResult:
    """All labels so far, split into train, validation and those that judge. The same labels give the same version."""
    from al_core.dataset import uses

    round_ = round_of_run(context)
    merges = merge_exports(platform, config.export, context.log.info)
    dataset = publish_dataset(platform, round_)
    manifest, imports = dataset.manifest, said_of_imports(dataset)
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
            "what the labels are for": dg.MetadataValue.json(uses(dataset.rows)),
            **({"labels that no round asked for": imports} if imports else {}),
            "class balance": views.class_balance(dataset.rows),
            **views.about_people(platform),
            **views.labeling_progress(platform),
            "stored at": views.place(platform, f"datasets/{manifest.version}"),
        },
    )
