"""What analysts ask of the prediction log over time: each question once in KQL, for Data Explorer, and once in Polars.

Both count every prediction of traffic once and answer with the same columns, oldest step first.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from itertools import takewhile
from typing import Any, Literal, get_args

import polars as pl
import pyarrow as pa

from al_core.errors import InvalidInput
from al_core.records import RESCORE, UTC_MICROSECONDS, empty_table
from al_resources.azure.data_explorer import Query
from al_resources.prediction_store import PredictionStore

Question = Literal["volume", "confidence", "classes", "latency", "scores"]
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
    scores: histograms of the scores, `low` being a bin's lower edge, to compare one step with another.

    Raises:
        TypeError: the store is none that questions can be put to.
        KustoError: Data Explorer refused the question, or was busy or out of reach for a minute.
    """
    from al_resources.prediction_store.delta import DeltaPredictionStore
    from al_resources.prediction_store.kusto import KustoPredictionStore

    schema = ANSWERS[question]
    if isinstance(store, KustoPredictionStore):
        return store.database.query(kql(question, window))
    if not isinstance(store, DeltaPredictionStore):
        raise TypeError(f"{type(store).__name__} takes no questions; expected a Delta or Kusto prediction store")
    rows = store.rows_between(window.model_name, window.model_version, window.since, window.until)
    rows = rows.filter(pl.col("source") != RESCORE)
    answer = _POLARS[question](rows.with_columns(at=pl.col("logged_at").dt.truncate(window.every)))
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
    text = f"""let asked = materialize(predictions
| where logged_at >= _since and logged_at < _until
| where model_name in (_name) and source != "{RESCORE}"{version}
| summarize arg_max(logged_at, {_LOGGED[question]}) by prediction_id
| extend at = bin(logged_at, {window.every}));
{_KQL[question]}"""
    return Query(text, ANSWERS[question], parameters)


# the columns each question needs
_LOGGED: dict[Question, str] = {
    "volume": "model_version, source, image_id",
    "confidence": "model_version, confidence, margin, entropy",
    "classes": "model_version, predicted_label",
    "latency": "model_version, latency_ms",
    "scores": "model_version, confidence, margin, entropy",
}
_KQL: dict[Question, str] = {
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
    long = rows.select("at", "model_version", *_SCORES).unpivot(
        _SCORES, index=["at", "model_version"], variable_name="score", value_name="value"
    )
    millionths = (pl.col("value").cast(pl.Float64) * _MILLIONTHS).round().cast(pl.Int64)
    # Rounded, because Polars divides by a constant by multiplying with its inverse: 3 / 20 would not be 0.15.
    binned = long.with_columns(low=(millionths // (_MILLIONTHS // BINS) / BINS).round(6))
    return binned.group_by("at", "model_version", "score", "low").agg(predictions=pl.len())


_POLARS = {
    "volume": _volume,
    "confidence": _confidence,
    "classes": _classes,
    "latency": _latency,
    "scores": _scores,
}
