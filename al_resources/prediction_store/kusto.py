"""The prediction log in Azure Data Explorer: the engine answers with the batch, not with the table.

What was sent twice is one prediction: every query takes the rows of one image and moment together, and of these
the newest. Strategies that need arrays get them in a second query, for the chosen few.

Data Explorer holds one group per image while it looks for the newest, and an operator may hold 5 GiB. So a long log is
asked in windows: the images whose key lies in one range, then those of the next. Keys are hashes, so windows are
equally large and none shares an image with another; the first of all images are the first of each window's first.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from al_core.judging.truth import MODULUS, Part
from al_core.records import PREDICTIONS, RESCORE
from al_core.strategies.base import KEY_SPACE, Order
from al_resources.azure.data_explorer import Ingestion, KustoDatabase, Query
from al_resources.prediction_store import Watermark
from al_resources.prediction_store.rows import as_records, check_columns, checked_rows, wanted_columns

WIDE = ("probs", "embedding")
_IDENTITY = ("image_id", "logged_at", "prediction_id")
PAGE = 2_000  # rows with arrays per answer: an answer is cut at 64 MB
WIDER = 1e-6
_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)


class KustoPredictionStore:
    """`PredictionStore` on a Data Explorer database that also holds the ledgers."""

    def __init__(self, database: KustoDatabase) -> None:
        self.database = database

    def append(self, predictions: pa.Table) -> None:
        """Send rows, a batch's through the queue; where not all were taken, they may be sent again as they are.

        Raises:
            ValueError: a column is missing, unknown, of another type, or holds what selection cannot order.
            KustoError: the service refused them, or was busy or out of reach for a minute.
        """
        rows = checked_rows(predictions)
        from_batch = pc.equal(rows["source"], "batch")
        for part, how in ((rows.filter(pc.invert(from_batch)), None), (rows.filter(from_batch), self._batch_way())):
            if len(part):
                self.database.ingest("predictions", part, how)

    def watermark(self, model_name: str | None = None, model_version: int | None = None) -> Watermark:
        """How many different predictions there are, and the newest moment."""
        windows = self.windows(model_name, model_version)
        parts = [self.database.query(watermark_query(model_name, model_version, window)) for window in windows]
        found = pl.concat(parts).filter(pl.col("count_") > 0)
        rows, newest = int(found["count_"].sum()), found["newest"].max()
        assert newest is None or isinstance(newest, datetime)
        return Watermark(rows, newest, f"{rows}:{newest.isoformat()}") if newest else Watermark(0, None, "empty")

    def eligible(
        self,
        model_name: str,
        model_version: int | None,
        order: Order,
        limit: int,
        columns: Sequence[str],
        exclude: Collection[str] = (),
        part: Part | None = None,
    ) -> pa.Table:
        """The first `limit` eligible images in `order`, see `PredictionStore.eligible`."""
        wanted = wanted_columns(columns, order)
        if limit < 0:
            raise ValueError(f"limit {limit} is negative")
        own = [] if order.column == "random" else [order.column]
        asked = list(dict.fromkeys([*_narrow(wanted), "image_id", *own]))
        found = self._first(model_name, model_version, order, limit, asked, exclude, part)
        return as_records(self._with_arrays(found, wanted), wanted)

    def count_eligible(self, model_name: str, model_version: int | None, part: Part | None = None) -> int:
        """How many distinct images `eligible` could return; exact."""
        windows = self.windows(model_name, model_version)
        return sum(
            int(self.database.query(count_query(model_name, model_version, part, window)).item()) for window in windows
        )

    def windows(
        self, model_name: str | None, model_version: int | None, pivot: int = 0
    ) -> list[KeyWindow] | list[None]:
        """In which parts the log of a model version is asked, see `azure.kusto_window_rows`; [None]: all at once."""
        rows = int(self.database.query(size_query(model_name, model_version)).item())
        count = -(-rows // self.database.settings.kusto_window_rows)
        if count <= 1:
            return [None]
        edges = [KEY_SPACE * place // count for place in range(count + 1)]
        return [KeyWindow(low, high, pivot) for low, high in pairwise(edges)]

    def _first(
        self,
        model_name: str,
        model_version: int | None,
        order: Order,
        limit: int,
        asked: Sequence[str],
        exclude: Collection[str],
        part: Part | None,
    ) -> pl.DataFrame:
        """The first `limit` of all windows.

        Random order goes through them from its pivot, and stops when it has enough; a score asks each for what may
        still be among the first.
        """
        ordered = order.column == "random"
        found, worst = pl.DataFrame(), None
        for window in self.windows(model_name, model_version, order.pivot if ordered else 0):
            query = eligible_query(
                model_name, model_version, order, limit - len(found) * ordered, asked, exclude, part, window, worst
            )
            page = self.database.query(query)
            if window is None:
                return page
            found = pl.concat([found, page]) if len(found) else page
            if not ordered:
                by, descending = [order.column, "image_id"], [order.descending, False]
                found = found.sort(by, descending=descending).head(limit)
            if len(found) == limit:
                if ordered:
                    break
                worst = float(found[order.column][-1]) if limit else None
        return found

    def first_logged(self, model_name: str, model_version: int) -> datetime | None:
        """When the traffic of a version began."""
        found = self.database.query(beginning_query(model_name, model_version))
        return found.item() if len(found) else None

    def sample(
        self,
        model_name: str,
        model_version: int,
        since: datetime,
        until: datetime,
        limit: int,
        columns: Sequence[str],
        *,
        seed: int,
        part: Part | None = None,
    ) -> pa.Table:
        """A uniform sample of the images answered in some days, drawn in the engine; see `PredictionStore.sample`."""
        check_columns(columns)
        wanted = list(dict.fromkeys(["image_id", *columns]))
        window, order = (since, until), Order("random", seed=seed)
        asked = sample_query(model_name, model_version, window, order, max(0, limit), _narrow(wanted), part)
        return as_records(self._with_arrays(self.database.query(asked), wanted), wanted)

    def _with_arrays(self, found: pl.DataFrame, wanted: list[str]) -> pl.DataFrame:
        """What was found, with those of the wanted columns that are arrays, page by page."""
        wide = [name for name in wanted if name in WIDE]
        if not wide or found.is_empty():
            return found
        pages = _paged(found["prediction_id"].to_list(), PAGE)
        arrays = [self.database.query(arrays_query(page, wide)) for page in pages]
        return found.join(pl.concat(arrays), on="prediction_id", how="left", maintain_order="left")

    def rows_of(self, image_ids: Collection[str], columns: Sequence[str] | None = None) -> pa.Table:
        """Every prediction of these images, of all models, newest first."""
        wanted = list(dict.fromkeys(columns)) if columns is not None else PREDICTIONS.names
        check_columns(wanted)
        pages = [self.database.query(rows_query(page, wanted)) for page in _paged(list(image_ids), PAGE // 10)]
        if not pages:
            return as_records(pl.DataFrame(), wanted)
        rows = pl.concat(pages).sort("logged_at", "prediction_id", descending=True)
        return as_records(rows, wanted)

    def scan(
        self,
        columns: Sequence[str],
        *,
        since: datetime | None = None,
        model_name: str | None = None,
        model_version: int | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """The log by time, in pages; what is appended meanwhile may or may not be among it."""
        wanted = list(dict.fromkeys(columns))
        check_columns(wanted)
        after, seen = since or _BEGINNING, list[str]()
        while True:
            page = self.database.query(page_query(wanted, after, seen, model_name, model_version))
            if page.is_empty():
                return
            yield from as_records(page, wanted).to_batches()
            newest = page["logged_at"][-1]
            at_newest = page.filter(pl.col("logged_at") == newest)["prediction_id"].to_list()
            after, seen = newest, [*seen, *at_newest] if newest == after else at_newest

    def erase(self, image_ids: Collection[str]) -> int:
        """Erase every prediction of some images, see `KustoDatabase.erase_images`."""
        return self.database.erase_images("predictions", image_ids)

    def compact(self) -> dict[str, int]:
        """Data Explorer merges its extents by itself; what it could not take for a passing reason is queued again."""
        if self.database.settings.kusto_ingestion == "streaming":
            return {}
        return {"failed_ingestions_sent_again": self.database.send_failed_again()}

    def failures(self) -> list[str]:
        """Queued rows that Data Explorer could not take; they can be sent again, see `KustoDatabase`."""
        from azure.core.exceptions import AzureError
        from azure.kusto.data.exceptions import KustoError

        if self.database.settings.kusto_ingestion == "streaming":
            return []
        try:
            return [str(failed) for failed in self.database.failed_ingestions()]
        except (KustoError, AzureError) as error:
            return [f"the failed ingestions cannot be read: {error}"]

    def _batch_way(self) -> Ingestion | None:
        """Nobody waits for a batch's rows, and the queue is cheaper for the cluster."""
        return "queued" if self.database.settings.kusto_ingestion == "managed" else None


@dataclass(frozen=True)
class KeyWindow:
    """Images whose key, counted from `pivot` on around the end of all keys, is at least `low` and below `high`."""

    low: int
    high: int
    pivot: int = 0


_WATERMARK = pa.schema([("count_", pa.int64()), ("newest", PREDICTIONS.field("logged_at").type)])
_COUNT = pa.schema([("Count", pa.int64())])


# ---------------------------------------------------------------------- the queries
_TAKEN = """let taken = union (selections | project image_id), (labels | project image_id)
| distinct image_id;"""


def size_query(model_name: str | None, model_version: int | None) -> Query:
    """How many rows lie there, those that were sent twice twice: what decides about windows."""
    filters, parameters = _of_model(model_name, model_version)
    return Query(f"predictions{filters}\n| count", _COUNT, parameters)


def watermark_query(model_name: str | None, model_version: int | None, window: KeyWindow | None = None) -> Query:
    """Counts predictions, each once."""
    filters, parameters = _of_model(model_name, model_version, window=window)
    text = f"""predictions{filters}
| where source != "{RESCORE}"
| summarize newest = max(logged_at) by prediction_id
| summarize count_ = count(), newest = max(newest)
| project count_, newest"""
    return Query(text, _WATERMARK, parameters)


def eligible_query(
    model_name: str,
    model_version: int | None,
    order: Order,
    limit: int,
    columns: Sequence[str],
    exclude: Collection[str],
    part: Part | None = None,
    window: KeyWindow | None = None,
    worst: float | None = None,
) -> Query:
    """The batch: newest prediction per image, not taken, in order, the first `limit`.

    Of one window, where a `window` is given; `worst`: the score of the last one among those of the windows before.
    """
    needed = [*columns, "image_key"] if order.column == "random" else list(columns)
    text, parameters = _free(model_name, model_version, needed, exclude, part, window)
    if order.column == "random":
        parameters["_pivot"] = ("long", order.pivot)
        text += f"\n| extend place = (image_key - _pivot + {KEY_SPACE}) % {KEY_SPACE}"
        by = "place asc"
    else:
        by = f"{order.column} {'desc' if order.descending else 'asc'}"
        if worst is not None:
            wide = WIDER * max(1.0, abs(worst))  # the log may hold more digits than 32 bits do
            parameters["_worst"] = ("real", worst - wide if order.descending else worst + wide)
            text += f"\n| where {order.column} {'>=' if order.descending else '<='} _worst"
    text += f"\n| order by {by}, image_id asc\n| take {int(limit)}\n| project {', '.join(columns)}"
    return Query(text, _records(columns), parameters)


def beginning_query(model_name: str, model_version: int) -> Query:
    """The first moment of a version's traffic; no row before there is any."""
    filters, parameters = _of_model(model_name, model_version)
    text = f"""predictions{filters}
| where source != "{RESCORE}"
| summarize logged_at = min(logged_at)
| where isnotnull(logged_at)
| project logged_at"""
    return Query(text, _records(["logged_at"]), parameters)


def sample_query(
    model_name: str,
    model_version: int,
    window: tuple[datetime, datetime],
    order: Order,
    limit: int,
    columns: Sequence[str],
    part: Part | None = None,
) -> Query:
    """Images of some days in random order, each with its newest prediction of these days, the first `limit`."""
    filters, parameters = _of_model(model_name, model_version, part)
    parameters |= {
        "_since": ("datetime", window[0]),
        "_until": ("datetime", window[1]),
        "_pivot": ("long", order.pivot),
    }
    beside = [name for name in dict.fromkeys([*columns, "image_key"]) if name not in _IDENTITY]
    more = "".join(f", {name}" for name in beside)
    text = f"""predictions{filters}
| where logged_at >= _since and logged_at < _until and source != "{RESCORE}"
| summarize arg_max(prediction_id{more}) by image_id, logged_at
| summarize arg_max(logged_at, prediction_id{more}) by image_id
| extend place = (image_key - _pivot + {KEY_SPACE}) % {KEY_SPACE}
| order by place asc, image_id asc
| take {int(limit)}
| project {", ".join(columns)}"""
    return Query(text, _records(columns), parameters)


def count_query(
    model_name: str, model_version: int | None, part: Part | None = None, window: KeyWindow | None = None
) -> Query:
    """How many images are free."""
    filters, parameters = _of_model(model_name, model_version, part, window)
    text = f"""{_TAKEN}
predictions{filters}
| distinct image_id
| join kind=leftanti taken on image_id
| count"""
    return Query(text, _COUNT, parameters)


def arrays_query(prediction_ids: list[str], columns: Sequence[str]) -> Query:
    """The arrays of chosen predictions."""
    listed = ", ".join(columns)
    text = f"""predictions
| where prediction_id in (_ids)
| summarize arg_max(logged_at, {listed}) by prediction_id
| project prediction_id, {listed}"""
    return Query(text, _records(["prediction_id", *columns]), {"_ids": ("dynamic", prediction_ids)})


def rows_query(image_ids: list[str], columns: Sequence[str]) -> Query:
    """Every prediction of some images, each once."""
    asked = tuple(dict.fromkeys([*columns, "logged_at", "prediction_id"]))
    text = f"""predictions
| where image_id in (_ids)
| summarize arg_max(logged_at, *) by prediction_id
| project {", ".join(asked)}"""
    return Query(text, _records(asked), {"_ids": ("dynamic", image_ids)})


def page_query(
    columns: Sequence[str],
    after: datetime,
    seen: Sequence[str],
    model_name: str | None = None,
    model_version: int | None = None,
) -> Query:
    """One page of the log by time, from a moment on, without what was already read of that moment."""
    filters, parameters = _of_model(model_name, model_version)
    asked = tuple(dict.fromkeys([*columns, "logged_at", "prediction_id"]))
    # First which rows, by two narrow columns; the wide ones are read of these alone. No group per row of the log: what
    # was sent twice stands side by side.
    text = f"""let page = predictions{filters}
| where logged_at >= _after and prediction_id !in (_seen)
| project logged_at, prediction_id
| order by logged_at asc, prediction_id asc
| take {PAGE}
| distinct logged_at, prediction_id;
predictions
| where logged_at >= _after
| join kind=leftsemi page on prediction_id
| summarize arg_max(logged_at, *) by prediction_id
| order by logged_at asc, prediction_id asc
| project {", ".join(asked)}"""
    parameters |= {"_after": ("datetime", after), "_seen": ("dynamic", list(seen))}
    return Query(text, _records(asked), parameters)


def _free(
    model_name: str,
    model_version: int | None,
    columns: Sequence[str],
    exclude: Collection[str],
    part: Part | None,
    window: KeyWindow | None,
) -> tuple[str, dict[str, tuple[str, Any]]]:
    filters, parameters = _of_model(model_name, model_version, part, window)
    parameters["_exclude"] = ("dynamic", sorted(exclude))
    beside = [name for name in dict.fromkeys(columns) if name not in _IDENTITY]
    more = "".join(f", {name}" for name in beside)
    text = f"""{_TAKEN}
predictions{filters}
| where image_id !in (_exclude)
| summarize arg_max(prediction_id{more}) by image_id, logged_at
| summarize arg_max(logged_at, prediction_id{more}) by image_id
| join kind=leftanti taken on image_id"""
    return text, parameters


def _records(columns: Sequence[str]) -> pa.Schema:
    return pa.schema([PREDICTIONS.field(name) for name in columns])


def _of_model(
    model_name: str | None, model_version: int | None, part: Part | None = None, window: KeyWindow | None = None
) -> tuple[str, dict[str, tuple[str, Any]]]:
    text, parameters = "", dict[str, tuple[str, Any]]()
    if model_name is not None:
        text += "\n| where model_name in (_name)"
        parameters["_name"] = ("dynamic", [model_name])
    if model_version is not None:
        text += "\n| where model_version == _version"
        parameters["_version"] = ("long", model_version)
    if window is not None:
        place = "image_key"
        if window.pivot:
            place = f"(image_key - _from + {KEY_SPACE}) % {KEY_SPACE}"
            parameters["_from"] = ("long", window.pivot)
        text += f"\n| where {place} >= _low and {place} < _high"
        parameters |= {"_low": ("long", window.low), "_high": ("long", window.high)}
    if part is not None:
        reserve, (low, high) = part.reserve, part.bounds
        mapped = f"(image_key % {MODULUS} * {reserve.multiplier} + {reserve.offset}) % {MODULUS}"
        text += f"\n| extend role = {mapped}\n| where role >= {low} and role < {high}"
    return text, parameters


def _narrow(wanted: Sequence[str]) -> list[str]:
    """The wanted columns that are no arrays, and the id by which these are found."""
    return list(dict.fromkeys([*(name for name in wanted if name not in WIDE), "prediction_id"]))


def _paged(items: list[str], size: int) -> Iterator[list[str]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
