"""Selection: from a budget to a batch, with the provenance of every chosen image."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from al_core.errors import InvalidInput
from al_core.images import BadImage
from al_core.near_duplicates import NearDuplicates, may_have_near_duplicates
from al_core.records import PREDICTIONS, SELECTIONS, table_of, utc_now
from al_core.strategies._arrays import to_device
from al_core.strategies.base import Labeled, Order, Pool, QueryStrategy

POOL_LIMIT = 50_000  # candidates whose arrays are loaded for a strategy that needs them
_PROVENANCE = ("image_uri", "image_hash", "prediction_id")
_SLACK = 16  # candidates fetched beyond the need, so that a few near-duplicates cost no second query


class CandidateSource(Protocol):
    """The prediction store as selection sees it: bound to one model and version."""

    def eligible(self, order: Order, limit: int, columns: Sequence[str], exclude: Collection[str] = ()) -> pa.Table:
        """The first `limit` eligible images in `order`, see `PredictionStore.eligible`."""

    def count_eligible(self) -> int:
        """How many distinct images `eligible` could return."""


@dataclass(frozen=True)
class NearDuplicate:
    """A candidate left out because the batch holds nearly the same picture."""

    image_id: str
    resembles: str


@dataclass(frozen=True)
class Selection:
    """One round's batch.

    `table` has the columns of `SELECTIONS`. The strategy's images come first, the one it wants most at rank
    0, the control slice after them: that keeps ranks comparable between rounds, and nothing in the rows
    depends on who labels in which order. `size < budget` where there was no more to choose from.
    """

    table: pa.Table
    budget: int
    eligible: int  # images there were to choose from
    control: int  # images of the random slice in the batch
    near_duplicates: tuple[NearDuplicate, ...] = ()
    unusable: dict[str, str] = field(default_factory=dict)  # image id -> why it could not be considered
    details: dict[str, float] = field(default_factory=dict)  # what the strategy has to say

    @property
    def size(self) -> int:
        """Images in the batch."""
        return self.table.num_rows

    @property
    def shortfall(self) -> str | None:
        """Why there are fewer images than the budget asked for, as a sentence; None when there are not."""
        if self.size == self.budget:
            return None
        parts = [f"{self.eligible} images were eligible"]
        if self.near_duplicates:
            parts.append(
                f"{len(self.near_duplicates)} of them are near-duplicates of chosen ones "
                "(selection.near_duplicate_distance; -1 tells all apart)"
            )
        if self.unusable:
            parts.append(f"{len(self.unusable)} could not be used")
        return f"{self.size} of {self.budget} images chosen: " + ", ".join(parts)

    @property
    def facts(self) -> dict[str, str | int | float]:
        """What a person wants to know of the choice, besides the table."""
        facts: dict[str, str | int | float] = {
            "budget": self.budget,
            "eligible images": self.eligible,
            "control slice": self.control,
            "near-duplicates left out": len(self.near_duplicates),
        }
        if self.unusable:
            facts["unusable images"] = len(self.unusable)
        if self.shortfall:
            facts["shortfall"] = self.shortfall
        return facts | self.details


def select_batch(
    source: CandidateSource,
    *,
    strategy: QueryStrategy,
    budget: int,
    control_share: float,
    near_duplicate_distance: int,
    seed: int,
    round_: int,
    model_version: int,
    pool_limit: int = POOL_LIMIT,
    labeled: Labeled | None = None,
    committee: Callable[[Sequence[str]], np.ndarray] | None = None,
    device: str = "cpu",
) -> Selection:
    """Choose up to `budget` eligible images: a random control slice, then the strategy's from the rest.

    The control slice, `control_share` of the budget (at least one image of a budget above 1), is drawn
    uniformly from all eligible images, so that its labels are unbiased truth; its propensity is slice /
    eligible images. No two images of the batch have hashes within `near_duplicate_distance` bits; an image
    left out for that is replaced by the next best one, in the control slice too. Images without a hash
    are never near-duplicates.

    A strategy with an `order` is answered by the store. Any other gets the first `pool_limit` images of its
    `prefilter` order as arrays, on `device`; `labeled` is for strategies that look at what is labeled, and
    `committee` is asked for the answers (N, T, C) of several models to the images of that pool. The same seed
    on the same log chooses the same images.

    Raises:
        ValueError: budget or share are out of range, or the strategy refuses the pool.
    """
    _check_request(budget, control_share)
    configured, strategy = strategy, strategy if labeled is None else strategy.plan(labeled)
    control_seed, strategy_seed = _seeds(seed, 2)
    candidates = _Candidates(source, near_duplicate_distance)
    eligible = source.count_eligible()
    size = min(budget, eligible)

    share = _control_size(size, control_share)
    control = candidates.draw(Order("random", seed=control_seed), share)
    order, count = strategy.order(strategy_seed), size - control.num_rows
    if order is not None:
        chosen = candidates.draw(order, count)
        rows = _rows(chosen, None if order.column == "random" else chosen.column(order.column).to_numpy())
        details: dict[str, float] = {}
    else:
        table, arrays = _pool_table(candidates, strategy, strategy_seed, max(pool_limit, count) if count else 0)
        pool = _pool(table, arrays, strategy, labeled, committee, device)
        picks = strategy.query(pool, count, strategy_seed)
        rows, details = _rows(table.take(picks.indices), picks.scores, picks.clusters), picks.details

    common = {"round": round_, "model_version": model_version, "seed": seed, "selected_at": utc_now()}
    name = strategy.name if strategy is configured else f"{configured.name}:{strategy.name}"
    batch = [{**row, "reason": "strategy", "strategy": name} for row in rows]
    batch += [
        {**row, "reason": "control", "strategy": "random", "propensity": share / eligible} for row in _rows(control)
    ]
    return Selection(
        table=_ranked(batch, common),
        budget=budget,
        eligible=eligible,
        control=control.num_rows,
        near_duplicates=tuple(candidates.duplicates.left_out),
        unusable=candidates.unusable,
        details=details,
    )


def select_seed_batch(
    images: Mapping[str, str],
    *,
    hash_of: Callable[[str], str | None],
    budget: int,
    near_duplicate_distance: int,
    seed: int,
    round_: int,
) -> Selection:
    """The first round, before there is a model: images drawn uniformly from `images` (image id -> uri).

    `hash_of` gives an image's near-duplicate hash and is asked only for images that are drawn; one it raises
    `BadImage` for is left out, with the reason in `unusable`. The order of `images` does not matter.
    """
    _check_request(budget, 0)
    ids = sorted(images)
    duplicates = _DuplicateFilter(near_duplicate_distance)
    unusable: dict[str, str] = {}
    rows: list[dict[str, Any]] = []
    common = {"round": round_, "seed": seed, "selected_at": utc_now()}
    drawn = [ids[position] for position in np.random.default_rng(seed).permutation(len(ids))]
    while drawn and len(rows) < budget:
        step, drawn = drawn[: budget - len(rows)], drawn[budget - len(rows) :]
        hashes: dict[str, str | None] = {}
        for image_id in step:
            try:
                hashes[image_id] = hash_of(image_id)
            except BadImage as error:
                unusable[image_id] = error.reason
        readable = list(hashes)
        for position in duplicates.admit(readable, list(hashes.values())):
            image_id = readable[position]
            rows.append({"image_id": image_id, "image_uri": images[image_id], "image_hash": hashes[image_id]})
    facts = {"reason": "seed", "strategy": "random", "propensity": min(budget, len(ids)) / max(1, len(ids))}
    return Selection(
        table=_ranked([row | facts for row in rows], common),
        budget=budget,
        eligible=len(ids),
        control=0,
        near_duplicates=tuple(duplicates.left_out),
        unusable=unusable,
    )


class _DuplicateFilter:
    """Lets an image into the batch unless nearly the same picture is in it already."""

    def __init__(self, distance: int) -> None:
        self._distance = distance
        self._index = NearDuplicates(distance)
        self._unindexed: dict[str, str] = {}  # id -> hash of admitted images that nothing came near to so far
        self.left_out: list[NearDuplicate] = []

    def admit(self, image_ids: Sequence[str], hashes: Sequence[str | None]) -> list[int]:
        """Positions of the images that are let in, one after the other; an image without a hash always is.

        Few images resemble another one: all but those are found out together, without a look-up each.
        """
        hashed = {image_id: image_hash for image_id, image_hash in zip(image_ids, hashes, strict=True) if image_hash}
        waiting = list(self._unindexed.items())
        every = [*self._index.hashes, *self._unindexed.values(), *hashed.values()]
        suspects = may_have_near_duplicates(every, self._distance)[len(self._index) :]
        for position in np.flatnonzero(suspects[: len(waiting)]):
            self._index.add(*waiting[position])
            del self._unindexed[waiting[position][0]]
        names = list(hashed)
        suspected = {names[position] for position in np.flatnonzero(suspects[len(waiting) :])}
        refused = {image_id for image_id in names if image_id in suspected and not self._lets_in(image_id, hashed)}
        self._unindexed |= hashed if not suspected else {one: hashed[one] for one in names if one not in suspected}
        return [position for position, image_id in enumerate(image_ids) if image_id not in refused]

    def _lets_in(self, image_id: str, hashes: Mapping[str, str]) -> bool:
        resembles = self._index.find(hashes[image_id])
        if resembles is not None:
            self.left_out.append(NearDuplicate(image_id, resembles))
            return False
        self._index.add(image_id, hashes[image_id])
        return True


class _Candidates:
    """The eligible images, drawn order by order; no image and nothing near a drawn one comes twice."""

    def __init__(self, source: CandidateSource, near_duplicate_distance: int) -> None:
        self._source = source
        self._looked_at: list[str] = []
        self.duplicates = _DuplicateFilter(near_duplicate_distance)
        self.unusable: dict[str, str] = {}

    def draw(self, order: Order, count: int, arrays: Sequence[str] = ()) -> pa.Table:
        """The next `count` images in `order`, with provenance, the order's column and `arrays`.

        Fetched in growing steps: near-duplicates cost another step, and nobody pays for images that cannot
        win.
        """
        columns = [*_PROVENANCE, *arrays]
        scored = [] if order.column == "random" else [order.column]
        schema = pa.schema([PREDICTIONS.field(name) for name in ("image_id", *columns, *scored)])
        parts = [schema.empty_table()]
        limit = count + max(_SLACK, count // 10)
        while count > 0:
            table = self._source.eligible(order, limit, columns, exclude=self._looked_at)
            table = table.select(schema.names).cast(schema)
            drawn = self._admitted(table, arrays, count)
            parts.append(_rows_at(table, drawn))
            count -= len(drawn)
            if table.num_rows < limit:
                break
            limit *= 2
        return pa.concat_tables(parts)

    def _admitted(self, table: pa.Table, arrays: Sequence[str], count: int) -> list[int]:
        """Positions of the first `count` rows that hold their arrays and resemble nothing drawn before."""
        admitted: list[int] = []
        start = 0
        while len(admitted) < count and start < table.num_rows:
            step = table.slice(start, count - len(admitted))  # never more than may be admitted
            usable = self._usable(step, arrays)
            rows = _rows_at(step, usable)
            ids, hashes = rows.column("image_id").to_pylist(), rows.column("image_hash").to_pylist()
            admitted += [start + usable[position] for position in self.duplicates.admit(ids, hashes)]
            start += step.num_rows
        return admitted

    def _usable(self, table: pa.Table, arrays: Sequence[str]) -> list[int]:
        """Positions of the rows that hold all arrays; the others are put on record."""
        ids = table.column("image_id").to_pylist()
        self._looked_at += ids
        lacking = {name: table.column(name).is_null().to_numpy() for name in arrays if table.column(name).null_count}
        for position in np.flatnonzero(np.any(list(lacking.values()), axis=0)) if lacking else ():
            absent = [name for name, rows in lacking.items() if rows[position]]
            self.unusable[ids[position]] = f"no {' and '.join(absent)} logged"
        return [position for position, image_id in enumerate(ids) if image_id not in self.unusable]


def _rows_at(table: pa.Table, positions: Sequence[int]) -> pa.Table:
    """The rows at ascending positions; without a copy where they are the first ones."""
    if not positions or positions[-1] == len(positions) - 1:
        return table.slice(0, len(positions))
    return table.take(pa.array(positions, pa.int64()))


def _pool_table(
    candidates: _Candidates, strategy: QueryStrategy, seed: int, limit: int
) -> tuple[pa.Table, dict[str, np.ndarray]]:
    """First of two stages: the store's cheap order finds the images whose arrays are worth loading.

    They are free of near-duplicates before the strategy sees them, so its batch stays whole. Returns their
    provenance, by image id, and beside it the columns that the strategy needs as arrays.
    """
    columns: list[str] = [column for column in ("probs", "embedding") if column in strategy.needs]
    prefilter = Order(strategy.prefilter, descending=strategy.prefilter == "entropy", seed=seed)
    table = candidates.draw(prefilter, limit, columns)
    if candidates.unusable and not table.num_rows:
        raise InvalidInput(
            f"strategy {strategy.name} needs {' and '.join(columns)}, which none of the eligible images has "
            f"logged ({len(candidates.unusable)} looked at); switch serving.log_embeddings on and score them "
            "again, or choose another strategy"
        )
    by_id = pc.sort_indices(table.column("image_id"))
    arrays = {name: _matrix(table, name)[by_id.to_numpy()] for name in columns}  # ten times as fast as Arrow's take
    return table.drop_columns(columns).take(by_id), arrays


def _pool(
    table: pa.Table,
    arrays: Mapping[str, np.ndarray],
    strategy: QueryStrategy,
    labeled: Labeled | None,
    committee: Callable[[Sequence[str]], np.ndarray] | None,
    device: str,
) -> Pool:
    ids = table.column("image_id").to_pylist()
    known = {"probs": arrays.get("probs"), "embeddings": arrays.get("embedding")}
    if "committee" in strategy.needs and committee is not None:
        known["committee"] = committee(ids)
    if labeled is not None:
        known |= {"labeled_embeddings": labeled.embeddings, "labeled_targets": labeled.targets}
    return Pool(
        image_ids=np.array(ids, str),
        labeled_ids=None if labeled is None else labeled.image_ids,
        **{name: to_device(array, device) for name, array in known.items() if array is not None},
    )


def _matrix(table: pa.Table, name: str) -> np.ndarray:
    """A list column as (N, k) float32.

    Raises:
        ValueError: its lists differ in length.
    """
    lists = table.column(name).combine_chunks()
    lengths = lists.value_lengths().unique().to_pylist()
    if len(lengths) > 1:
        raise InvalidInput(f"{name} of {sorted(lengths)} values in one pool; expected the same number for every image")
    values = lists.flatten().to_numpy(zero_copy_only=False)
    return values.reshape(len(lists), lengths[0] if lengths else 0)


def _rows(
    table: pa.Table, scores: np.ndarray | None = None, clusters: np.ndarray | None = None
) -> list[dict[str, Any]]:
    rows = table.select(["image_id", *_PROVENANCE]).to_pylist()
    for position, row in enumerate(rows):
        if scores is not None and np.isfinite(scores[position]):
            row["score"] = float(scores[position])
        if clusters is not None:
            row["cluster"] = int(clusters[position])
    return rows


def _ranked(rows: Sequence[dict[str, Any]], common: dict[str, Any]) -> pa.Table:
    return table_of(SELECTIONS, [{**row, **common, "rank": rank} for rank, row in enumerate(rows)])


def _seeds(seed: int, count: int) -> list[int]:
    """Independent seeds, so that the control slice says nothing about what a random strategy picks."""
    return [int(word) for word in np.random.SeedSequence(seed).generate_state(count)]


def _control_size(count: int, share: float) -> int:
    at_least = 1 if share > 0 and count > 1 else 0
    return max(at_least, round(count * share))


def _check_request(budget: int, control_share: float) -> None:
    if budget < 0:
        raise InvalidInput(f"budget {budget} is negative; expected the number of images to choose")
    if not 0 <= control_share <= 1:
        raise InvalidInput(f"control share {control_share}; expected a share of the budget between 0 and 1")
