"""`prediction_log`: what the deployed models answered, compacted and summed up."""

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from al_assets import columns, views
from al_assets.failures import told_once
from al_assets.loop_names import loop_asset
from al_loop.embedding import fill
from al_loop.scoring import permitted_folder, score, score_pool
from al_loop.waiting import standing
from al_resources.platform import Platform

if TYPE_CHECKING:
    from datetime import datetime

    from al_serving.batch import BatchSummary

WAITS_FOR = "the loop waits for"
REFUSED_SHOWN = 200  # files named one by one in the metadata


class ScoreConfig(dg.Config):
    """What to score first, with the serving version. Empty: nothing."""

    folder: str = Field("", description="a folder of images on this machine, in one of serving.folders")
    prefix: str = Field("", description="a folder of the blob store, like images")


@loop_asset(
    by_round=False,
    kinds={"delta", "polars"},
    columns=columns.schema(columns.PREDICTIONS),
    freshness_policy=dg.FreshnessPolicy.time_window(fail_window=timedelta(days=7), warn_window=timedelta(days=1)),
    automation_condition=dg.AutomationCondition.on_cron("@hourly"),
    code_version="1",
)
def prediction_log(
    context: dg.AssetExecutionContext, config: ScoreConfig, platform: dg.ResourceParam[Platform]
) -> dg.MaterializeResult:
    """What the deployed models answered: one row a prediction, with the doubts that selection orders by.

    **Is there traffic, does it look as it did, and what waits?** The first line says what the whole loop waits for and
    what ends it. Volume and backlog are figures over time; the checks say whether the traffic has drifted and whether
    the serving version is still right on it.

    Scoring services and batch jobs append to it; this asset scores what of the image store the serving version has not
    seen (`selection.pool_scoring_limit` a run; the next one goes on), embeds what a frozen encoder has not seen, merges
    small files, and sums up. With `folder` or
    `prefix` in the launchpad those images are scored first. Not partitioned: its data version is the watermark.
    """
    from al_resources.delta_tables import one_look
    from al_serving.handed_over import deliver

    with told_once():
        batch = score(
            platform,
            folder=permitted_folder(config.folder, platform.settings.serving.folders) if config.folder else None,
            prefix=config.prefix,
            key=context.run.root_run_id or context.run_id,
            log=context.log.info,
        )
        pool = score_pool(platform, log=context.log.info)
        embedded = fill(platform, log=context.log.info)
    handed_over = deliver(platform)
    if handed_over.segments:
        context.log.info(f"segments that scoring services left in the blob store: {handed_over}")
    merged = {"predictions": platform.predictions.compact(), "embeddings": _compacted(platform)}
    context.log.info(f"compaction: {merged}")
    with one_look():  # from here on it only reads
        watermark = platform.predictions.watermark()
        told = _told(context, platform)
    return dg.MaterializeResult(
        data_version=dg.DataVersion(watermark.token),
        metadata={
            **told,
            "images scored just now": 0 if pool is None else pool.scored,
            **({"images embedded just now": embedded} if platform.settings.training.frozen else {}),
            **({"segments from the blob store": handed_over.segments} if handed_over.segments else {}),
            **({} if batch is None else batch_metadata(batch)),
            "compaction": dg.MetadataValue.json(merged),
        },
    )


def _told(context: dg.AssetExecutionContext, platform: Platform) -> dict[str, Any]:
    """What the log and the loop say now, the important first."""
    from al_loop.batch_facts import logged_since

    version, watermark = platform.endpoint.state().serving_version, platform.predictions.watermark()
    return {
        WAITS_FOR: _waits_for(context, platform),
        "serving version": views.optional_int(version),
        "dagster/row_count": watermark.rows,
        "predictions of the last 24 hours": logged_since(platform, 1),
        "newest prediction": _moment(watermark.last_logged_at),
        **({} if version is None else _of_the_serving_version(platform, version)),
        "images in the store": platform.images.count(),
        "rejected images": platform.ledgers.read("rejected_images").height,
    }


def _of_the_serving_version(platform: Platform, version: int) -> dict[str, Any]:
    from al_loop.batch_facts import backlog
    from al_loop.monitoring import drift_on_record

    name, teaching = platform.settings.model.name, platform.settings.holdout.teaching
    return {
        "drift": drift_on_record(platform).sentence,
        "images to choose from": platform.predictions.count_eligible(name, version, teaching),
        "images that wait for a prediction": backlog(platform, version),
        "predictions of the serving version": platform.predictions.watermark(name, version).rows,
        **views.log_summary(platform, version),
    }


def _compacted(platform: Platform) -> dict[str, int]:
    """The table of embeddings tidied up, and what the serving version's rows of the log refer to kept."""
    version = platform.endpoint.state().serving_version
    encoder = None if version is None else platform.encoder_of(platform.settings.model.name, version)
    return platform.embeddings.compact(keep=[] if encoder is None else [encoder])


def _moment(at: "datetime | None") -> str:
    return "none yet" if at is None else f"{at:%Y-%m-%d %H:%M:%S} UTC"


def _waits_for(context: dg.AssetExecutionContext, platform: Platform) -> str:
    """The one line that says where the loop stands; a run that selects ends the waiting for a round by itself."""
    waiting = standing(platform)
    round_ = context.run.tags.get("dagster/partition")
    if waiting.whom == "selection" and round_:
        return f"nothing: this run selects round {int(round_)}" if round_.isdigit() else waiting.sentence
    return waiting.sentence


def batch_metadata(batch: "BatchSummary") -> dict[str, Any]:
    """What the UI shows of a batch: how much was scored, and which file was not, with the reason."""
    import polars as pl

    refused = list(batch.refused.items())
    rows = pl.DataFrame(refused[:REFUSED_SHOWN], schema=["file", "reason"], orient="row")
    return {
        "files to score": batch.files,
        "images scored": batch.scored,
        "names of the same pictures": len(batch.duplicates),
        "files refused": len(refused),
        **({"refused": views.table(rows)} if refused else {}),
    }
