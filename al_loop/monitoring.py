"""Monitoring: does the traffic still look as it did when the version that serves began, and is it still answered right?

Nothing is decided here: what is seen is told by checks, `al status` and `al query`.

Reading is bounded. The *reference* is drawn once a version and kept; a *look* reads a sample of the newest days, in
random order by content hash, whatever the log holds besides. Looks go on record, because each of them spends its share
of the false alarms of a year.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import polars as pl
from pydantic import BaseModel, ConfigDict

from al_core.judging.drift import LEAST
from al_core.records import Interval, utc_now

if TYPE_CHECKING:
    from al_core.judging.drift import Comparable
    from al_core.judging.truth import Part
    from al_resources.platform import Platform

LEAST_REFERENCE = 200  # images; a smaller reference could not raise an alarm
MOST_TRAINED = 0.001  # of a sample: images the version was trained on, which it answers surer than others
WINDOW_DAYS = 1, 7, 30  # of traffic that a look is about: the first that holds enough images
FREE_LOOKS, SPACING = 4, timedelta(hours=1)  # of a day; later ones keep a distance
ALARM_DAYS = 7  # so long an alarm stands after the last look that raised it
NAMED = 200  # images that differ, at most, that an alarm names
SHOWN_LOOKS = 60
MOST_TRAFFIC, TRAFFIC_DAYS = 5_000, 90  # what accuracies are weighed by: images, and how old they may be
MOST_VERSIONS = 5  # whose accuracy is told
_INSTANT = timedelta(microseconds=1)
_FEATURES = ("image_key", "predicted_label", "confidence", "probs", "embedding", "latency_ms")
_NAMES = ("image_uri", "image_hash", "prediction_id")


class DriftLook(BaseModel):
    """One look, as it is on record."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    model_version: int
    day: str  # UTC
    number: int  # of the day
    looked_at: datetime
    since: datetime  # of the window
    newest: datetime  # the last prediction in it
    images: int  # of the window, compared
    reference_images: int
    reserved_only: bool  # because the version was trained on some of the others
    features: str
    left_out: dict[str, int]  # why -> images of the window
    p_value: float
    level: float  # what this look could spend of monitoring.alpha
    auc: float
    class_psi: float
    class_p_value: float
    confidence_psi: float
    class_mix: list[dict[str, str | int]]
    confidences: tuple[list[int], list[int]]  # by tenths, reference and window
    latency_ms: tuple[float, float] | None  # medians, reference and window; None where none was taken
    predictions_per_day: tuple[float, float]  # reference and window
    alarm_since: datetime | None = None  # the alarm that stands was raised first
    raised_at: datetime | None = None  # ... and last

    @property
    def raised(self) -> bool:
        """Whether this look raised the alarm."""
        return self.p_value <= self.level


@dataclass(frozen=True)
class DriftState:
    """What is known of the traffic of a version."""

    version: int | None
    sentence: str
    look: DriftLook | None = None  # the newest
    alarm: bool = False
    quiet_days: int = 0  # whole days without traffic since the last prediction


@dataclass(frozen=True)
class _Reference:
    rows: pl.DataFrame
    until: datetime
    predictions_per_day: float
    reserved_only: bool


# ---------------------------------------------------------------------- drift
def drift(platform: Platform, version: int | None = None) -> DriftState:
    """A look at the newest traffic, put on record; the one before where nothing came in since, or it was just now."""
    version = platform.endpoint.state().serving_version if version is None else version
    if version is None:
        return DriftState(None, "no model serves yet")
    newest = platform.predictions.watermark(platform.settings.model.name, version).last_logged_at
    reference = _reference(platform, version)
    if isinstance(reference, str):
        return DriftState(version, reference)
    last = _last_look(platform, version)
    why_not: str | None = None
    if newest is not None and newest >= reference.until and _may_look(last, newest):
        why_not = _look(platform, version, reference, last, newest)
        last = _last_look(platform, version)
    return _state(version, last, newest, why_not or f"nothing came in after the reference of v{version} was drawn")


def drift_on_record(platform: Platform) -> DriftState:
    """What looks have seen so far, without another one."""
    version = platform.endpoint.state().serving_version
    if version is None:
        return DriftState(None, "no model serves yet")
    newest = platform.predictions.watermark(platform.settings.model.name, version).last_logged_at
    return _state(version, _last_look(platform, version), newest, f"nobody has looked at the traffic of v{version} yet")


def looks_of(platform: Platform, version: int) -> list[DriftLook]:
    """The newest `SHOWN_LOOKS` looks at a version's traffic, oldest first."""
    paths = _look_paths(platform, version)[-SHOWN_LOOKS:]
    return [DriftLook.model_validate_json(platform.blobs.read(path)) for path in paths]


def different_images(platform: Platform, version: int) -> pl.DataFrame:
    """The images that the last alarm named, the most different first: image_id, image_uri, image_hash, score, ..."""
    try:
        return pl.read_parquet(io.BytesIO(platform.blobs.read(f"{_folder(platform, version)}/different.parquet")))
    except FileNotFoundError:
        return pl.DataFrame(schema={"image_id": pl.String(), "image_uri": pl.String(), "score": pl.Float64()})


def drift_rows(platform: Platform, version: int, count: int, judged: Mapping[str, str]) -> list[dict[str, Any]]:
    """Rows of `SELECTIONS` for images that differ, while an alarm stands; at most `count`, none that judges.

    Nor any that somebody was asked about, or that nearly equals another of them or one that judges.
    """
    from al_core.near_duplicates import NearDuplicates

    if count <= 0 or not drift_on_record(platform).alarm:
        return []
    asked = {image_id for name in ("selections", "labels") for image_id in platform.ledgers.read(name)["image_id"]}
    found = different_images(platform, version)
    reserved = set(platform.settings.holdout.judges.among(found["image_id"].to_list()))
    seen = NearDuplicates(platform.settings.selection.near_duplicate_distance)
    for image_id, image_hash in judged.items():
        seen.add(image_id, image_hash)
    rows: list[dict[str, Any]] = []
    for row in found.iter_rows(named=True):
        image_id, image_hash = row["image_id"], row["image_hash"]
        if image_id in asked or image_id in reserved or (image_hash and seen.find(image_hash)):
            continue
        if image_hash:
            seen.add(image_id, image_hash)
        known = {name: row[name] for name in ("image_id", "image_uri", "image_hash", "prediction_id", "score")}
        rows.append({**known, "reason": "drift", "strategy": "domain_classifier", "model_version": version})
        if len(rows) == count:
            break
    return rows


def forget_image(platform: Platform, image_id: str) -> int:
    """Erase an image from all references, and the lists of images that differ; how many places there were."""
    found = 0
    for blob in list(platform.blobs.list(f"monitoring/{platform.settings.model.name}")):
        if not blob.path.endswith(".parquet"):
            continue
        rows = pl.read_parquet(io.BytesIO(platform.blobs.read(blob.path)))
        kept = rows.filter(pl.col("image_id") != image_id)
        if kept.height < rows.height:
            platform.blobs.write(blob.path, _parquet(kept))
            found += 1
    return found


def _may_look(last: DriftLook | None, newest: datetime) -> bool:
    """Whether something came in since the last look, and it was not just now."""
    if last is None:
        return True
    today = last.day == utc_now().date().isoformat()
    too_soon = today and last.number >= FREE_LOOKS and utc_now() < last.looked_at + SPACING
    return newest > last.newest and not too_soon


def _state(version: int, last: DriftLook | None, newest: datetime | None, nothing: str) -> DriftState:
    quiet = 0 if newest is None else max(0, (utc_now() - newest).days)
    told = "" if not quiet or newest is None else f"; no traffic for {quiet} days, the last came {newest:%Y-%m-%d}"
    if last is None:
        return DriftState(version, nothing + told, quiet_days=quiet)
    stands = last.raised_at is not None and utc_now() < last.raised_at + timedelta(days=ALARM_DAYS)
    if stands:
        sentence = f"the traffic of v{version} differs from its reference since {last.alarm_since:%Y-%m-%d %H:%M} UTC"
    else:
        sentence = f"the traffic of v{version} looks like its reference"
    figures = (
        f": {last.images} images against {last.reference_images}, p = {last.p_value:.2g}, alarm at {last.level:.2g}"
    )
    return DriftState(version, sentence + figures + told, last, stands, quiet)


def _reference(platform: Platform, version: int) -> _Reference | str:
    """The first traffic of a version, drawn once; or why there is none yet.

    Not what it was trained on: a strategy chose these images because they are unusual, and the version answers them
    surer than any other. Nor what it was judged on, which is few.
    """
    path = f"{_folder(platform, version)}/reference.parquet"
    if not platform.blobs.exists(path):
        drawn = _drawn_reference(platform, version)
        if isinstance(drawn, str):
            return drawn
        platform.blobs.write(path, _parquet(drawn), if_absent=True)
    rows = pl.read_parquet(io.BytesIO(platform.blobs.read(path)))
    if rows.height < LEAST:
        return f"the reference of v{version} holds {rows.height} images, too few to compare with; others were forgotten"
    first = rows.row(0, named=True)
    return _Reference(rows, first["until"], first["predictions_per_day"], first["reserved_only"])


def _drawn_reference(platform: Platform, version: int) -> pl.DataFrame | str:
    settings, now = platform.settings.monitoring, utc_now()
    since = platform.predictions.first_logged(platform.settings.model.name, version)
    if since is None:
        return f"v{version} has no traffic yet"
    until = since + timedelta(days=settings.reference_days)
    if now < until:
        return f"the reference of v{version} is collected until {until:%Y-%m-%d %H:%M} UTC (monitoring.reference_days)"
    rows = _sample(platform, version, (since, until), settings.reference_images, None)
    if rows.height < LEAST_REFERENCE:
        until = now
        rows = _sample(platform, version, (since, until), settings.reference_images, None)
    if rows.height < LEAST_REFERENCE:
        return f"v{version} answered {rows.height} images so far; a reference needs {LEAST_REFERENCE}"
    reserved_only = _knows_too_many(rows)
    if reserved_only:
        judges = platform.settings.holdout.judges.part("judge")
        rows = _sample(platform, version, (since, until), settings.reference_images, judges)
        if rows.height < LEAST:
            return (
                f"v{version} was trained on many of the images it answered, and only {rows.height} of the others are "
                f"reserved; a reference needs {LEAST} (send new traffic, or raise holdout.reserve)"
            )
    facts = {
        "until": pl.lit(until),
        "reserved_only": pl.lit(reserved_only),
        "predictions_per_day": pl.lit(_per_day(platform, version, since, until)),
    }
    return rows.filter(~pl.col("trained")).with_columns(**facts)


def _sample(
    platform: Platform, version: int, window: tuple[datetime, datetime], limit: int, part: Part | None, seed: int = 0
) -> pl.DataFrame:
    """A uniform sample of some traffic, with what a look compares, and which images are reserved or taught."""
    columns = [*_FEATURES, *_NAMES]
    name = platform.settings.model.name
    rows = pl.DataFrame(platform.predictions.sample(name, version, *window, limit, columns, seed=seed, part=part))
    reserved = platform.settings.holdout.judges.part("judge").filter(pl.col("image_key"))
    trained = pl.col("image_id").is_in(_trained_on(platform, version))
    return rows.with_columns(reserved=reserved, trained=trained)


def _trained_on(platform: Platform, version: int) -> list[str]:
    if version not in platform.registry.versions():
        return []  # trained elsewhere: nobody knows
    try:
        dataset = platform.datasets.of_version(platform.registry.manifest(version).dataset_version)
    except KeyError:
        return []  # a version that was brought in without its labels
    return dataset.rows.filter(pl.col("split").is_in(["train", "validation"]))["image_id"].to_list()


def _knows_too_many(rows: pl.DataFrame) -> bool:
    return bool(rows.height) and rows["trained"].sum() > MOST_TRAINED * rows.height


def _look(
    platform: Platform, version: int, reference: _Reference, last: DriftLook | None, newest: datetime
) -> str | None:
    """Look, and put it on record; why not, where too little came in."""
    told = ""
    for days in WINDOW_DAYS:
        since = max(reference.until, newest - timedelta(days=days))
        compared, reserved_only = _compared(platform, version, reference, (since, newest + _INSTANT))
        if len(compared.window) >= LEAST <= len(compared.reference):
            _record(platform, version, reference, last, compared, (since, newest), reserved_only)
            return None
        told = f"{len(compared.window)} images of v{version} to look at in {days} days, {LEAST} are needed"
        told += " of the reserved ones: it was trained on some of the others" if reserved_only else ""
        told += "".join(f"; {count} left out: {why}" for why, count in compared.left_out.items())
    return told


def _compared(
    platform: Platform, version: int, reference: _Reference, window: tuple[datetime, datetime]
) -> tuple[Comparable, bool]:
    """Both samples, comparable; of all images, or of the reserved ones where the version was trained on some."""
    from al_core.judging.drift import comparable

    judges = platform.settings.holdout.judges.part("judge")
    limit, seed, only = platform.settings.monitoring.window_images, window[1].toordinal(), reference.reserved_only
    rows = _sample(platform, version, window, limit, judges if only else None, seed)
    if not only and _knows_too_many(rows):
        only = True
        rows = _sample(platform, version, window, limit, judges, seed)
    before = reference.rows.filter(pl.col("reserved")) if only else reference.rows
    return comparable(before, rows.filter(~pl.col("trained"))), only


def _record(
    platform: Platform,
    version: int,
    reference: _Reference,
    last: DriftLook | None,
    compared: Comparable,
    window: tuple[datetime, datetime],
    reserved_only: bool,
) -> None:
    from al_core.judging.drift import (
        chi_square_p_value,
        class_mix,
        histogram,
        level,
        stability_index,
        two_samples,
    )

    tested, now = two_samples(compared.reference, compared.window, compared.keys), utc_now()
    day = now.date().isoformat()
    number = 1 if last is None or last.day != day else last.number + 1
    allowed = level(platform.settings.monitoring.alpha, number)
    raised = tested.p_value <= allowed
    before, rows = reference.rows, compared.rows
    mix = class_mix(before["predicted_label"].to_list(), rows["predicted_label"].to_list())
    confidences = [histogram(side["confidence"].to_numpy()) for side in (before, rows)]
    took = [side["latency_ms"].median() for side in (before, rows)]
    today = _per_day(platform, version, window[0], window[1] + _INSTANT)
    look = DriftLook(
        model_version=version,
        day=day,
        number=number,
        looked_at=now,
        since=window[0],
        newest=window[1],
        images=rows.height,
        reference_images=len(compared.reference),
        reserved_only=reserved_only,
        features=compared.features,
        left_out=compared.left_out,
        p_value=tested.p_value,
        level=allowed,
        auc=tested.auc,
        class_psi=stability_index(mix["reference"].to_numpy(), mix["window"].to_numpy()),
        class_p_value=chi_square_p_value(mix),
        confidence_psi=stability_index(*confidences),
        class_mix=mix.to_dicts(),
        confidences=(confidences[0].tolist(), confidences[1].tolist()),
        latency_ms=None if None in took else (float(took[0]), float(took[1])),  # type: ignore[arg-type]
        predictions_per_day=(reference.predictions_per_day, today),
        alarm_since=_alarm_since(last, raised, now),
        raised_at=now if raised else None if last is None else last.raised_at,
    )
    if raised:
        named = rows.with_columns(score=pl.Series(tested.scores)).sort("score", "image_id", descending=[True, False])
        kept = ["image_id", *_NAMES, "predicted_label", "confidence", "score"]
        platform.blobs.write(
            f"{_folder(platform, version)}/different.parquet", _parquet(named.select(kept).head(NAMED))
        )
    path = f"{_folder(platform, version)}/looks/{day[:7]}/{day}-{number:04d}.json"
    # Who looked at the same moment spent the same level: one of the two is on record, and its answer counts.
    platform.blobs.write(path, look.model_dump_json().encode(), if_absent=True)


def _alarm_since(last: DriftLook | None, raised: bool, now: datetime) -> datetime | None:
    stood = last is not None and last.raised_at is not None and now < last.raised_at + timedelta(days=ALARM_DAYS)
    if stood and last is not None:
        return last.alarm_since
    return now if raised else None


def _per_day(platform: Platform, version: int, since: datetime, until: datetime) -> float:
    """Predictions a day, counted in the engine; of less than an hour as of an hour."""
    from al_loop.questions import Window, ask

    window = Window(platform.settings.model.name, since, max(until, since + _INSTANT), model_version=version)
    count = int(ask(platform.predictions, "volume", window)["predictions"].sum())
    return count / max(1 / 24, (until - since) / timedelta(days=1))


def _last_look(platform: Platform, version: int) -> DriftLook | None:
    paths = _look_paths(platform, version)
    return DriftLook.model_validate_json(platform.blobs.read(paths[-1])) if paths else None


def _look_paths(platform: Platform, version: int) -> list[str]:
    """Of this month and the one before, oldest first: a folder a month bounds the listing."""
    this = utc_now().date().replace(day=1)
    months = [(this - timedelta(days=1)).isoformat()[:7], this.isoformat()[:7]]
    folder = f"{_folder(platform, version)}/looks"
    return sorted(blob.path for month in months for blob in platform.blobs.list(f"{folder}/{month}"))


def _folder(platform: Platform, version: int) -> str:
    return f"monitoring/{platform.settings.model.name}/{version}"


def _parquet(rows: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    rows.write_parquet(buffer)
    return buffer.getvalue()


# ---------------------------------------------------------------------- accuracy
@dataclass(frozen=True)
class AccuracyPoint:
    """The accuracy of a version on its traffic, as the labels of a round left it."""

    version: int
    round: int
    labels: int  # control images labeled so far
    accuracy: Interval  # holds at all looks together
    from_labels_alone: float
    without_labels: float | None  # ATC; None where the version was never evaluated


@dataclass(frozen=True)
class AccuracyState:
    """What is known of the accuracy of the version that serves."""

    version: int | None
    sentence: str
    points: tuple[AccuracyPoint, ...] = ()  # of the newest versions, oldest first
    when_judged: Interval | None = None  # accuracy on the holdout before it was deployed

    @property
    def newest(self) -> AccuracyPoint | None:
        """Of the version that serves; None while no control image of it has a label."""
        return next((point for point in reversed(self.points) if point.version == self.version), None)

    @property
    def surely_lower(self) -> bool:
        """Whether it is surely less often right than it was when it was judged."""
        newest, judged = self.newest, self.when_judged
        return newest is not None and judged is not None and newest.accuracy.high < judged.low


def accuracy(platform: Platform, version: int | None = None) -> AccuracyState:
    """How often versions were right on their own traffic, from the control slices drawn from it."""
    serving = platform.endpoint.state().serving_version if version is None else version
    if serving is None:
        return AccuracyState(None, "no model serves yet")
    control = _labeled_control(platform)
    versions = [serving] if version is not None else [*control["model_version"].unique().sort().tail(MOST_VERSIONS)]
    points = [point for one in versions for point in _points(platform, one, control.filter(model_version=one))]
    judged = None
    if serving in platform.registry.versions():
        judged = platform.registry.manifest(serving).metrics.get("accuracy")
    state = AccuracyState(serving, "", tuple(points), judged)
    if (newest := state.newest) is None:
        return AccuracyState(serving, f"no control image of v{serving} has a label yet", tuple(points), judged)
    sentence = f"v{serving} is right on {newest.accuracy} of its traffic, by {newest.labels} control images"
    if state.surely_lower:
        sentence += f"; surely less often than when it was judged, {judged}"
    return AccuracyState(serving, sentence, tuple(points), judged)


def _labeled_control(platform: Platform) -> pl.DataFrame:
    """The control images with a label, in the order of their drawing."""
    rows = platform.ledgers.read("selections", reason="control").sort("round", "rank")
    dataset = platform.datasets.latest()
    if dataset is None:
        return rows.with_columns(label=pl.lit(None, pl.String)).head(0)
    labels = dataset.rows.filter(split="holdout").select("image_id", "label")
    return rows.join(labels, on="image_id", how="inner", maintain_order="left")


def _points(platform: Platform, version: int, control: pl.DataFrame) -> list[AccuracyPoint]:
    from al_core.judging.accuracy import looks

    if control.is_empty():
        return []
    logged = platform.predictions.rows_of(
        control["image_id"].to_list(), ["prediction_id", "predicted_label", "confidence"]
    )
    answered = control.join(
        pl.DataFrame(logged).unique("prediction_id"),
        on="prediction_id",
        how="inner",
        maintain_order="left",
        suffix="_logged",
    )
    if answered.is_empty() or (traffic := traffic_of(platform, version)).is_empty():
        return []
    last = answered.with_row_index("place", offset=1).group_by("round").agg(pl.col("place").max()).sort("round")
    found = looks(
        answered.select("predicted_label", pl.col("confidence").cast(pl.Float64), "label"),
        traffic,
        last["place"].to_list(),
    )
    guess = _without_labels(platform, version, traffic)
    return [
        AccuracyPoint(version, round_, look.labels, look.accuracy, look.from_labels_alone, guess)
        for round_, look in zip(last["round"], found, strict=True)
    ]


def traffic_of(platform: Platform, version: int) -> pl.DataFrame:
    """`predicted_label` and `confidence` of a uniform sample of a version's traffic, of images that never teach."""
    name, until = platform.settings.model.name, utc_now() + _INSTANT
    part = platform.settings.holdout.judges.part("measure")
    columns = ["predicted_label", "confidence"]
    since = until - timedelta(days=TRAFFIC_DAYS)
    rows = platform.predictions.sample(name, version, since, until, MOST_TRAFFIC, columns, seed=0, part=part)
    return pl.DataFrame(rows).with_columns(pl.col("confidence").cast(pl.Float64))


def _without_labels(platform: Platform, version: int, traffic: pl.DataFrame) -> float | None:
    from al_core.judging.accuracy import average_thresholded_confidence
    from al_loop.judging import evaluation_of

    if version not in platform.registry.versions():
        return None
    evaluation = evaluation_of(platform, platform.registry.manifest(version))
    if evaluation is None:
        return None
    return average_thresholded_confidence(
        evaluation.answers["confidence"].to_numpy(), evaluation.correct, traffic["confidence"].to_numpy()
    )
