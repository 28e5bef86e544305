"""What people look at in the UI: pictures, curves and small tables as Dagster metadata."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.request import url2pathname

import dagster as dg

from al_core.shown_text import harmless

if TYPE_CHECKING:
    import polars as pl

    from al_core.judging.evaluation import Evaluation
    from al_loop.monitoring import AccuracyState, DriftLook
    from al_resources.platform import Platform

ALL_TIMES = datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)
SUSPICIOUS_SHOWN = 24  # labels on the check
SHEET_IMAGES = 60  # the inline sheet stays under the UI's comfort of 200 KB; the stored one has them all


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


def picture(png: bytes, caption: str) -> dg.MetadataValue:
    """A PNG that the UI shows behind [Show Markdown]."""
    return dg.MetadataValue.md(f"![{caption}](data:image/png;base64,{base64.b64encode(png).decode()})")


def contact_sheet(platform: Platform, round_: int, chosen: pl.DataFrame) -> dg.MetadataValue:
    """The chosen images with score and reason; a sheet with all of them lies beside the staged round."""
    png = contact_sheet_png(platform, chosen.head(SHEET_IMAGES))
    platform.blobs.write(f"reports/{round_:04d}/contact_sheet.png", png)
    return picture(png, f"the {min(chosen.height, SHEET_IMAGES)} most wanted of {chosen.height} images")


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


def suspicious_sheet(platform: Platform, worst: pl.DataFrame) -> dg.MetadataValue:
    """Pictures whose label is probably wrong, with the label and what it may be instead."""
    from al_core.contact_sheet import SheetItem
    from al_core.contact_sheet import contact_sheet as draw
    from al_core.images import BadImage, decode_stored_image

    items = []
    for row in worst.iter_rows(named=True):
        try:
            image = decode_stored_image(platform.images.read(row["image_uri"]), name=row["image_uri"])
        except (BadImage, FileNotFoundError):
            continue
        items.append(SheetItem(image, (row["label"], f"{row['predicted']}?")))
    return picture(draw(items), f"the {len(items)} most suspicious labels")


def drift_figures(look: DriftLook) -> dict[str, Any]:
    """What a look at the traffic has seen; only the first line can raise an alarm."""
    import polars as pl

    figures: dict[str, Any] = {
        "p-value": f"{look.p_value:.2g}, alarm at {look.level:.2g}",
        "told apart from the reference": f"{look.auc:.3f} of pairs (0.5: not at all), by {look.features}",
        "images compared": f"{look.images} of {look.since:%Y-%m-%d %H:%M} to {look.newest:%Y-%m-%d %H:%M} with "
        f"{look.reference_images}" + (", reserved ones alone" if look.reserved_only else ""),
        "class mix": table(pl.DataFrame(look.class_mix)),
        "stability index of the class mix": look.class_psi,
        "chi-square of the class mix, p of this look": look.class_p_value,
        "stability index of the confidence": look.confidence_psi,
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

    return {
        "evidence, look by look": picture(evidence_of_drift(looks_of(platform, version)), "evidence of drift"),
        "confidence": picture(two_histograms(*look.confidences, "confidence"), "confidence, reference and window"),
    }


def different_images(platform: Platform, version: int) -> dict[str, dg.MetadataValue]:
    """The images that differ most, as a table and as pictures."""
    from al_loop.monitoring import different_images as found

    named = found(platform, version).head(SUSPICIOUS_SHOWN)
    facts = {"images that differ most": table(named.select("image_id", "predicted_label", "confidence", "score"))}
    png = different_sheet_png(platform, named)
    return facts if png is None else facts | {"pictures": picture(png, f"the {named.height} images that differ most")}


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


def accuracy_plot(state: AccuracyState) -> dg.MetadataValue:
    """Accuracy on the traffic over rounds, with its sequence, and beside it the guess without labels."""
    from al_assets.charts import accuracy_over_time

    return picture(accuracy_over_time(state.points), "accuracy on the traffic over rounds")


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
    return total | ({} if accuracy is None else {"deployed accuracy": dg.MetadataValue.float(accuracy.value)})


def labeling_progress(platform: Platform) -> dict[str, dg.MetadataValue]:
    """What the labeling tool says of its progress, where it counts by itself; why not, where it cannot be asked."""
    from al_loop.status import labeling

    found = labeling(platform)
    if found is None or not (found.get("project") or "error" in found):
        return {}
    return {"labeling project": dg.MetadataValue.json(found)}


def score_summary(chosen: pl.DataFrame) -> pl.DataFrame:
    """Smallest, mean and largest score per reason."""
    import polars as pl

    return (
        chosen.group_by("reason")
        .agg(
            pl.col("score").min().alias("smallest"),
            pl.col("score").mean().alias("mean"),
            pl.col("score").max().alias("largest"),
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
        "confidence": picture(_bars(names, histogram, "confidence"), "confidence"),
    }


def class_balance(rows: pl.DataFrame) -> dg.MetadataValue:
    """Images per class and split."""
    return table(
        rows.pivot("split", index="label", values="image_id", aggregate_function="len").fill_null(0).sort("label")
    )


def learning_curve(platform: Platform) -> dg.MetadataValue:
    """Holdout accuracy with its interval over the labels, version by version."""
    return picture(learning_curve_png(platform), "accuracy on the holdout over training labels")


def learning_curve_png(platform: Platform) -> bytes:
    """Every judged version as a point; the champions' line is the curve people get."""
    from al_assets.charts import learning_curve as draw

    made = [platform.registry.manifest(version) for version in platform.registry.versions()]
    return draw([manifest for manifest in made if "accuracy" in manifest.metrics])


def confusion_matrix(evaluation: Evaluation | None) -> dg.MetadataValue:
    """True classes down, predicted ones across."""
    from al_assets.charts import confusion_matrix as draw

    if evaluation is None or evaluation.answers.is_empty():
        return dg.MetadataValue.text("not judged")
    return picture(draw(evaluation), "confusion matrix on the holdout")


def _bars(names: Sequence[str], values: Any, title: str) -> bytes:
    from al_assets.charts import bars as draw

    return draw(names, values, title)
