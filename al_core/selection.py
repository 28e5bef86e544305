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
from al_core.judging.truth import DUEL, Reserve
from al_core.near_duplicates import NearDuplicates, may_have_near_duplicates
from al_core.records import PREDICTIONS, SELECTIONS, empty_table, table_of, utc_now
from al_core.strategies._arrays import to_device
from al_core.strategies.base import Order, Pool, QueryStrategy
from al_core.strategies.context import StrategyContext
from al_core.strategies.typiclust import TypiClust

Embed = Callable[[Sequence[str]], tuple[Sequence[str], np.ndarray]]  # ids -> the readable ones, (M, d) float32
SEARCH = "search"  # the reason of images that a person found
NOBODY = Reserve(0)  # nobody is reserved: what measures the models lies outside of the images
# first images that are chosen by coverage, those beyond are drawn: typical images stand for many while there are few of
# them (EfficientNet-Lite2 on CIFAR-10, drawn and by coverage: 50 labels .513 and .651, 200 .681 and .704, 500 .733 and
# .727)
COVERED = 200
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
class Rules:
    """What holds for every batch. The numbers are explained in `SelectionSettings`."""

    control_share: float
    near_duplicate_distance: int
    pool_limit: int = POOL_LIMIT
    device: str = "cpu"  # "cpu", "cuda", or "auto": a GPU where there is one


@dataclass(frozen=True)
class Judging:
    """What a batch asks for to judge the models by, and what judges already."""

    source: CandidateSource | None = None  # reserved images that measure; None: those that the strategy chooses from
    version: int | None = None  # the model that scored `source`, where it is another one than the strategy's
    duels: Sequence[Mapping[str, Any]] = ()  # drawn already: rows of `SELECTIONS` with both models' answers
    judged: Mapping[str, str] = field(default_factory=dict)  # near-duplicate hashes of images that judge, by id


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
    control: int  # images drawn uniformly in the batch, to judge by
    near_duplicates: tuple[NearDuplicate, ...] = ()
    duels: int = 0  # images on which a challenger and the champion disagree
    judges_short: int = 0  # images to judge by that were asked for and not there
    unusable: dict[str, str] = field(default_factory=dict)  # image id -> why it could not be considered
    details: dict[str, str | int | float] = field(default_factory=dict)  # what the strategy has to say

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
                f"{len(self.near_duplicates)} of them are near-duplicates of chosen ones or of judges "
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
        if self.duels:
            facts["duels"] = self.duels
        if self.judges_short:
            facts["reserve"] = (
                f"{self.judges_short} images fewer than wanted to judge by: the reserve holds no more that are not "
                "labeled or near-duplicates; send more traffic, or raise holdout.reserve"
            )
        if self.shortfall:
            facts["shortfall"] = self.shortfall
        return facts | self.details


def select_batch(
    source: CandidateSource,
    *,
    strategy: QueryStrategy,
    budget: int,
    rules: Rules,
    judging: Judging | None = None,
    different: Sequence[Mapping[str, Any]] = (),
    seed: int,
    round_: int,
    model_version: int,
    context: StrategyContext | None = None,
) -> Selection:
    """Choose up to `budget` eligible images: a random control slice to judge by, then the strategy's from `source`.

    The control slice, `control_share` of the budget (at least one image of a budget above 1), is drawn uniformly
    from the reserved images that measure (`judging.source`), which no strategy is offered, so that its labels are
    unbiased truth; its propensity is slice / eligible images there. Where the reserve is used up, the strategy gets
    what is left of the budget, and the batch says so. No two images of the batch have hashes within
    `near_duplicate_distance` bits; an image left out for that is replaced by the next best one, in the control slice
    too. Images without a hash are never near-duplicates. What resembles an image that judges already may never teach,
    so that no strategy is offered it; the control slice is, or it would not be uniform. Duels take part of the budget
    and stand at the batch's end.

    So do `different` images, drawn already, rows with reason and strategy of their own: unlike the traffic that the
    model began with, or found by a person (`SEARCH`). They teach, so that what resembles a judge is left out of them,
    too.

    A strategy with an `order` is answered by the store. Any other gets the first `pool_limit` images of its
    `prefilter` order as arrays, on `rules.device`; what it needs besides these it takes from `context`. The same seed
    on the same log chooses the same images. `model_version` is the one that scored `source`.

    Raises:
        ValueError: budget or share are out of range, or the strategy refuses the pool.
    """
    _check_request(budget, rules.control_share)
    judging = judging or Judging()
    configured, strategy = strategy, strategy if context is None else strategy.given(context)
    control_seed, strategy_seed = _seeds(seed, 2)
    duplicates = _DuplicateFilter(rules.near_duplicate_distance)
    candidates = _Candidates(source, duplicates, [row["image_id"] for row in different])
    reserved = candidates if judging.source is None else _Candidates(judging.source, duplicates)
    eligible = source.count_eligible()
    to_judge = eligible if judging.source is None else judging.source.count_eligible()
    duels = judging.duels[:budget]
    duplicates.keep({row["image_id"]: row["image_hash"] for row in duels if row["image_hash"]})
    size = min(budget - len(duels), eligible if judging.source is None else eligible + to_judge)

    share = _control_size(size, rules.control_share)
    control = reserved.draw(Order("random", seed=control_seed), share)
    duplicates.keep(judging.judged)
    hashes = [row["image_hash"] for row in different[: size - control.num_rows]]
    admitted = duplicates.admit([row["image_id"] for row in different[: len(hashes)]], hashes)
    different = [different[position] for position in admitted]
    order, count = strategy.order(strategy_seed), size - control.num_rows - len(different)
    if order is not None:
        chosen = candidates.draw(order, count)
        rows = _rows(chosen, None if order.column == "random" else chosen.column(order.column).to_numpy())
        details: dict[str, str | int | float] = {}
    else:
        table, arrays = _pool_table(candidates, strategy, strategy_seed, max(rules.pool_limit, count) if count else 0)
        pool = _pool(table, arrays, strategy, context, rules.device)
        picks = strategy.query(pool, count, strategy_seed)
        rows, details = _rows(table.take(picks.indices), picks.scores, picks.clusters), {**picks.details}

    common = {"round": round_, "model_version": model_version, "seed": seed, "selected_at": utc_now()}
    name = strategy.name if strategy.name == configured.name else f"{configured.name}:{strategy.name}"
    batch = [{**row, "reason": "strategy", "strategy": name} for row in rows]
    drawn: dict[str, Any] = {
        "reason": "control",
        "strategy": "random",
        "propensity": min(1.0, share / max(1, to_judge)),
        "model_version": model_version if judging.version is None else judging.version,
    }
    batch += [row | drawn for row in _rows(control)]
    batch += [{"reason": DUEL, "strategy": "disagreement", **row} for row in duels]
    batch += [dict(row) for row in different]
    return Selection(
        table=_ranked(batch, common),
        budget=budget,
        eligible=eligible,
        control=control.num_rows,
        duels=len(duels),
        near_duplicates=tuple(duplicates.left_out),
        judges_short=share - control.num_rows,
        unusable=candidates.unusable,
        details=details | ({"images that differ": len(different)} if different else {}),
    )


def select_seed_batch(
    images: Mapping[str, str],
    *,
    hash_of: Callable[[str], str | None],
    budget: int,
    near_duplicate_distance: int,
    seed: int,
    round_: int,
    reserve: Reserve = NOBODY,
    judging_share: float = 0,
    embed: Embed | None = None,
    look_at: int = 0,
) -> Selection:
    """The first round, before there is a model: images drawn from `images` (image id -> uri).

    `judging_share` of the budget is drawn uniformly from those that measure. The rest comes from those that teach:
    uniformly too, or with `embed` the first `COVERED` by coverage, the typical images (`TypiClust`) of at most
    `look_at` that are drawn from them. Where either are too few, the others fill up, and in the end those that are kept
    for duels: whoever has fewer images than the budget is asked about all of them. `hash_of` gives an image's
    near-duplicate hash and is asked only for images that are drawn; one it raises `BadImage` for is left out, with the
    reason in `unusable`. The order of `images` does not matter.
    """
    _check_request(budget, judging_share)
    reserved, measuring = set(reserve.among(list(images))), reserve.among(sorted(images), "measure")
    draw = _SeedDraw(images, hash_of, _DuplicateFilter(near_duplicate_distance))
    wanted = round(budget * judging_share)
    [judging_seed] = _seeds(seed, 1)
    judges = draw.uniform(measuring, wanted, judging_seed)
    teaching, count = sorted(images.keys() - reserved), budget - len(judges)
    if embed is None or look_at <= count:
        teachers = draw.uniform(teaching, count, seed)
    else:
        covering = draw.covering(teaching, min(count, COVERED), seed, embed, look_at)
        teachers = draw.uniform(teaching, count, seed, drawn_before=covering)
    more = budget - len(judges) - len(teachers)
    if more > 0:  # nobody is left to teach: the reserve fills the batch up
        judges = draw.uniform(measuring, len(judges) + more, judging_seed, drawn_before=judges)
        more = budget - len(judges) - len(teachers)
        judges += draw.uniform(reserve.among(sorted(images), "duel"), more, judging_seed)
    return Selection(
        table=_ranked([*judges, *teachers], {"round": round_, "seed": seed, "selected_at": utc_now()}),
        budget=budget,
        eligible=len(images),
        control=len(judges),
        near_duplicates=tuple(draw.duplicates.left_out),
        judges_short=max(0, wanted - len(judges)),
        unusable=draw.unusable,
    )


@dataclass
class _SeedDraw:
    """Images drawn before there is a model; hashes are computed of those only that are drawn."""

    images: Mapping[str, str]
    hash_of: Callable[[str], str | None]
    duplicates: _DuplicateFilter
    unusable: dict[str, str] = field(default_factory=dict)

    def uniform(
        self, ids: Sequence[str], count: int, seed: int, drawn_before: Sequence[dict[str, Any]] = ()
    ) -> list[dict[str, Any]]:
        """Rows of up to `count` images, drawn uniformly from `ids`; goes on where an earlier draw ended."""
        rows = [dict(row) for row in drawn_before]
        had = {row["image_id"] for row in rows} | self.unusable.keys() | self._left_out()
        waiting = [ids[position] for position in np.random.default_rng(seed).permutation(len(ids))]
        waiting = [image_id for image_id in waiting if image_id not in had]
        while waiting and len(rows) < count:
            step, waiting = waiting[: count - len(rows)], waiting[count - len(rows) :]
            rows += self._admitted(step)
        covered = sum(row.get("strategy") == TypiClust.name for row in drawn_before)
        drawn, there = min(count, len(ids)) - covered, len(ids) - covered
        facts = {"reason": "seed", "strategy": "random", "propensity": drawn / max(1, there)}
        return [*rows[:covered], *(row | facts for row in rows[covered:])]

    def covering(self, ids: Sequence[str], count: int, seed: int, embed: Embed, look_at: int) -> list[dict[str, Any]]:
        """Rows of up to `count` typical images, of at most `look_at` drawn from `ids`; none resembles another."""
        order = np.random.default_rng(seed).permutation(len(ids))[:look_at]
        asked = [ids[position] for position in np.sort(order)]
        readable, embeddings = embed(asked)
        self.unusable |= dict.fromkeys(set(asked) - set(readable), "it cannot be read")
        rows: list[dict[str, Any]] = []
        names, taken, tried = np.array(readable, str), np.zeros(len(readable), bool), np.zeros(len(readable), bool)
        while len(rows) < count and not tried.all():
            left = np.flatnonzero(~tried)
            nobody = np.zeros(int(taken.sum()), np.int64)
            pool = Pool(
                names[left],
                embeddings=embeddings[left],
                labeled_embeddings=embeddings[taken],
                labeled_targets=nobody,
            )
            picks = TypiClust().query(pool, count - len(rows), seed)
            chosen = left[picks.indices]
            tried[chosen] = True
            found = {row["image_id"]: row for row in self._admitted(names[chosen].tolist())}
            taken[chosen[np.isin(names[chosen], list(found))]] = True
            facts = {"reason": "seed", "strategy": TypiClust.name}
            rows += [
                found[name] | facts | {"score": score}
                for name, score in zip(names[chosen].tolist(), picks.scores.tolist(), strict=True)
                if name in found
            ]
        return rows

    def _admitted(self, step: Sequence[str]) -> list[dict[str, Any]]:
        hashes: dict[str, str | None] = {}
        for image_id in step:
            try:
                hashes[image_id] = self.hash_of(image_id)
            except BadImage as error:
                self.unusable[image_id] = error.reason
        readable = list(hashes)
        admitted = [readable[position] for position in self.duplicates.admit(readable, list(hashes.values()))]
        return [{"image_id": one, "image_uri": self.images[one], "image_hash": hashes[one]} for one in admitted]

    def _left_out(self) -> set[str]:
        return {one.image_id for one in self.duplicates.left_out}


class _DuplicateFilter:
    """Lets an image into the batch unless nearly the same picture is in it already."""

    def __init__(self, distance: int) -> None:
        self._distance = distance
        self._index = NearDuplicates(distance)
        self._unindexed: dict[str, str] = {}  # id -> hash of admitted images that nothing came near to so far
        self.left_out: list[NearDuplicate] = []

    def keep(self, hashes: Mapping[str, str]) -> None:
        """These are in the batch whatever they resemble."""
        for image_id, image_hash in hashes.items():
            self._index.add(image_id, image_hash)

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

    def __init__(
        self, source: CandidateSource, duplicates: _DuplicateFilter, drawn_already: Sequence[str] = ()
    ) -> None:
        self._source = source
        self._looked_at = list(drawn_already)
        self.duplicates = duplicates
        self.unusable: dict[str, str] = {}

    def draw(self, order: Order, count: int, arrays: Sequence[str] = ()) -> pa.Table:
        """The next `count` images in `order`, with provenance, the order's column and `arrays`.

        Fetched in growing steps: near-duplicates cost another step, and nobody pays for images that cannot
        win.
        """
        columns = [*_PROVENANCE, *arrays]
        scored = [] if order.column == "random" else [order.column]
        schema = pa.schema([PREDICTIONS.field(name) for name in ("image_id", *columns, *scored)])
        parts = [empty_table(schema)]
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
            "again, type `al embed` where the encoder is frozen, or choose another strategy"
        )
    by_id = pc.sort_indices(table.column("image_id"))
    arrays = {name: _matrix(table, name)[by_id.to_numpy()] for name in columns}  # ten times as fast as Arrow's take
    return table.drop_columns(columns).take(by_id), arrays


def _pool(
    table: pa.Table,
    arrays: Mapping[str, np.ndarray],
    strategy: QueryStrategy,
    context: StrategyContext | None,
    device: str,
) -> Pool:
    ids = table.column("image_id").to_pylist()
    known = {"probs": arrays.get("probs"), "embeddings": arrays.get("embedding")}
    if "committee" in strategy.needs and context is not None and context.committee is not None:
        known["committee"] = context.committee(ids)
    labeled = context.labeled if "labels" in strategy.needs and context is not None else None
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
    return table_of(SELECTIONS, [{**common, **row, "rank": rank} for rank, row in enumerate(rows)])


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
