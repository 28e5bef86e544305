"""`labeled_dataset`: what people answered, merged into one versioned dataset with an untouched holdout."""

import dagster as dg
from pydantic import Field

from al_assets import columns, views
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
    columns=columns.schema(columns.DATASET),
    pool="training_deployment",
    code_version="1",
)
def labeled_dataset(
    context: dg.AssetExecutionContext, config: ExportConfig, platform: dg.ResourceParam[Platform]
) -> dg.MaterializeResult:
    """All labels so far: one a picture, split into those that teach and those that judge, and never mixed.

    **Are the classes balanced, do people agree, which labels look wrong, and what is new?** The check
    `labels_look_right` shows the most suspicious pictures, `exports_were_taken` what could not be read, and
    `holdout_is_untouched` holds the training back should a judge ever have taught.

    An export is merged once, however often it is delivered; the same labels give the same version. By hand: in the
    launchpad name one under `export`, or leave it empty for all that wait. Labels that come late belong to the newest
    round that they bring something for.
    """
    from al_core.dataset import uses
    from al_loop.batch_facts import changes

    round_ = round_of_run(context)
    merges = merge_exports(platform, config.export, context.log.info)
    dataset = publish_dataset(platform, round_)
    manifest, imports = dataset.manifest, said_of_imports(dataset)
    return dg.MaterializeResult(
        data_version=dg.DataVersion(manifest.version),
        metadata={
            "dagster/row_count": sum(manifest.counts.values()),
            "new labels": sum(merge.new_labels for merge in merges),
            "what changed": views.table_or_words(changes(platform, dataset), "nothing since the version before"),
            "class balance": views.class_balance(dataset.rows),
            "agreement": views.agreement(platform),
            **views.embedding_map(platform, round_, dataset),
            "what the labels are for": dg.MetadataValue.json(uses(dataset.rows)),
            **{f"{split} images": count for split, count in manifest.counts.items()},
            "set aside": sum(merge.set_aside for merge in merges),
            **({"labels that no round asked for": imports} if imports else {}),
            **views.about_people(platform),
            **views.labeling_progress(platform),
            "exports": dg.MetadataValue.json([merge.path for merge in merges]),
            "dataset version": manifest.version,
            "parent version": manifest.parent or "none",
            "stored at": views.place(platform, f"datasets/{manifest.version}"),
        },
    )
