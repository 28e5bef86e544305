"""What analysts ask of the prediction log over time: each question once in KQL, for Data Explorer, and once in Polars.

Both count every prediction of traffic once and answer with the same columns, oldest step first.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Literal, get_args

import polars as pl
import pyarrow as pa

from al_core.errors import InvalidInput
from al_core.judging.drift import LEAST_SHARE
from al_core.records import RESCORE, UTC_MICROSECONDS, empty_table
from al_resources.azure.data_explorer import Query
from al_resources.prediction_store import PredictionStore

if TYPE_CHECKING:
    from al_resources.prediction_store.delta import DeltaPredictionStore

Question = Literal["volume", "confidence", "classes", "latency", "scores", "shift", "control"]
Every = Literal["5m", "1h", "1d"]  # the same literals in KQL and in Polars

_STEP = [("at", UTC_MICROSECONDS), ("model_version", pa.int64())]
_COUNT = ("predictions", pa.int64())
ANSWERS: dict[Question, pa.Schema] = {
    "volume": pa.schema([*_STEP, ("source", pa.string()), _COUNT, ("images", pa.int64())]),
    "confidence": pa.schema(
        [*_STEP, _COUNT]
        + [(name, pa.float64()) for name in ("confidence", "lowest_tenth", "median", "margin", "entropy")]
    ),
    "classes": pa.schema([*_STEP, ("predicted_label", pa.string()), _COUNT, ("share", pa.float64())]),
    "latency": pa.schema(
        [*_STEP, ("answers", pa.int64())]
        + [(name, pa.float64()) for name in ("median_ms", "p95_ms", "p99_ms", "longest_ms")]
    ),
    "scores": pa.schema([*_STEP, ("score", pa.string()), ("low", pa.float64()), _COUNT]),
    "shift": pa.schema([*_STEP, ("what", pa.string()), _COUNT, ("psi", pa.float64())]),
    "control": pa.schema([*_STEP, ("answers", pa.int64()), ("accuracy", pa.float64())]),
}
BINS = 20  # of each score, from one whole number to the next
_MILLIONTHS = 1_000_000
_SCORES = ("confidence", "entropy", "margin")


@dataclass(frozen=True)
class Window:
    """Which predictions are asked about: of one model, from `since` (inclusive) to `until` (exclusive), in steps."""

    model_name: str
    since: datetime
    until: datetime
    every: Every = "1d"
    model_version: int | None = None

    def __post_init__(self) -> None:
        for name in ("since", "until"):
            if getattr(self, name).tzinfo is None:
                raise InvalidInput(
                    f"{name} {getattr(self, name)} has no time zone; expected one like 2026-01-31T00:00Z"
                )
        if self.since >= self.until:
            raise InvalidInput(f"since {self.since} is not before until {self.until}")
        if self.every not in get_args(Every):
            raise InvalidInput(f"every {self.every!r} is no step; expected one of {', '.join(get_args(Every))}")


def ask(store: PredictionStore, question: Question, window: Window) -> pl.DataFrame:
    """The answer, with the columns of `ANSWERS[question]`.

    volume: predictions and different images. confidence: means, and the confidence that a tenth and a half of the
    predictions do not exceed. classes: how often each was predicted. latency: of the answers whose time was taken.
    scores: histograms of the scores, `low` being a bin's lower edge, to compare one step with another. shift: how far
    the scores and the class mix of a step lie from those of the version's first step in the window, as population
    stability index; a picture, for nothing bounds its false alarms as `monitoring.drift` does. control: how many
    control images that were drawn in a step have a label by now, and how often the model was right on them by their
    newest labels; `monitoring.accuracy` tells it with an interval, of all labels of an image.

    Raises:
        TypeError: the store is none that questions can be put to.
        KustoError: Data Explorer refused the question, or was busy or out of reach for a minute.
    """
    from al_resources.prediction_store.delta import DeltaPredictionStore
    from al_resources.prediction_store.kusto import KustoPredictionStore
    from al_resources.prediction_store.referring import engine_of

    store = engine_of(store)
    if isinstance(store, KustoPredictionStore):
        return store.database.query(kql(question, window))
    if not isinstance(store, DeltaPredictionStore):
        raise TypeError(f"{type(store).__name__} takes no questions; expected a Delta or Kusto prediction store")
    if question == "control":
        return _sorted(_control(store, window), question)
    rows = store.rows_between(window.model_name, window.model_version, window.since, window.until)
    rows = rows.filter(pl.col("source") != RESCORE)
    return _sorted(_POLARS[question](rows.with_columns(at=pl.col("logged_at").dt.truncate(window.every))), question)


def _sorted(answer: pl.LazyFrame, question: Question) -> pl.DataFrame:
    schema = ANSWERS[question]
    keys = list(takewhile(lambda name: name not in ("predictions", "answers"), schema.names))
    return (
        answer.sort(keys)
        .select(schema.names)
        .cast(pl.DataFrame(empty_table(schema)).schema)
        .collect(engine="streaming")
    )


# ---------------------------------------------------------------------- KQL
def kql(question: Question, window: Window) -> Query:
    """The question as it is put to Data Explorer."""
    parameters: dict[str, tuple[str, Any]] = {
        "_name": ("dynamic", [window.model_name]),
        "_since": ("datetime", window.since),
        "_until": ("datetime", window.until),
    }
    version = ""
    if window.model_version is not None:
        parameters["_version"] = ("long", window.model_version)
        version = "\n| where model_version == _version"
    if question == "control":
        return Query(_CONTROL.format(version=version, every=window.every), ANSWERS[question], parameters)
    text = f"""let asked = materialize(predictions
| where logged_at >= _since and logged_at < _until
| where model_name in (_name) and source != "{RESCORE}"{version}
| summarize arg_max(logged_at, {_LOGGED[question]}) by prediction_id
| extend at = bin(logged_at, {window.every}));
{_KQL[question]}"""
    return Query(text, ANSWERS[question], parameters)


_PLACE = f"tostring(tolong(round({{}} * {_MILLIONTHS}.0)) / {_MILLIONTHS // BINS})"  # the bin of a score

_CONTROL = """let drawn = selections
| where reason == "control" and selected_at >= _since and selected_at < _until{version}
| project at = bin(selected_at, {every}), model_version, image_id, prediction_id;
let said = labels
| where isnotempty(label)
| summarize arg_max(labeled_at, label) by image_id
| project image_id, label;
let answered = predictions
| where model_name in (_name)
| summarize arg_max(logged_at, predicted_label) by prediction_id
| project prediction_id, predicted_label;
drawn
| join kind=inner said on image_id
| join kind=inner answered on prediction_id
| summarize answers = count(), hits = countif(label == predicted_label) by at, model_version
| order by at asc, model_version asc
| project at, model_version, answers, accuracy = todouble(hits) / answers"""

# the columns each question needs
_LOGGED: dict[str, str] = {
    "volume": "model_version, source, image_id",
    "confidence": "model_version, confidence, margin, entropy",
    "classes": "model_version, predicted_label",
    "latency": "model_version, latency_ms",
    "scores": "model_version, confidence, margin, entropy",
    "shift": "model_version, predicted_label, confidence, margin, entropy",
}
_KQL: dict[str, str] = {
    "volume": """asked
| summarize times = count() by at, model_version, source, image_id
| summarize predictions = sum(times), images = count() by at, model_version, source
| order by at asc, model_version asc, source asc
| project at, model_version, source, predictions, images""",
    "confidence": """asked
| summarize predictions = count(), mean = avg(confidence), lowest_tenth = percentile(confidence, 10),
    median = percentile(confidence, 50), margin = avg(margin), entropy = avg(entropy) by at, model_version
| order by at asc, model_version asc
| project at, model_version, predictions, confidence = mean, lowest_tenth, median, margin, entropy""",
    "classes": """let totals = asked | summarize total = count() by at, model_version;
asked
| summarize predictions = count() by at, model_version, predicted_label
| lookup totals on at, model_version
| extend share = todouble(predictions) / total
| order by at asc, model_version asc, predicted_label asc
| project at, model_version, predicted_label, predictions, share""",
    "latency": """asked
| where isnotnull(latency_ms)
| summarize answers = count(), median_ms = percentile(latency_ms, 50), p95_ms = percentile(latency_ms, 95),
    p99_ms = percentile(latency_ms, 99), longest_ms = max(latency_ms) by at, model_version
| order by at asc, model_version asc
| project at, model_version, answers, median_ms, p95_ms, p99_ms, longest_ms""",
    # Whole millionths, because 0.3 may lie on either side of the edge 0.3 once it was a float of 32 bits.
    "scores": f"""union
    (asked | project at, model_version, score = "confidence", value = confidence),
    (asked | project at, model_version, score = "entropy", value = entropy),
    (asked | project at, model_version, score = "margin", value = margin)
| summarize predictions = count()
    by at, model_version, score, place = tolong(round(value * {_MILLIONTHS}.0)) / {_MILLIONTHS // BINS}
| extend low = todouble(place) / {BINS}.0
| order by at asc, model_version asc, score asc, low asc
| project at, model_version, score, low, predictions""",
    "shift": f"""let places = materialize(union
    (asked | project at, model_version, what = "classes", place = predicted_label),
    (asked | project at, model_version, what = "confidence", place = {_PLACE.format("confidence")}),
    (asked | project at, model_version, what = "entropy", place = {_PLACE.format("entropy")}),
    (asked | project at, model_version, what = "margin", place = {_PLACE.format("margin")})
| summarize found = count() by at, model_version, what, place);
let steps = places | summarize predictions = sum(found) by at, model_version, what;
let begun = steps | summarize begun_at = min(at) by model_version, what;
let spread = materialize(steps
| join kind=inner (places | distinct model_version, what, place) on model_version, what
| project at, model_version, what, place, predictions
| join kind=leftouter (places | project at, model_version, what, place, found) on at, model_version, what, place
| extend part = todouble(iff(isnull(found), 0, found)) / predictions
| project at, model_version, what, place, predictions, share = iff(part < {LEAST_SHARE}, {LEAST_SHARE}, part));
let beginning = spread
| join kind=inner begun on model_version, what
| where at == begun_at
| project model_version, what, place, before = share;
spread
| join kind=inner beginning on model_version, what, place
| summarize predictions = max(predictions), psi = sum((share - before) * log(share / before))
    by at, model_version, what
| order by at asc, model_version asc, what asc
| project at, model_version, what, predictions, psi""",
}


# ---------------------------------------------------------------------- Polars
def _volume(rows: pl.LazyFrame) -> pl.LazyFrame:
    return rows.group_by("at", "model_version", "source").agg(
        predictions=pl.len(), images=pl.col("image_id").n_unique()
    )


def _confidence(rows: pl.LazyFrame) -> pl.LazyFrame:
    confidence = pl.col("confidence")
    return rows.group_by("at", "model_version").agg(
        pl.col("confidence", "margin", "entropy").cast(pl.Float64).mean(),
        predictions=pl.len(),
        lowest_tenth=confidence.quantile(0.10, "equiprobable"),
        median=confidence.quantile(0.50, "equiprobable"),
    )


def _classes(rows: pl.LazyFrame) -> pl.LazyFrame:
    counts = rows.group_by("at", "model_version", "predicted_label").agg(predictions=pl.len())
    return counts.with_columns(share=pl.col("predictions") / pl.col("predictions").sum().over("at", "model_version"))


def _latency(rows: pl.LazyFrame) -> pl.LazyFrame:
    taken = pl.col("latency_ms")
    return (
        rows.filter(taken.is_not_null())
        .group_by("at", "model_version")
        .agg(
            answers=pl.len(),
            median_ms=taken.quantile(0.50, "equiprobable"),
            p95_ms=taken.quantile(0.95, "equiprobable"),
            p99_ms=taken.quantile(0.99, "equiprobable"),
            longest_ms=taken.max(),
        )
    )


def _scores(rows: pl.LazyFrame) -> pl.LazyFrame:
    # Rounded, because Polars divides by a constant by multiplying with its inverse: 3 / 20 would not be 0.15.
    binned = _binned(rows).with_columns(low=(pl.col("bin") / BINS).round(6))
    return binned.group_by("at", "model_version", "score", "low").agg(predictions=pl.len())


def _binned(rows: pl.LazyFrame) -> pl.LazyFrame:
    """Every score of every prediction, and the number of the bin that it lies in."""
    long = rows.select("at", "model_version", *_SCORES).unpivot(
        _SCORES, index=["at", "model_version"], variable_name="score", value_name="value"
    )
    millionths = (pl.col("value").cast(pl.Float64) * _MILLIONTHS).round().cast(pl.Int64)
    return long.with_columns(bin=millionths // (_MILLIONTHS // BINS))


def _shift(rows: pl.LazyFrame) -> pl.LazyFrame:
    named = ["at", "model_version", "what", "place"]
    classes = rows.select("at", "model_version", what=pl.lit("classes"), place="predicted_label")
    scores = _binned(rows).select("at", "model_version", what="score", place=pl.col("bin").cast(pl.String))
    places = pl.concat([classes, scores]).group_by(named).agg(found=pl.len())
    steps = places.group_by(named[:3]).agg(predictions=pl.col("found").sum())
    spread = (
        steps.join(places.select(named[1:]).unique(), on=["model_version", "what"])
        .join(places, on=named, how="left")
        .with_columns(share=(pl.col("found").fill_null(0) / pl.col("predictions")).clip(lower_bound=LEAST_SHARE))
        .drop("found")
    )
    begun = steps.group_by("model_version", "what").agg(at=pl.col("at").min())
    beginning = spread.join(begun, on=["at", "model_version", "what"]).select(*named[1:], before="share")
    psi = ((pl.col("share") - pl.col("before")) * (pl.col("share") / pl.col("before")).log()).sum()
    together = spread.join(beginning, on=named[1:])
    return together.group_by(named[:3]).agg(pl.col("predictions").max(), psi=psi)


def _control(store: DeltaPredictionStore, window: Window) -> pl.LazyFrame:
    drawn = store.ledgers.read("selections", reason="control").filter(
        pl.col("selected_at").is_between(window.since, window.until, closed="left")
    )
    if window.model_version is not None:
        drawn = drawn.filter(model_version=window.model_version)
    said = store.ledgers.read("labels").filter(pl.col("label").str.len_bytes() > 0).sort("labeled_at")
    logged = store.rows_of(drawn["image_id"].to_list(), ["prediction_id", "model_name", "predicted_label"])
    right = pl.col("label") == pl.col("predicted_label")
    return (
        drawn.lazy()
        .select("model_version", "image_id", "prediction_id", at=pl.col("selected_at").dt.truncate(window.every))
        .join(said.lazy().group_by("image_id").agg(pl.col("label").last()), on="image_id")
        .join(pl.DataFrame(logged).lazy().filter(model_name=window.model_name).unique("prediction_id"), "prediction_id")
        .group_by("at", "model_version")
        .agg(answers=pl.len(), accuracy=right.mean())
    )


_POLARS = {
    "volume": _volume,
    "confidence": _confidence,
    "classes": _classes,
    "latency": _latency,
    "scores": _scores,
    "shift": _shift,
}
