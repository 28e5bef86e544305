"""What has to be true of the assets. The blocking check keeps a leaking dataset back."""

from typing import Any

import dagster as dg

from al_assets import views
from al_assets.deployment import deployment
from al_assets.labeled_dataset import labeled_dataset
from al_assets.loop_names import loop_check
from al_assets.model_checkpoint import model_checkpoint
from al_assets.prediction_log import prediction_log
from al_assets.selected_candidates import selected_candidates
from al_core.records import GateVerdict
from al_loop.deploying import challenger_of_round, decide
from al_loop.judging import evaluation_of
from al_resources.platform import Platform

MOST_SUSPICIOUS = 0.05  # of the labels; people err that often on easy pictures
MINIMUM_HOLDOUT = 100  # below it, one standard error of an accuracy of 0.9 is more than 3 points


@loop_check(asset=prediction_log, description="Half of the recent images or more could be read.")
def images_are_readable(platform: dg.ResourceParam[Platform]) -> dg.AssetCheckResult:
    """Warn where a sender floods the service with files that are no images."""
    rejected = platform.ledgers.read("rejected_images").height
    logged = platform.predictions.watermark().rows
    return dg.AssetCheckResult(
        passed=rejected <= logged,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"rejected images": rejected, "predictions": logged},
    )


@loop_check(asset=selected_candidates, description="No image is chosen in two rounds.")
def chosen_once(context: dg.AssetCheckExecutionContext, platform: dg.ResourceParam[Platform]) -> dg.AssetCheckResult:
    """People must not be asked twice."""
    round_ = int(context.partition_key)
    selections = platform.ledgers.read("selections")
    batch = selections.filter(round=round_)
    again = batch.remove(reason="review").join(selections.remove(round=round_), on="image_id", how="semi")
    return dg.AssetCheckResult(
        passed=again.is_empty() and batch["image_id"].is_unique().all(),
        metadata={"images": batch.height, "chosen before": again.height},
    )


@loop_check(
    asset=labeled_dataset,
    blocking=True,
    description="No holdout image, nor a near-duplicate of one, is in the training data.",
)
def holdout_is_untouched(
    context: dg.AssetCheckExecutionContext, platform: dg.ResourceParam[Platform]
) -> dg.AssetCheckResult:
    """Every number of the loop rests on this."""
    from al_core.dataset import leaks

    dataset = platform.datasets.of_round(int(context.partition_key))
    found = leaks(dataset.rows, platform.settings.selection.near_duplicate_distance)
    return dg.AssetCheckResult(
        passed=not found,
        metadata={"leaks": dg.MetadataValue.json(found[:20]), "dataset version": dataset.manifest.version},
    )


@loop_check(asset=labeled_dataset, description="The holdout is large enough to judge by.")
def holdout_is_large_enough(
    context: dg.AssetCheckExecutionContext, platform: dg.ResourceParam[Platform]
) -> dg.AssetCheckResult:
    """Small holdouts are no error, but people should know how wide the intervals are."""
    images = platform.datasets.of_round(int(context.partition_key)).manifest.counts.get("holdout", 0)
    return dg.AssetCheckResult(
        passed=images >= MINIMUM_HOLDOUT,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"holdout images": images, "wanted": MINIMUM_HOLDOUT},
    )


@loop_check(
    asset=deployment,
    description="The newest challenger took the traffic. A warning where it is worse, still open, or held back.",
)
def challenger_serves(
    context: dg.AssetCheckExecutionContext, platform: dg.ResourceParam[Platform]
) -> dg.AssetCheckResult:
    """That a challenger was refused is no breakdown, but people should see it."""
    newest = challenger_of_round(platform, int(context.partition_key))
    decision = decide(platform, newest)
    verdict = decision.verdicts.get(newest.version)
    return dg.AssetCheckResult(
        passed=decision.serving == newest.version,
        severity=dg.AssetCheckSeverity.WARN,
        description=decision.reason,
        metadata={
            "challenger": newest.version,
            "serving": views.optional_int(decision.serving),
            **({} if verdict is None else verdict_metadata(verdict)),
        },
    )


def verdict_metadata(verdict: GateVerdict) -> dict[str, Any]:
    """What a verdict rests on, for people."""
    return {
        "verdict": verdict.outcome or "none",
        "difference": str(verdict.difference or "no champion"),
        "disagreement": "no champion" if verdict.disagreement is None else f"{verdict.disagreement:.1%}",
        "won, lost, both wrong": f"{verdict.won or 0}, {verdict.lost or 0}, {verdict.tied or 0}",
        "holdout images": verdict.images,
    }


@loop_check(
    asset=model_checkpoint,
    description="The challenger is as often right as it says: the calibration error is one that chance explains.",
)
def confidence_can_be_believed(
    context: dg.AssetCheckExecutionContext, platform: dg.ResourceParam[Platform]
) -> dg.AssetCheckResult:
    """No reason to keep a model back, but selection reads these doubts, and so may people."""
    from al_core.learning.calibration import calibration_error, calibration_limit

    manifest = challenger_of_round(platform, int(context.partition_key))
    evaluation = evaluation_of(platform, manifest)
    if evaluation is None or not evaluation.answers.height:
        return dg.AssetCheckResult(
            passed=False,
            severity=dg.AssetCheckSeverity.WARN,
            description=f"v{manifest.version} answered no holdout image, so nobody knows",
        )
    confidence = evaluation.answers["confidence"].to_numpy()
    error, limit = calibration_error(confidence, evaluation.correct), calibration_limit(confidence)
    return dg.AssetCheckResult(
        passed=error <= limit,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"calibration error {error:.3f} on {len(confidence)} holdout images; {limit:.3f} is explained",
        metadata={
            "calibration error": views.rounded(error),
            "explained by chance": views.rounded(limit),
            "mean confidence": views.rounded(confidence.mean()),
            "accuracy": views.rounded(evaluation.correct.mean()),
            "temperature": views.rounded(manifest.temperature),
        },
    )


@loop_check(asset=deployment, description="The endpoint serves what was deployed last.")
def endpoint_serves_it(
    context: dg.AssetCheckExecutionContext, platform: dg.ResourceParam[Platform]
) -> dg.AssetCheckResult:
    """Ask the endpoint, not the ledger."""
    promoted = platform.ledgers.read("deployments", outcome="promoted")["model_version"]
    wanted = None if promoted.is_empty() else int(promoted[-1])
    state = platform.endpoint.state()
    return dg.AssetCheckResult(
        passed=state.serving_version == wanted,
        metadata={"serving": views.optional_int(state.serving_version), "deployed": views.optional_int(wanted)},
    )


@loop_check(
    asset=labeled_dataset,
    by_round=False,
    description="What people released could be read: no export waits in quarantine for somebody to mend it.",
)
def exports_were_taken(platform: dg.ResourceParam[Platform]) -> dg.AssetCheckResult:
    """A refused export starts no run, so the sensor that refuses it puts this check on record, too."""
    import polars as pl

    from al_loop.status import troubled_exports

    troubled = troubled_exports(platform)
    refused = troubled.filter(status="quarantined")
    metadata: dict[str, Any] = {"refused": refused.height, "rows set aside": int(troubled["set_aside"].sum())}
    if troubled.height:
        metadata["exports"] = views.table(
            troubled.select("path", "status", "set_aside", pl.col("reason").fill_null(""))
        )
    return dg.AssetCheckResult(
        passed=refused.is_empty(),
        severity=dg.AssetCheckSeverity.WARN,
        description="; ".join(f"{path}: {why}" for path, why in refused.select("path", "reason").iter_rows()),
        metadata=metadata,
    )


@loop_check(
    asset=labeled_dataset,
    description="Few labels look wrong to heads on the logged embeddings that were not trained on them.",
)
def labels_look_right(
    context: dg.AssetCheckExecutionContext, platform: dg.ResourceParam[Platform]
) -> dg.AssetCheckResult:
    """Warn with a list and pictures of what is probably wrong; `labeling.review_share` brings it back to people."""
    import polars as pl

    from al_loop.reviewing import reviewed, suspicious_labels

    found = suspicious_labels(platform)
    reviews = reviewed(platform)
    worst = found.ranking.head(views.SUSPICIOUS_SHOWN)
    metadata: dict[str, dg.MetadataValue] = {
        "suspicious labels": dg.MetadataValue.int(found.suspicious),
        "labels looked at": dg.MetadataValue.int(found.looked_at),
        "labels without a logged embedding": dg.MetadataValue.int(found.not_looked_at),
        "reviews": dg.MetadataValue.text(f"{int(reviews['wrong'].sum())} of {reviews.height} labels were wrong"),
    }
    if found.suspicious:
        metadata["most suspicious"] = views.table(worst.drop("image_uri").with_columns(pl.col("score").round(3)))
        looked_at = platform.datasets.latest()  # the labels of all rounds; a check by itself has no round of its own
        assert looked_at is not None
        metadata["pictures"] = views.suspicious_sheet(platform, looked_at.manifest.round, worst)
    return dg.AssetCheckResult(
        passed=found.suspicious <= MOST_SUSPICIOUS * found.looked_at,
        severity=dg.AssetCheckSeverity.WARN,
        description="" if found.looked_at else "too few labeled images have a logged embedding to say anything",
        metadata=metadata,
    )


CHECKS = [
    images_are_readable,
    chosen_once,
    holdout_is_untouched,
    holdout_is_large_enough,
    exports_were_taken,
    labels_look_right,
    challenger_serves,
    confidence_can_be_believed,
    endpoint_serves_it,
]
