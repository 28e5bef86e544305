"""`prediction_log`: what the deployed models answered, compacted and summed up."""

from datetime import timedelta
from typing import Any

import dagster as dg

from al_assets import views
from al_resources.platform import Platform


@dg.asset(
    group_name="active_learning",
    kinds={"delta", "polars"},
    owners=["team:active-learning"],
    freshness_policy=dg.FreshnessPolicy.time_window(fail_window=timedelta(days=7), warn_window=timedelta(days=1)),
    code_version="1",
)
def prediction_log(context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]) -> dg.MaterializeResult:
    """The log that scoring services and batch jobs append to. Its data version is the ingestion watermark."""
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
            **serving,
        },
    )
