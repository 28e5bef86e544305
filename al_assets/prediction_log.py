"""`prediction_log`: what the deployed models answered, compacted and summed up."""

from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from al_assets import views
from al_resources.platform import Platform

if TYPE_CHECKING:
    from al_serving.batch import BatchSummary

REFUSED_SHOWN = 200  # files named one by one in the metadata


class ScoreConfig(dg.Config):
    """What to score first, with the serving version. Empty: nothing."""

    folder: str = Field("", description="a folder of images on this machine")
    prefix: str = Field("", description="a folder of the blob store, like images")


@dg.asset(
    group_name="active_learning",
    kinds={"delta", "polars"},
    owners=["team:active-learning"],
    freshness_policy=dg.FreshnessPolicy.time_window(fail_window=timedelta(days=7), warn_window=timedelta(days=1)),
    code_version="1",
)
def prediction_log(
    context: dg.AssetExecutionContext, config: ScoreConfig, platform: dg.ResourceParam[Platform]
) -> dg.MaterializeResult:
    """The log that scoring services and batch jobs append to. Its data version is the ingestion watermark.

    With a folder or a prefix in the run's config, its images are scored first.
    """
    batch = score(platform, config, key=context.run.root_run_id or context.run_id, log=context.log.info)
    name = platform.settings.model.name
    version = platform.endpoint.state().serving_version
    merged = platform.predictions.compact()
    watermark = platform.predictions.watermark()
    context.log.info(f"{watermark.rows} predictions logged; compaction: {merged}")
    serving: dict[str, Any] = {}
    if version is not None:
        serving = {
            "predictions of the serving version": platform.predictions.watermark(name, version).rows,
            "eligible images": platform.predictions.count_eligible(name, version),
            **views.log_summary(platform, version),
        }
    return dg.MaterializeResult(
        data_version=dg.DataVersion(watermark.token),
        metadata={
            "dagster/row_count": watermark.rows,
            "newest prediction": str(watermark.last_logged_at or "none yet"),
            "serving version": views.optional_int(version),
            "images in the store": platform.images.count(),
            "rejected images": platform.ledgers.read("rejected_images").height,
            "compaction": dg.MetadataValue.json(merged),
            **({} if batch is None else batch_metadata(batch)),
            **serving,
        },
    )


def score(platform: Platform, config: ScoreConfig, *, key: str, log: Callable[[str], None]) -> "BatchSummary | None":
    """Score what the config names: on the batch endpoint where there is one, else in this process.

    `key` names the batch: asked again, it goes on with what was started on the endpoint.
    """
    if not (config.folder or config.prefix):
        return None
    if config.folder and config.prefix:
        raise dg.Failure("name a folder or a prefix to score, not both", allow_retries=False)
    version = platform.endpoint.state().serving_version
    if version is None:
        raise dg.Failure("no model is deployed yet, so there is nothing to score with", allow_retries=False)
    from al_serving import remote_batch
    from al_serving.batch import NoImages, files_of_folder, files_of_store, score_files
    from al_serving.collector import Collector
    from al_serving.scoring import Scorer

    try:
        if platform.batch is not None and config.folder:
            return remote_batch.score_folder_remotely(
                platform.batch, platform.blobs, Path(config.folder), version, key=key, log=log
            )
        if platform.batch is not None:
            return remote_batch.score_store_remotely(
                platform.batch, platform.blobs, config.prefix, version, key=key, log=log
            )
        files = files_of_folder(Path(config.folder)) if config.folder else files_of_store(platform.blobs, config.prefix)
    except (NoImages, NotADirectoryError) as error:
        raise dg.Failure(str(error), allow_retries=False) from error
    with closing(Collector.of(platform)) as collector:
        scorer = Scorer.of(platform, platform.registry.fetch(version), collector)
        summary = score_files(
            scorer, files, collector, lambda progress: log(f"{progress.done} of {progress.total} files are scored")
        )
        collector.flush()
    return summary


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
