"""What a batch was worth, in figures for people: how it differs from a random one, and what its labels corrected."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import polars as pl

if TYPE_CHECKING:
    from al_core.dataset import Dataset
    from al_core.judging.evaluation import Evaluation
    from al_resources.platform import Platform

RANDOM_IMAGES = 1_000  # of the log, that a batch is compared with
LABELS_LOOKED_AT = 2_000  # the newest: what a label corrects changes with the model
BACKLOG_COUNTED = 5_000  # images of the store without a prediction; beyond, nobody needs the exact number
_ALL_TIMES = datetime(1970, 1, 1, tzinfo=UTC)


def against_random(platform: Platform, chosen: pl.DataFrame) -> pl.DataFrame:
    """The strategy's picks beside a uniform sample of the same version's traffic: columns what, batch, random.

    Empty where no strategy chose, or the version that chose has answered no traffic.
    """
    nothing = pl.DataFrame(schema={"what": pl.String(), "batch": pl.String(), "random": pl.String()})
    picks = chosen.filter(pl.col("reason") == "strategy", pl.col("prediction_id").is_not_null())
    if picks.is_empty():
        return nothing
    columns = ["predicted_label", "confidence", "margin"]
    found = platform.predictions.rows_of(picks["image_id"].to_list(), ["prediction_id", *columns])
    batch = pl.DataFrame(found).filter(pl.col("prediction_id").is_in(picks["prediction_id"].implode()))
    name, version = platform.settings.model.name, int(picks["model_version"][0])
    until = datetime.now(UTC) + timedelta(days=1)
    sample = platform.predictions.sample(name, version, _ALL_TIMES, until, RANDOM_IMAGES, columns, seed=0)
    random = pl.DataFrame(sample)
    if batch.is_empty() or random.is_empty():
        return nothing
    both = [_looks(rows) for rows in (batch, random)]
    rows = [{"what": what, "batch": both[0][what], "random": both[1][what]} for what in both[0]]
    return pl.DataFrame(rows, schema=nothing.schema)


def _looks(rows: pl.DataFrame) -> dict[str, str]:
    mix = rows["predicted_label"].value_counts().sort("count", "predicted_label", descending=[True, False])
    confidence, margin = (float(rows.select(pl.col(name).median()).item()) for name in ("confidence", "margin"))
    return {
        "images": str(rows.height),
        "confidence, median": f"{confidence:.2f}",
        "margin between the two likeliest classes, median": f"{margin:.2f}",
        "classes predicted": str(mix.height),
        "most common prediction": f"{mix['predicted_label'][0]}, {mix['count'][0] / rows.height:.0%}",
    }


def corrections(platform: Platform, dataset: Dataset) -> pl.DataFrame:
    """How many labels contradict the model that asked for them, by reason: reason, labels, corrected, share.

    A strategy is worth its labels where they correct more than those of the control slice, which is random.
    """
    asked = platform.ledgers.read("selections").filter(pl.col("prediction_id").is_not_null())
    labels = dataset.rows.select("image_id", "label")
    labeled = asked.join(labels, on="image_id").sort("selected_at").tail(LABELS_LOOKED_AT)
    columns = ["prediction_id", "predicted_label"]
    logged = pl.DataFrame(platform.predictions.rows_of(labeled["image_id"].to_list(), columns))
    compared = labeled.join(logged.unique("prediction_id"), on="prediction_id")
    return (
        compared.group_by("reason")
        .agg(pl.len().alias("labels"), (pl.col("label") != pl.col("predicted_label")).sum().alias("corrected"))
        .with_columns((pl.col("corrected") / pl.col("labels")).round(3).alias("share"))
        .sort("reason")
    )


def changes(platform: Platform, dataset: Dataset) -> pl.DataFrame:
    """What a dataset version has that its parent had not, by class: label, new, corrected, taken_back."""
    parent = dataset.manifest.parent
    columns = ["image_id", "label"]
    before = dataset.rows.select(columns).head(0) if parent is None else platform.datasets.of_version(parent).rows
    both = dataset.rows.select(columns).join(before.select(columns), on="image_id", how="full", coalesce=True)
    was, now = pl.col("label_right"), pl.col("label")
    return (
        both.with_columns(label=now.fill_null(was), new=was.is_null(), gone=now.is_null(), other=(now != was))
        .group_by("label")
        .agg(
            pl.col("new").sum(),
            pl.col("other").fill_null(False).sum().alias("corrected"),
            pl.col("gone").sum().alias("taken_back"),
        )
        .filter(pl.col("new") + pl.col("corrected") + pl.col("taken_back") > 0)
        .sort("label")
    )


def against_parent(platform: Platform, version: int | None, evaluation: Evaluation | None) -> str:
    """On the holdout images that both answered: which of the two is right more often, as a sentence."""
    from al_loop.judging import evaluation_of

    if version is None or evaluation is None:
        return "it has no parent" if version is None else "it was not judged"
    if version not in platform.registry.versions():
        return f"v{version} is not in the registry any more"
    before = evaluation_of(platform, platform.registry.manifest(version))
    if before is None:
        return f"v{version} was not judged"
    both = _right(evaluation).join(_right(before), on="image_id", suffix="_before")
    won = both.filter(pl.col("right") & ~pl.col("right_before")).height
    lost = both.filter(~pl.col("right") & pl.col("right_before")).height
    return f"of {both.height} holdout images {won} are right that v{version} had wrong, {lost} the other way round"


def _right(evaluation: Evaluation) -> pl.DataFrame:
    return evaluation.answers.select("image_id", right=pl.col("label") == pl.col("predicted"))


def backlog(platform: Platform, version: int) -> str:
    """How many images of the store wait for a first prediction of the version that serves."""
    from itertools import islice

    from al_loop.scoring import unscored

    count = sum(1 for _ in islice(unscored(platform, version), BACKLOG_COUNTED + 1))
    return f"more than {BACKLOG_COUNTED}" if count > BACKLOG_COUNTED else str(count)


def logged_since(platform: Platform, days: float) -> int:
    """Predictions of the last days, of all versions, rescored ones left out."""
    from al_loop.questions import Window, ask

    now = datetime.now(UTC)
    window = Window(platform.settings.model.name, now - timedelta(days=days), now + timedelta(days=1))
    return int(ask(platform.predictions, "volume", window)["predictions"].sum())


def how_to_go_back(platform: Platform) -> dict[str, Any]:
    """Since when the serving version serves, and what to type to let the one before it serve again."""
    promoted = platform.ledgers.read("deployments", outcome="promoted")
    serving = platform.endpoint.state().serving_version
    own = promoted.filter(pl.col("model_version") == serving) if serving is not None else promoted.head(0)
    if own.is_empty():
        return {}
    before = own["previous_version"].drop_nulls()
    back = "no version served before it"
    if len(before):
        back = f'al rollback --to {before[-1]} --reason "WHY", or the job rollback with to: {before[-1]}'
    return {"serving since": f"{own['deployed_at'][-1]:%Y-%m-%d %H:%M} UTC", "to go back": back}
