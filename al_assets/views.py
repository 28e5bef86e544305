"""What people look at in the UI: pictures, curves and small tables as Dagster metadata."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.request import url2pathname

import dagster as dg

from al_core.shown_text import harmless, plain_in_markdown

if TYPE_CHECKING:
    import polars as pl

    from al_core.dataset import Dataset
    from al_core.judging.evaluation import Evaluation
    from al_core.records import ModelManifest
    from al_loop.monitoring import AccuracyState, DriftLook
    from al_resources.platform import Platform

ALL_TIMES = datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)
SUSPICIOUS_SHOWN = 24  # labels on the check
SHEET_IMAGES = 60  # the inline sheet stays under the UI's comfort of 200 KB; the stored one has them all
PAGES_VARIABLE = (
    "DAGSTER_LOOP_FILES"  # where the web server hands out reports and pictures; unset where none of ours does
)


def optional_int(value: int | None) -> dg.MetadataValue:
    """A number where there is one, a word where there is none."""
    return dg.MetadataValue.text("none") if value is None else dg.MetadataValue.int(int(value))


def table(frame: pl.DataFrame) -> dg.MetadataValue:
    """A small frame as a table in the UI, its text made harmless."""
    import polars as pl

    schema = None  # Dagster's own reading of the rows, where there are some
    if frame.is_empty():
        schema = dg.TableSchema([dg.TableColumn(name) for name in frame.columns])
    rows = frame.with_columns(pl.col(pl.String).map_elements(harmless, pl.String)).to_dicts()
    return dg.MetadataValue.table([dg.TableRecord(row) for row in rows], schema)


def rounded(value: float, digits: int = 4) -> dg.MetadataValue:
    """A figure without the digits that mean nothing; the UI draws it over the rounds."""
    return dg.MetadataValue.float(round(float(value), digits))


def picture(platform: Platform, name: str, png: bytes, caption: str) -> dg.MetadataValue:
    """A PNG that the UI shows in place, and opens at a click: it lies in `reports/` under that name.

    Where the web server is none of ours, the picture itself stands in the event, behind [Show Markdown].
    """
    pages = os.environ.get(PAGES_VARIABLE)
    if not pages:
        return dg.MetadataValue.md(f"![{caption}](data:image/png;base64,{base64.b64encode(png).decode()})")
    path = f"reports/{name}.png"
    platform.blobs.write(path, png)
    link = f"{pages}/{path}?{hashlib.blake2b(png, digest_size=6).hexdigest()}"  # another picture is not the cached one
    return dg.MetadataValue.md(f"[![{plain_in_markdown(caption)}]({link})]({link})")


def report(platform: Platform, name: str, page: Path) -> dg.MetadataValue:
    """A page that is whole in itself: a link where the web server hands it out, else the path to it."""
    pages = os.environ.get(PAGES_VARIABLE)
    if not pages:
        return dg.MetadataValue.path(str(page))
    platform.blobs.write(f"reports/{name}.html", page.read_bytes())
    return dg.MetadataValue.url(f"{pages}/reports/{name}.html")


def embedding_map(platform: Platform, round_: int, dataset: Dataset) -> dict[str, dg.MetadataValue]:
    """A page on which labeled and waiting images lie by their embeddings; nothing before a model serves."""
    from al_core.embedding_map import drawn, page
    from al_loop.embedding_map import MAP, map_of

    points = map_of(platform, dataset)
    if points is None:
        return {}
    labeled = sum(label is not None for label in points.labels)
    caption = f"{labeled:,} labeled and {len(points.labels) - labeled:,} waiting images, alike where they lie close."
    path = f"reports/{of_round(round_, MAP)}"
    platform.blobs.write(path, page(f"Round {round_}: embedding map", drawn(points, "map", caption)).encode())
    pages = os.environ.get(PAGES_VARIABLE)
    return {"embedding map": dg.MetadataValue.url(f"{pages}/{path}") if pages else place(platform, path)}


def of_round(round_: int, name: str) -> str:
    """What a picture of a round is called."""
    return f"{round_:04d}/{name}"


def of_today(name: str) -> str:
    """What a picture of the log is called: a day has one."""
    return f"prediction_log/{datetime.now(UTC):%Y-%m-%d}/{name}"


def contact_sheet(platform: Platform, round_: int, chosen: pl.DataFrame) -> dg.MetadataValue:
    """The chosen images with score and reason; a sheet with all of them lies beside the staged round."""
    png = contact_sheet_png(platform, chosen.head(SHEET_IMAGES))
    name = of_round(round_, "contact_sheet")
    platform.blobs.write(f"reports/{name}.png", png)
    return picture(platform, name, png, f"the {min(chosen.height, SHEET_IMAGES)} most wanted of {chosen.height} images")


def contact_sheet_png(platform: Platform, chosen: pl.DataFrame) -> bytes:
    """A grid of thumbnails, the most wanted first; unreadable ones are left out."""
    from al_core.contact_sheet import SheetItem
    from al_core.contact_sheet import contact_sheet as draw
    from al_core.images import BadImage, decode_stored_image

    items = []
    for row in chosen.iter_rows(named=True):
        try:
            image = decode_stored_image(platform.images.read(row["image_uri"]), name=row["image_uri"])
        except (BadImage, FileNotFoundError):
            continue
        score = "" if row["score"] is None else f" {row['score']:.3f}"
        items.append(SheetItem(image, (f"#{row['rank']}{score}", row["reason"])))
    return draw(items)


def suspicious_sheet(platform: Platform, round_: int, worst: pl.DataFrame) -> dg.MetadataValue:
    """Pictures whose label is probably wrong, with the label and what it may be instead."""
    return labeled_sheet(platform, of_round(round_, "suspicious_sheet"), worst, "most suspicious labels")


def worst_images(
    platform: Platform, round_: int, evaluation: Evaluation | None, dataset: Dataset
) -> dict[str, dg.MetadataValue]:
    """The holdout images that the version is wrong about and surest of, with label and answer."""
    import polars as pl

    if evaluation is None:
        return {}
    wrong = evaluation.answers.filter(pl.col("label") != pl.col("predicted")).sort("confidence", descending=True)
    rows = dataset.rows.select("image_id", image_uri="image_url")
    shown = wrong.head(SUSPICIOUS_SHOWN).join(rows, on="image_id", maintain_order="left")
    if shown.is_empty():
        return {}
    return {"worst images": labeled_sheet(platform, of_round(round_, "worst_sheet"), shown, "surest mistakes")}


def labeled_sheet(platform: Platform, name: str, rows: pl.DataFrame, what: str) -> dg.MetadataValue:
    """A grid of pictures with `label`, and what a model says, `predicted`, below."""
    from al_core.contact_sheet import SheetItem
    from al_core.contact_sheet import contact_sheet as draw
    from al_core.images import BadImage, decode_stored_image

    items = []
    for row in rows.iter_rows(named=True):
        try:
            image = decode_stored_image(platform.images.read(row["image_uri"]), name=row["image_uri"])
        except (BadImage, FileNotFoundError):
            continue
        items.append(SheetItem(image, (row["label"], f"{row['predicted']}?")))
    if not items:
        return dg.MetadataValue.text("none of them can be read")
    return picture(platform, name, draw(items), f"the {len(items)} {what}")


def drift_figures(look: DriftLook) -> dict[str, Any]:
    """What a look at the traffic has seen; only the first line can raise an alarm."""
    import polars as pl

    figures: dict[str, Any] = {
        "p-value": f"{look.p_value:.2g}, alarm at {look.level:.2g}",
        "told apart from the reference": f"{look.auc:.3f} of pairs (0.5: not at all), by {look.features}",
        "images compared": f"{look.images} of {look.since:%Y-%m-%d %H:%M} to {look.newest:%Y-%m-%d %H:%M} with "
        f"{look.reference_images}" + (", reserved ones alone" if look.reserved_only else ""),
        "class mix": table(pl.DataFrame(look.class_mix)),
        "stability index of the class mix": rounded(look.class_psi),
        "chi-square of the class mix, p of this look": f"{look.class_p_value:.2g}",
        "stability index of the confidence": rounded(look.confidence_psi),
        "predictions a day": "{:.0f}, then {:.0f}".format(*look.predictions_per_day),
    }
    if look.latency_ms is not None:
        figures["median latency, ms"] = "{:.1f}, then {:.1f}".format(*look.latency_ms)
    if look.left_out:
        figures["images left out"] = dg.MetadataValue.json(look.left_out)
    return figures


def drift_plots(platform: Platform, version: int, look: DriftLook) -> dict[str, dg.MetadataValue]:
    """Evidence look by look, and confidences then and now."""
    from al_assets.charts import evidence_of_drift, two_histograms
    from al_loop.monitoring import looks_of

    evidence = evidence_of_drift(looks_of(platform, version))
    histograms = two_histograms(*look.confidences, "confidence")
    return {
        "evidence, look by look": picture(platform, of_today("drift"), evidence, "evidence of drift"),
        "confidence": picture(platform, of_today("then_and_now"), histograms, "confidence, reference and window"),
    }


def different_images(platform: Platform, version: int) -> dict[str, dg.MetadataValue]:
    """The images that differ most, as a table and as pictures."""
    import polars as pl

    from al_loop.monitoring import different_images as found

    named = found(platform, version).head(SUSPICIOUS_SHOWN)
    shown = named.select("image_id", "predicted_label", pl.col("confidence", "score").cast(pl.Float64).round(3))
    facts = {"images that differ most": table(shown)}
    png = different_sheet_png(platform, named)
    if png is None:
        return facts
    caption = f"the {named.height} images that differ most"
    return facts | {"pictures": picture(platform, of_today("different_sheet"), png, caption)}


def different_sheet_png(platform: Platform, named: pl.DataFrame) -> bytes | None:
    """A grid of the images that differ, with what was answered; None where none of them can be read."""
    from al_core.contact_sheet import SheetItem
    from al_core.contact_sheet import contact_sheet as draw
    from al_core.images import BadImage, decode_stored_image

    items = []
    for row in named.iter_rows(named=True):
        try:
            image = decode_stored_image(platform.images.read(row["image_uri"]), name=row["image_uri"])
        except (BadImage, FileNotFoundError):
            continue
        items.append(
            SheetItem(image, (f"{row['predicted_label']} {row['confidence']:.2f}", f"odds {row['score']:+.1f}"))
        )
    return draw(items) if items else None


def accuracy_plot(platform: Platform, state: AccuracyState) -> dg.MetadataValue:
    """Accuracy on the traffic over rounds, with its sequence, and beside it the guess without labels."""
    from al_assets.charts import accuracy_over_time

    png = accuracy_over_time(state.points)
    return picture(platform, of_today("accuracy"), png, "accuracy on the traffic over rounds")


def about_people(platform: Platform) -> dict[str, dg.MetadataValue]:
    """What a label takes, by class, annotator and mode, as medians, and which pairs agree least."""
    import polars as pl

    from al_loop.annotators import labeling_report

    report = labeling_report(platform)
    found = {}
    for name, rows in (("class", report["classes"]), ("annotator", report["annotators"]), ("mode", report["modes"])):
        if any(row["seconds"] is not None for row in rows):
            found[f"seconds per label by {name}"] = table(pl.DataFrame(rows))
    if report["pairs"]:
        found["agreement by pair of annotators"] = table(pl.DataFrame(report["pairs"]))
    return found


def place(platform: Platform, path: str) -> dg.MetadataValue:
    """Where something lies: a link where browsers may open it, else the path, to be copied."""
    address = platform.blobs.url(path)
    if address.startswith("file://"):
        return dg.MetadataValue.path(url2pathname(address.removeprefix("file://")))
    return dg.MetadataValue.url(address)


def labeling_page(platform: Platform, round_: int) -> dict[str, dg.MetadataValue]:
    """Where people label the round; nothing where known labels answer in their place."""
    if platform.settings.labeling.project == "oracle":
        return {}
    return {"label it here": dg.MetadataValue.url(f"{platform.settings.labeling_page.url}/?round={round_}")}


def what_labels_bought(platform: Platform) -> dict[str, dg.MetadataValue]:
    """Labels paid so far, and the accuracy of who serves: numbers that the UI draws over the rounds."""
    from al_loop.status import what_it_cost

    paid, serving = what_it_cost(platform)
    accuracy = None if serving is None else serving.metrics.get("accuracy")
    total = {"labels paid": dg.MetadataValue.int(sum(paid.values())), "labels paid for": dg.MetadataValue.json(paid)}
    return total | ({} if accuracy is None else {"deployed accuracy": rounded(accuracy.value)})


def labeling_progress(platform: Platform) -> dict[str, dg.MetadataValue]:
    """What the labeling tool says of its progress, where it counts by itself; why not, where it cannot be asked."""
    from al_loop.status import labeling

    found = labeling(platform)
    if found is None or not (found.get("project") or "error" in found):
        return {}
    return {"labeling project": dg.MetadataValue.json(found)}


def why_chosen(chosen: pl.DataFrame) -> str:
    """What the strategies of a batch want, each in a sentence."""
    from al_core.strategies.registry import STRATEGIES

    told = []
    for name in chosen["strategy"].unique().drop_nulls().sort():
        known = STRATEGIES[name].__doc__ if name in STRATEGIES else ""
        told.append(f"{name}: {(known or 'no strategy of this version').strip().splitlines()[0]}")
    return " | ".join(told)


def score_summary(chosen: pl.DataFrame) -> pl.DataFrame:
    """How many images, and the smallest, mean and largest score, per reason."""
    import polars as pl

    return (
        chosen.group_by("reason")
        .agg(
            pl.len().alias("images"),
            pl.col("score").min().round(3).alias("smallest"),
            pl.col("score").mean().round(3).alias("mean"),
            pl.col("score").max().round(3).alias("largest"),
        )
        .sort("reason")
    )


def log_summary(platform: Platform, version: int) -> dict[str, dg.MetadataValue]:
    """Class mix and confidence of the serving version, summed up where the log lies."""
    import numpy as np
    import polars as pl

    from al_loop.questions import BINS, Window, ask

    of_all_times = Window(platform.settings.model.name, *ALL_TIMES, model_version=version)
    mix = (
        ask(platform.predictions, "classes", of_all_times)
        .group_by(pl.col("predicted_label").alias("predicted"))
        .agg(pl.col("predictions").sum().alias("images"))
        .sort("predicted")
    )
    bins = ask(platform.predictions, "scores", of_all_times).filter(score="confidence")
    places = (bins["low"] * BINS).round().cast(pl.Int64).clip(upper_bound=BINS - 1)  # 1.0 is the last bin's end
    histogram = np.bincount(places, weights=bins["predictions"], minlength=BINS)
    names = [f"{edge / BINS:.2f}" for edge in range(BINS)]
    return {
        "class mix": table(mix),
        "confidence": picture(platform, of_today("confidence"), _bars(names, histogram, "confidence"), "confidence"),
    }


def class_balance(rows: pl.DataFrame) -> dg.MetadataValue:
    """Images per class and split."""
    return table(
        rows.pivot("split", index="label", values="image_id", aggregate_function="len").fill_null(0).sort("label")
    )


def accuracy_figures(manifest: ModelManifest) -> dict[str, dg.MetadataValue]:
    """What was measured on the holdout: the accuracy with its interval in words, and each figure once as a number."""
    accuracy = manifest.metrics.get("accuracy")
    told: dict[str, dg.MetadataValue] = {}
    if accuracy is not None:
        told["accuracy, 95 % interval"] = dg.MetadataValue.text(f"{accuracy} on the holdout")
    return told | {f"holdout {name}": rounded(interval.value) for name, interval in manifest.metrics.items()}


def learning_curve(platform: Platform, round_: int) -> dg.MetadataValue:
    """Holdout accuracy with its interval over the labels, version by version."""
    png = learning_curve_png(platform)
    return picture(platform, of_round(round_, "learning_curve"), png, "accuracy on the holdout over training labels")


def learning_curve_png(platform: Platform) -> bytes:
    """Every judged version as a point; the champions' line is the curve people get."""
    from al_assets.charts import learning_curve as draw

    made = [platform.registry.manifest(version) for version in platform.registry.versions()]
    return draw([manifest for manifest in made if "accuracy" in manifest.metrics])


def mistakes(platform: Platform, round_: int, evaluation: Evaluation | None) -> dict[str, dg.MetadataValue]:
    """Which classes are taken for which, and how far the confidence can be believed."""
    from al_assets.charts import confusion_matrix, reliability

    if evaluation is None or evaluation.answers.is_empty():
        return {"confusion matrix": dg.MetadataValue.text("not judged")}
    confidence = evaluation.answers["confidence"].to_numpy()
    drawn = {
        "confusion matrix": (confusion_matrix(evaluation), "confusion matrix on the holdout"),
        "calibration": (reliability(confidence, evaluation.correct), "how often it is right, by how sure it is"),
    }
    return {
        name: picture(platform, of_round(round_, name.replace(" ", "_")), png, caption)
        for name, (png, caption) in drawn.items()
    }


def agreement(platform: Platform) -> str:
    """How far people agree who were asked about the same images."""
    from al_loop.annotators import labeling_report

    report = labeling_report(platform)
    if not report["answered_by_several"]:
        return "no image was answered by several people (labeling_page.overlap)"
    several = f"{report['answered_by_several']} images were answered by several people"
    return several if report["alpha"] is None else f"alpha {report['alpha']:.2f}: {several}"


def table_or_words(frame: pl.DataFrame, words: str) -> dg.MetadataValue:
    """The table, or what is to be read in place of an empty one."""
    return dg.MetadataValue.text(words) if frame.is_empty() else table(frame)


def _bars(names: Sequence[str], values: Any, title: str) -> bytes:
    from al_assets.charts import bars as draw

    return draw(names, values, title)
