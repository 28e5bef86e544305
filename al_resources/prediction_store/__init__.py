"""The prediction log: every answer of every model, appended by many, searched by selection."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import pyarrow as pa

from al_core.judging.truth import Part
from al_core.strategies.base import Order


@dataclass(frozen=True)
class Watermark:
    """How far the log has come by traffic. `token` is stable while none is appended, compaction included."""

    rows: int
    last_logged_at: datetime | None
    token: str


class PredictionStore(Protocol):
    """What every prediction store can do."""

    def append(self, predictions: pa.Table) -> None:
        """Add rows of `PREDICTIONS`; safe to call from many processes at once; all rows or an error."""

    def watermark(self, model_name: str | None = None, model_version: int | None = None) -> Watermark:
        """How many rows there are (of that model and version, where named), and how recent the newest is.

        Images scored again for a selection (`source = "rescore"`) are no traffic and do not count.
        """

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
        """The first `limit` eligible images in `order`: newest prediction per image of that model version
        (None: of any), never selected, never labeled (both looked up in the ledgers), not in `exclude`, and of
        that `part` of all images (None: of either).

        Returns `columns` of `PREDICTIONS` plus `image_id` and the order's column, sorted by that order;
        fewer rows where fewer are eligible.
        """

    def count_eligible(self, model_name: str, model_version: int | None, part: Part | None = None) -> int:
        """How many distinct images `eligible` could return."""

    def first_logged(self, model_name: str, model_version: int) -> datetime | None:
        """When the traffic of a version began; None before it did. Images scored again are no traffic."""

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
        """A uniform sample of the images that a version answered from `since` (inclusive) to `until` (exclusive).

        The first `limit` images in the random order of `seed`, of that `part` of all images; each with the newest of
        its predictions in that time. Images scored again for a selection do not count. Returns `image_id` and
        `columns`.
        """

    def rows_of(self, image_ids: Collection[str], columns: Sequence[str] | None = None) -> pa.Table:
        """Every prediction of these images, newest first."""

    def scan(
        self,
        columns: Sequence[str],
        *,
        since: datetime | None = None,
        model_name: str | None = None,
        model_version: int | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """The log (of that model and version, where named) in batches of bounded size."""

    def erase(self, image_ids: Collection[str]) -> int:
        """Erase every prediction of some images, for `al forget` alone; how many rows there were."""

    def compact(self) -> dict[str, int]:
        """Merge small files, sorted for selection; says what it did. Readers and writers go on undisturbed."""

    def failures(self) -> list[str]:
        """Rows the store took over and could not keep, for people to look at: one sentence each."""
