"""How the loop stands, told from its records alone."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import polars as pl

from al_core.answers import answered, standing

if TYPE_CHECKING:
    from al_core.records import ModelManifest
    from al_resources.platform import Platform


def progress(platform: Platform) -> dict[str, Any]:
    """Everything `al status` shows, as plain JSON values."""
    from al_loop.annotators import labeling_report

    state = platform.endpoint.state()
    watermark = platform.predictions.watermark()
    exports = platform.ledgers.read("exports")
    version = state.serving_version
    troubled = troubled_exports(platform)
    quarantined = troubled.filter(status="quarantined")
    counted = exports.filter(pl.col("status") != "quarantined")["status"].value_counts().sort("status")
    return {
        "waits_for": waits_for(platform),
        "profile": platform.settings.profile,
        "home": str(platform.settings.home),
        "images": platform.images.count(),
        "rejected_images": platform.ledgers.read("rejected_images").height,
        "predictions": watermark.rows,
        "failed_ingestions": platform.predictions.failures(),
        "newest_prediction": str(watermark.last_logged_at) if watermark.last_logged_at else None,
        "eligible_images": 0
        if version is None
        else platform.predictions.count_eligible(
            platform.settings.model.name, version, platform.settings.holdout.teaching
        ),
        "labels": standing(platform.ledgers.read("labels"))["image_id"].n_unique(),
        "waiting_for_labels": platform.unlabeled_candidates(),
        "exports": dict(counted.iter_rows()) | ({"quarantined": quarantined.height} if quarantined.height else {}),
        "events": platform.events.counts() if platform.profile.hears_events else None,
        "unmerged_exports": [blob.path for blob in platform.inbox.unmerged()],
        "unfit_exports": platform.inbox.unfit(),
        "gone_exports": exports.filter(pl.col("path").is_unique(), status="gone")["path"].to_list(),
        "quarantined": quarantined.select("path", "reason").to_dicts(),
        "set_aside": troubled.filter(pl.col("set_aside") > 0).select("path", "set_aside", "reason").to_dicts(),
        "champion": version,
        "deployments": state.deployments,
        "traffic": state.traffic,
        "labeling": labeling(platform),
        "people": labeling_report(platform),
        "monitoring": monitored(platform),
        "rounds": rounds(platform),
    }


def monitored(platform: Platform) -> dict[str, Any]:
    """What looks at the traffic have seen, and how often the version that serves is right on it."""
    from al_loop.monitoring import accuracy, drift_on_record

    seen = drift_on_record(platform)
    right = accuracy(platform, seen.version)  # of those before it, nothing is told here
    newest = right.newest
    return {
        "drift": {
            "alarm": seen.alarm,
            "sentence": seen.sentence,
            "quiet_days": seen.quiet_days,
            "look": None if seen.look is None else seen.look.model_dump(mode="json"),
        },
        "accuracy": {
            "surely_lower": right.surely_lower,
            "sentence": right.sentence,
            "labels": 0 if newest is None else newest.labels,
            "on_traffic": None if newest is None else newest.accuracy.model_dump(),
            "without_labels": None if newest is None else newest.without_labels,
            "when_judged": None if right.when_judged is None else right.when_judged.model_dump(),
        },
    }


def waits_for(platform: Platform) -> dict[str, str]:
    """Whom the loop waits for, and what ends it."""
    from al_loop.waiting import standing

    waiting = standing(platform)
    return {"whom": waiting.whom, "what": waiting.what, "ends": waiting.ends, "sentence": waiting.sentence}


def troubled_exports(platform: Platform) -> pl.DataFrame:
    """The newest record of each export that still lies in the inbox as it was read: what was mended is history."""
    exports = platform.ledgers.read("exports")
    troubled = exports.unique("path", keep="last", maintain_order=True).filter(
        (pl.col("status") == "quarantined") | (pl.col("set_aside") > 0)
    )
    there = []
    for path, etag in troubled.select("path", "etag").iter_rows():
        try:
            there.append(platform.blobs.info(path).etag == etag)
        except (FileNotFoundError, ValueError):
            there.append(False)
    return troubled.filter(pl.Series(there, dtype=pl.Boolean))


def labeling(platform: Platform) -> dict[str, Any] | None:
    """What the labeling tool says of the newest staged round; None before the first, a reason where it is silent."""
    from al_resources.labeling import LabelingError
    from al_resources.labeling.staging import is_staged

    newest = platform.ledgers.read("selections")["round"].max()
    if newest is None or not is_staged(platform.blobs, newest):  # type: ignore[arg-type]
        return None
    try:
        return platform.labeling.status(newest).model_dump(mode="json")  # type: ignore[arg-type]
    except LabelingError as error:
        return {"error": str(error)}


def rounds(platform: Platform) -> list[dict[str, Any]]:
    """One row per round: what was selected and labeled, which model came of it, how good, promoted or refused."""
    selections = platform.ledgers.read("selections")
    labels = platform.ledgers.read("labels")
    labeled = pl.DataFrame({"image_id": answered(labels)}, schema={"image_id": pl.String})
    paid = selections.join(labeled, on="image_id", how="semi")
    done = paid.group_by("round").len("labeled")
    chosen = pl.col("reason").is_in(["strategy", "seed"])
    selected = (
        selections.group_by("round")
        .agg(pl.len().alias("selected"), pl.col("strategy").filter(chosen).first())
        .join(done, on="round", how="left")
        .with_columns(pl.col("labeled").fill_null(0))
        .sort("round")
    )
    reasons = {number: reasons_of(rows) for (number,), rows in paid.group_by("round")}
    models = _model_of_each_round(platform)
    deployments = platform.ledgers.read("deployments", outcome="promoted")
    promoted, failed, verdicts = set(deployments["model_version"]), _failed_trainings(platform), _verdicts(platform)
    rows = []
    for row in selected.to_dicts():
        number, manifest = row["round"], models.get(row["round"])
        rows.append(
            row
            | {"paid": reasons.get(number, {})}
            | _model_columns(manifest, promoted, failed.get(number), verdicts)
            | {"serves": None}
        )
    _tell_who_serves(rows, platform)
    return rows


def reasons_of(selected: pl.DataFrame) -> dict[str, int]:
    """How many of the selections' rows there are for each reason."""
    return dict(selected["reason"].value_counts().sort("reason").iter_rows())


def what_it_cost(platform: Platform) -> tuple[dict[str, int], ModelManifest | None]:
    """Labels that people gave, by the reason they were asked for; and who serves in return, if the registry has it."""
    labeled = answered(platform.ledgers.read("labels"))
    paid = platform.ledgers.read("selections").filter(pl.col("image_id").is_in(labeled.implode()))
    serving = platform.endpoint.state().serving_version
    known = serving in platform.registry.versions()
    return reasons_of(paid), platform.registry.manifest(serving) if serving is not None and known else None


def _verdicts(platform: Platform) -> dict[int, str]:
    """The last verdict on each version that somebody looked at: better, worse or open."""
    rows = platform.ledgers.read("decisions").filter(pl.col("verdict").is_not_null())
    return {row["model_version"]: json.loads(row["verdict"])["outcome"] for row in rows.to_dicts()}


def _tell_who_serves(rows: list[dict[str, Any]], platform: Platform) -> None:
    """Fill in, round by round, which version served after it; a deployment belongs to the round that decided it."""
    decided = platform.ledgers.read("decisions").filter(pl.col("action").is_in(["promote", "rollback"]))
    serves = {row["round"]: row["model_version"] for row in decided.to_dicts()}
    for manifest_round in platform.ledgers.read("deployments", outcome="promoted").to_dicts():
        serves.setdefault(manifest_round["round"], manifest_round["model_version"])  # of before decisions were recorded
    now = None
    for row in rows:
        now = serves.get(row["round"], now)
        row["serves"] = now


def _failed_trainings(platform: Platform) -> dict[int, dict[str, Any]]:
    """The latest failure of each round's training and deployment."""
    failures = platform.ledgers.read("failures").filter(pl.col("round").is_not_null(), job="training_deployment")
    return {row["round"]: {"step": row["step"], "reason": row["reason"]} for row in failures.to_dicts()}


def _model_of_each_round(platform: Platform) -> dict[int, ModelManifest]:
    made = [platform.registry.manifest(version) for version in platform.registry.versions()]
    return {manifest.round: manifest for manifest in made if manifest.round is not None}


def _model_columns(
    manifest: ModelManifest | None, promoted: set[int], failed: dict[str, Any] | None, verdicts: dict[int, str]
) -> dict[str, Any]:
    if manifest is None:
        return {
            "model_version": None,
            "training_job": None,
            "training_labels": None,
            "accuracy": None,
            "outcome": "failed" if failed else "waiting",
            "gate": None,
            "failure": failed,
        }
    accuracy = manifest.metrics.get("accuracy")
    if manifest.version in promoted:
        outcome = "promoted"
    elif manifest.gate is not None and manifest.gate.outcome is None and not manifest.gate.passed:
        outcome = "refused"  # before there were duels
    else:
        outcome = verdicts.get(manifest.version, "trained")
        if outcome == "better":  # and does not serve: somebody holds the endpoint, or a newer one was better, too
            outcome = "passed" if max(promoted, default=0) > manifest.version else "held"
    return {
        "model_version": manifest.version,
        "training_job": manifest.training_log.get("azure_ml_job"),
        "training_labels": manifest.labels,
        "accuracy": accuracy.model_dump() if accuracy else None,
        "outcome": outcome,
        "gate": manifest.gate.reason if manifest.gate else None,
        "failure": failed if outcome == "trained" else None,  # trained, and not deployed
    }
