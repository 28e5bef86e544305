"""The prediction log as a Delta table: appended by many processes at once, read with Polars.

A selection has to find the few best of millions without loading them, so the work goes from narrow to wide:

1. the best `k` scores, with nothing but the image's key beside them (two narrow columns),
2. the wanted columns of these rows: files are sorted by margin, so a few row groups hold them,
3. which of these images stand in the log again, and what is newest there (numbers, no strings),
4. eligibility, decided for these few, against the ledgers.

If fewer than asked for remain, `k` grows. A random order goes the same way with the keys themselves.
An image's key is 60 bits of its id: it is used to find rows, never to tell images apart. For that, `id_tail`
beside it holds 60 more, from the other end.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa

from al_core.judging.truth import Part
from al_core.records import PREDICTIONS, RESCORE, empty_table
from al_core.strategies.base import KEY_SPACE, Order
from al_resources.delta_tables import (
    commit,
    erase_images,
    merge_small_files,
    merging_files,
    open_or_create,
    open_table,
    scan,
    vacuum,
)
from al_resources.forgotten import check_ids, forgotten_ids
from al_resources.half_precision import packed, unpacked
from al_resources.ledgers import Ledgers
from al_resources.prediction_store import Watermark
from al_resources.prediction_store.rows import (
    SCORES,
    as_records,
    check_columns,
    checked_rows,
    id_bits,
    wanted_columns,
)

if TYPE_CHECKING:
    from deltalake import DeltaTable

PARTITIONS = ["model_name", "model_version", "logged_on"]
EXACT_COUNT_ROWS = 1_000_000  # up to here `count_eligible` counts every image
SLICE_ROWS = 250_000  # beyond, it counts about so many and extrapolates: standard error below 0.3 %
SLACK = 64  # images looked at beyond 5/4 of those asked for, before anything is known to be taken
ROW_GROUP = 16_384  # small: a row group is the least that is decoded around one wanted row
SMALL_FILES = 8  # a partition with fewer is left alone
MANY_SMALL_FILES = 64  # so many are merged whatever their size: every file costs each reader an open
SMALL_SHARE = 0.2  # of the partition's bytes; below, rewriting the sorted file is not worth it yet
TARGET_BYTES = 256 << 20
LOOK_EVERY = 64  # appends after which it is looked at whether small files have to be merged meanwhile
APPENDED_BYTES = 4 << 20  # files below are small for that; what is merged is about as large
SORT_BYTES = 1 << 30  # memory that a compaction may always take to sort in, beyond that on disk
SORT_SHARE = 0.25  # of the free memory: the more, the fewer pieces are merged from disk

_EMBEDDING = PREDICTIONS.get_field_index("embedding")
_PHYSICAL = (
    PREDICTIONS.set(_EMBEDDING, pa.field("embedding", pa.binary()))
    .append(pa.field("id_tail", pa.int64()))
    .append(pa.field("logged_on", pa.date32()))
)
_key = pl.col("image_key")
_IMAGE = ["image_key", "id_tail"]  # what tells images apart without a string
_NARROW = ("image_id", "image_key", "id_tail", "prediction_id", "logged_at")


@dataclass(frozen=True)
class _Candidates:
    """The newest predictions of some images, among them all that can win inside a region of the order."""

    rows: pl.DataFrame  # at least _NARROW and the score; of an image perhaps older predictions, too
    region: pl.Expr  # what part of the order is fully known
    everything: bool  # whether that is all of it


class DeltaPredictionStore:
    """`PredictionStore` in a local folder; a folder that is missing is an empty log."""

    def __init__(self, path: Path | str, ledgers: Ledgers) -> None:
        self.path = Path(path)
        self.ledgers = ledgers

    # ------------------------------------------------------------------ writing
    def append(self, predictions: pa.Table) -> None:
        """Add rows in one commit; many processes may do so at once.

        Raises:
            ValueError: a column is missing, unknown, of another type, or holds what selection cannot order.
            TimeoutError: other writers were faster for minutes; nothing was written.
        """
        import pyarrow.compute as pc

        rows = checked_rows(predictions)
        if not len(rows):
            return
        rows = rows.set_column(_EMBEDDING, "embedding", packed(rows["embedding"]))
        rows = rows.append_column("id_tail", pa.array(id_bits(rows["image_id"], slice_from=-15)))
        rows = rows.append_column("logged_on", pc.cast(rows["logged_at"], pa.date32()))
        # Sorted by margin, a file gives its best rows from its first row group.
        ordered = rows.take(pc.sort_indices(rows["margin"]))
        version = commit(self.path, lambda: self._append(ordered))
        if version % LOOK_EVERY == 0:
            self._merge_small_files()

    def compact(self) -> dict[str, int]:
        """Merge the small files of each partition into one sorted by margin, and delete what no reader needs."""
        done = {"partitions": 0, "files_before": 0, "files_after": 0, "files_deleted": 0}
        if self._table() is None:
            return done
        with merging_files(self.path) as our_turn:
            table = self._table()
            if not our_turn or table is None:
                return done
            for partition in _fragmented(_files(table)).iter_rows(named=True):
                metrics = _rewrite(table, [(name, "=", str(partition[name])) for name in PARTITIONS])
                done["partitions"] += 1
                done["files_before"] += metrics["numFilesRemoved"]
                done["files_after"] += metrics["numFilesAdded"]
            return {**done, "files_deleted": vacuum(self.path, table)}

    def erase(self, image_ids: Collection[str]) -> int:
        """Erase every prediction of some images, see `erase_images`."""
        check_ids(image_ids)
        return erase_images(self.path, image_ids, _writer_properties())

    # ------------------------------------------------------------------ selection
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
        table = self._table()
        if table is None or limit == 0:
            return _records(pl.DataFrame(), wanted)
        log = _of_part(_of_model(table, model_name, model_version), part)
        count = _expected_rows(_files(table, model_name, model_version), part)
        taken, chosen = self._taken(exclude, model_version)
        if order.column == "random":
            search = _by_key(log, order, wanted, taken, count, limit)
            by = [_from_pivot(order)]
        else:
            # What was chosen before leads the order, some of it in several rows: each pass that is too short costs as
            # much as one that is long enough.
            k = limit + chosen
            search = _by_score(log, order, wanted, taken, count, k + k // 4 + SLACK)
            by = [pl.col(order.column)]
        for candidates in search:
            winners = (
                _newest(candidates.rows)
                .filter(candidates.region)
                .join(taken, on="image_id", how="anti")
                .sort(*by, "image_id", descending=[order.descending, False])
                .head(limit)
            )
            if len(winners) == limit or candidates.everything:
                break
        return _records(_widened(log, winners, order, wanted), wanted)

    def count_eligible(self, model_name: str, model_version: int | None, part: Part | None = None) -> int:
        """How many distinct images `eligible` could return: exact up to a million rows.

        Beyond, a slice of the (uniform) key space with about `SLICE_ROWS` rows is counted and extrapolated;
        the standard error is then below 0.3 % of the answer.
        """
        table = self._table()
        if table is None:
            return 0
        log = _of_part(_of_model(table, model_name, model_version), part)
        count = _expected_rows(_files(table, model_name, model_version), part)
        share = 1.0 if count <= EXACT_COUNT_ROWS else SLICE_ROWS / count
        images = log.filter(_key < round(share * KEY_SPACE)).select(_IMAGE).collect(engine="streaming").unique()
        taken, _ = self._taken((), model_version)
        return round(len(images.join(taken, on=_IMAGE, how="anti")) / share)

    def _taken(self, exclude: Collection[str], model_version: int | None) -> tuple[pl.DataFrame, int]:
        """The images that may not be chosen, by id and by `_IMAGE`, and how many of them this model chose itself."""
        selections = self.ledgers.read("selections")
        ids = pl.concat(
            [
                selections["image_id"],
                self.ledgers.read("labels")["image_id"],
                pl.Series("image_id", list(exclude), pl.String),
            ]
        )
        ids = ids.unique()
        taken = {"image_id": ids, "image_key": id_bits(ids, slice_from=0), "id_tail": id_bits(ids, slice_from=-15)}
        own = selections if model_version is None else selections.filter(model_version=model_version)
        return pl.DataFrame(taken), own.height

    # ------------------------------------------------------------------ reading
    def watermark(self, model_name: str | None = None, model_version: int | None = None) -> Watermark:
        """Rows and newest time, from the table's log but for `source`, and one column of the newest file.

        Nothing but what is forgotten is ever removed from the log, so the number of rows and of these names its state.
        """
        table = self._table()
        if table is None:
            return Watermark(0, None, "empty")
        files = _files(table, model_name, model_version)
        log, traffic = _of_model(table, model_name, model_version), pl.col("source") != RESCORE
        rows = _rows(files)
        # A column of few values: row groups that hold none of these are passed over by their statistics.
        rows -= log.filter(~traffic).select(pl.len()).collect().item()
        if not rows:
            return Watermark(0, None, "empty")
        # Statistics are cut to milliseconds: only the rows from there on are read.
        cut, at = files["max.logged_at"].max(), pl.col("logged_at").max()
        last = log.filter(pl.col("logged_at") >= cut, traffic).select(at).collect().item()
        if last is None:  # a selection came after the last answer
            last = log.filter(traffic).select(at).collect(engine="streaming").item()
        erased = f":{forgotten}" if (forgotten := len(forgotten_ids(self.ledgers))) else ""
        return Watermark(rows, last, f"{table.metadata().id}:{rows}{erased}")

    def first_logged(self, model_name: str, model_version: int) -> datetime | None:
        """When the traffic of a version began: one column of its files."""
        table = self._table()
        if table is None:
            return None
        log = _of_model(table, model_name, model_version).filter(pl.col("source") != RESCORE)
        return log.select(pl.col("logged_at").min()).collect(engine="streaming").item()

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
        """A uniform sample of the images answered in some days, see `PredictionStore.sample`.

        Two narrow columns are read of the days that it touches, and the wanted ones around the rows that are drawn.
        """
        check_columns(columns)
        wanted = list(dict.fromkeys(["image_id", *columns]))
        traffic = self.rows_between(model_name, model_version, since, until).filter(pl.col("source") != RESCORE)
        rows = _of_part(traffic, part)
        if limit <= 0 or not (count := rows.select(pl.len()).collect(engine="streaming").item()):
            return _records(pl.DataFrame(), wanted)
        order = Order("random", seed=seed)
        keys = _first_keys(rows, order, limit, count)
        found = rows.filter(_key.is_in(keys.implode())).select(*dict.fromkeys([*_NARROW, *wanted])).collect()
        drawn = _newest(found).sort(_from_pivot(order), "image_id").head(limit)
        return _records(drawn, wanted)

    def rows_of(self, image_ids: Collection[str], columns: Sequence[str] | None = None) -> pa.Table:
        """Every prediction of these images, of all models, newest first."""
        wanted = list(dict.fromkeys(columns)) if columns is not None else PREDICTIONS.names
        check_columns(wanted)
        table = self._table()
        if table is None or not image_ids:
            return _records(pl.DataFrame(), wanted)
        ids = pl.Series("image_id", list(image_ids), pl.String)
        rows = (
            scan(table, _PHYSICAL)
            .filter(_key.is_in(id_bits(ids, slice_from=0).implode()), pl.col("image_id").is_in(ids.implode()))
            .select(*dict.fromkeys([*wanted, "logged_at", "prediction_id"]))
            .sort("logged_at", "prediction_id", descending=True)
            .collect()
        )
        return _records(rows, wanted)

    def scan(
        self,
        columns: Sequence[str],
        *,
        since: datetime | None = None,
        model_name: str | None = None,
        model_version: int | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """The log in batches of at most 65 536 rows, in no particular order; `since` is inclusive."""
        wanted = list(dict.fromkeys(columns))
        check_columns(wanted)
        table = self._table()
        if table is None:
            return
        log = _of_model(table, model_name, model_version)
        if since is not None:
            log = log.filter(pl.col("logged_on") >= since.date(), pl.col("logged_at") >= since)
        for rows in log.select(wanted).collect_batches(chunk_size=65_536, maintain_order=False):
            yield from _records(rows, wanted).to_batches(max_chunksize=65_536)

    def rows_between(
        self, model_name: str, model_version: int | None, since: datetime, until: datetime
    ) -> pl.LazyFrame:
        """One model's part of the log from `since` (inclusive) to `until` (exclusive), not read yet."""
        table = self._table()
        if table is None:
            return pl.DataFrame(empty_table(PREDICTIONS)).lazy()
        in_days = pl.col("logged_on").is_between(_utc(since).date(), _utc(until).date())
        at = pl.col("logged_at")
        return _of_model(table, model_name, model_version).filter(in_days, at >= since, at < until)

    def failures(self) -> list[str]:
        """None ever: what `append` took is committed."""
        return []

    def _table(self) -> DeltaTable | None:
        return open_table(self.path)

    def _merge_small_files(self) -> None:
        """Until `compact` sorts the log. What does not come about now will at one of the next appends."""
        from deltalake.exceptions import CommitFailedError

        with suppress(CommitFailedError):
            merge_small_files(
                self.path,
                PARTITIONS,
                smaller_than=APPENDED_BYTES,
                least=LOOK_EVERY // 2,
                properties=_writer_properties(),
            )

    def _append(self, rows: pa.Table) -> int:
        """One attempt; the version of the table afterwards."""
        from deltalake import CommitProperties, write_deltalake

        # Statistics of ids would be most of the table's log, and can never rule a file out.
        statistics: dict[str, str | None] = {"delta.dataSkippingStatsColumns": "confidence,margin,entropy,logged_at"}
        table = open_or_create(self.path, _PHYSICAL, partition_by=PARTITIONS, configuration=statistics)
        write_deltalake(
            table,
            rows,
            mode="append",
            writer_properties=_writer_properties(),
            commit_properties=CommitProperties(max_commit_retries=100),  # appends never contradict each other
        )
        return table.version()


def _records(rows: pl.DataFrame, columns: list[str]) -> pa.Table:
    """`rows` as records of the log, embeddings unpacked."""
    if rows.is_empty() or "embedding" not in columns:
        return as_records(rows, columns)
    table = rows.select(columns).to_arrow()
    return as_records(table.set_column(columns.index("embedding"), "embedding", unpacked(table["embedding"])), columns)


# ---------------------------------------------------------------------- writing
def _writer_properties() -> Any:
    from deltalake import ColumnProperties, WriterProperties

    plain = ColumnProperties(dictionary_enabled=False)  # no value repeats: a dictionary would only be overhead
    unique = (
        "prediction_id",
        "image_id",
        "image_key",
        "image_uri",
        "image_hash",
        "id_tail",
        "logged_at",
        *SCORES,
    )
    return WriterProperties(
        compression="LZ4", max_row_group_size=ROW_GROUP, column_properties=dict.fromkeys(unique, plain)
    )


def _rewrite(table: DeltaTable, partition: list[tuple[str, str, str]]) -> dict[str, int]:
    """Merge a partition's files into large ones, sorted by margin unless that takes more memory than there is."""
    import psutil
    from deltalake.exceptions import DeltaError

    free = int(SORT_SHARE * psutil.virtual_memory().available)
    how: dict[str, Any] = {
        "partition_filters": partition,
        "target_size": TARGET_BYTES,
        "max_concurrent_tasks": 1,
        "max_spill_size": max(SORT_BYTES, free),
        "writer_properties": _writer_properties(),
    }
    try:
        return table.optimize.z_order(["margin"], **how)
    except DeltaError as error:
        if "Resources exhausted" not in str(error):
            raise
        # Row groups are sorted as they were written, so a selection still finds its few; there are more to look at.
        return table.optimize.compact(**how)


# ---------------------------------------------------------------------- what lies where
def _utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC)


def _of_model(table: DeltaTable, model_name: str | None, model_version: int | None) -> pl.LazyFrame:
    log = scan(table, _PHYSICAL)
    if model_name is not None:
        log = log.filter(pl.col("model_name") == model_name)
    if model_version is not None:
        log = log.filter(pl.col("model_version") == model_version)
    return log


def log_table(path: Path) -> tuple[Path, pa.Schema]:
    """Where the log lies, and the columns it has."""
    return path, _PHYSICAL


def _of_part(log: pl.LazyFrame, part: Part | None) -> pl.LazyFrame:
    return log if part is None else log.filter(part.filter(_key))


def _files(table: DeltaTable, model_name: str | None = None, model_version: int | None = None) -> pl.DataFrame:
    """The live files of the table: path, size_bytes, num_records, max.logged_at and the partition's values."""
    files = pl.DataFrame(table.get_add_actions(flatten=True))
    files = files.rename({f"partition.{name}": name for name in PARTITIONS})
    if model_name is not None:
        files = files.filter(pl.col("model_name") == model_name)
    if model_version is not None:
        files = files.filter(pl.col("model_version") == model_version)
    return files


def _rows(files: pl.DataFrame) -> int:
    return int(files["num_records"].sum())


def _expected_rows(files: pl.DataFrame, part: Part | None) -> int:
    """How many of the rows belong to the part, by its share: it guides the search, which is exact whatever it says."""
    rows = _rows(files)
    return rows if part is None else round(rows * part.share)


def _fragmented(files: pl.DataFrame) -> pl.DataFrame:
    """The partitions worth rewriting: enough small files, and enough in them."""
    small = pl.col("size_bytes") < TARGET_BYTES // 2
    share = pl.col("size_bytes").filter(small).sum() / pl.col("size_bytes").sum()
    grouped = files.group_by(PARTITIONS).agg(files=small.sum(), share=share)
    worth = (pl.col("files") >= SMALL_FILES) & (pl.col("share") >= SMALL_SHARE)
    return grouped.filter(worth | (pl.col("files") >= MANY_SMALL_FILES)).sort(PARTITIONS)


# ---------------------------------------------------------------------- searching
def _by_score(
    log: pl.LazyFrame, order: Order, wanted: list[str], taken: pl.DataFrame, count: int, k: int
) -> Iterator[_Candidates]:
    """Ever larger beginnings of the order of a score, from about `k` rows up to all `count`."""
    score = pl.col(order.column)
    columns = list(dict.fromkeys([*_NARROW, *wanted]))
    narrow = log.select(score, _key)
    while k < count:
        best = narrow.top_k(k, by=score) if order.descending else narrow.bottom_k(k, by=score)
        top = best.collect(engine="streaming")
        edge = top[order.column].min() if order.descending else top[order.column].max()
        before, reached = (score > edge, score >= edge) if order.descending else (score < edge, score <= edge)
        # Among equal scores at the edge the cut was arbitrary, so only what lies before it is known.
        rows = _current_predictions(log, columns, top["image_key"], reached)
        yield _Candidates(rows, before, everything=False)
        if (top[order.column] == edge).sum() > k // 2:
            # Nearly all scores are equal (a saturated model): growing would not end, the key decides.
            tied = log.filter(score == edge).select(_key).bottom_k(k, by=_key).collect(engine="streaming")
            keys = pl.concat([top.filter(before)["image_key"], tied["image_key"]])
            known = _key <= tied["image_key"].max() if len(tied) == k else pl.lit(True)
            rows = _current_predictions(log, columns, keys, reached)
            yield _Candidates(rows, before | ((score == edge) & known), everything=False)
        k *= 4
    yield _everything_free(log.select(*_NARROW, score), taken)


def _by_key(
    log: pl.LazyFrame, order: Order, wanted: list[str], taken: pl.DataFrame, count: int, limit: int
) -> Iterator[_Candidates]:
    """The first `limit` images of the ring of keys, beginning at the pivot.

    They lie scattered over all files, and a whole row group is decoded around each: so who they are is decided
    by numbers alone, in ever larger windows of the ring, and strings are read for them only.
    """
    k = limit + limit // 4 + SLACK
    width = KEY_SPACE if k >= count else KEY_SPACE * k // count
    while width < KEY_SPACE:
        end = order.pivot + width
        window = ((_key >= order.pivot) & (_key < end)) | (_key < end - KEY_SPACE)
        images = log.filter(window).select(_IMAGE).collect().unique().join(taken, on=_IMAGE, how="anti")
        if len(images) >= limit:
            keys = images.bottom_k(limit, by=_from_pivot(order))["image_key"]
            columns = list(dict.fromkeys([*_NARROW, *wanted]))
            rows = log.filter(_key.is_in(keys.unique().implode())).select(columns).collect()
            yield _Candidates(rows, pl.lit(True), everything=False)
        width *= 4
    yield _everything_free(log.select(_NARROW), taken)


def _first_keys(rows: pl.LazyFrame, order: Order, limit: int, count: int) -> pl.Series:
    """The keys of the first `limit` images of the ring, from windows of it that grow until they hold so many."""
    k = limit + limit // 4 + SLACK
    width = KEY_SPACE if k >= count else KEY_SPACE * k // count
    while True:
        within = pl.lit(True) if width >= KEY_SPACE else _from_pivot(order) < width
        images = rows.filter(within).select(_IMAGE).collect(engine="streaming").unique()
        if len(images) >= limit or width >= KEY_SPACE:
            return images.bottom_k(min(limit, len(images)), by=_from_pivot(order))["image_key"].unique()
        width *= 4


def _from_pivot(order: Order) -> pl.Expr:
    """Where an image stands in the random order."""
    return (_key - order.pivot) % KEY_SPACE


def _everything_free(log: pl.LazyFrame, taken: pl.DataFrame) -> _Candidates:
    """The last resort, when fewer are eligible than asked for: so few that all of them fit into memory."""
    free = log.join(taken.lazy(), on="image_id", how="anti").collect(engine="streaming")
    return _Candidates(free, pl.lit(True), everything=True)


def _current_predictions(log: pl.LazyFrame, columns: list[str], keys: pl.Series, reached: pl.Expr) -> pl.DataFrame:
    """Those predictions where `reached` holds of the images with these keys that none elsewhere is newer than."""
    these = _key.is_in(keys.unique().implode())
    reached_rows = log.filter(reached, these).select(columns).collect()
    all_rows = log.filter(these).select(*_IMAGE, "logged_at").collect()  # one pass through the keys; most match nothing
    again = _key.is_in(all_rows.filter(_key.is_duplicated())["image_key"].unique().implode())
    scored_again = reached_rows.filter(again)
    if scored_again.is_empty():  # most images are scored once: there is nothing to compare
        return reached_rows
    current = _current_of(log, scored_again, all_rows.filter(again))
    return pl.concat([reached_rows.filter(~again), current])


def _current_of(log: pl.LazyFrame, reached_rows: pl.DataFrame, all_rows: pl.DataFrame) -> pl.DataFrame:
    """The rows of `reached_rows` as new as the newest of their image in `all_rows`."""
    at = pl.col("logged_at")
    newest, times = at.max().alias("newest"), (at == at.max()).sum().alias("times")
    compared = (
        reached_rows.group_by(_IMAGE)
        .agg(newest, times)
        .join(all_rows.group_by(_IMAGE).agg(newest, times), on=_IMAGE, suffix="_of_all")
    )
    current = compared.filter(pl.col("newest") == pl.col("newest_of_all"))
    reached_rows = reached_rows.join(current, on=_IMAGE, how="semi")
    # Another prediction of the very same moment lies elsewhere: the prediction id decides, so all are needed.
    tied = _key.is_in(current.filter(pl.col("times") < pl.col("times_of_all"))["image_key"].implode())
    if current.filter(tied).is_empty():
        return reached_rows
    return pl.concat([reached_rows.filter(~tied), log.filter(tied).select(reached_rows.columns).collect()])


def _newest(rows: pl.DataFrame) -> pl.DataFrame:
    again = rows["image_id"].is_duplicated()
    newest_first = rows.filter(again).sort("logged_at", "prediction_id", descending=True)
    return pl.concat([rows.filter(~again), newest_first.unique("image_id", keep="first", maintain_order=True)])


def _widened(log: pl.LazyFrame, winners: pl.DataFrame, order: Order, wanted: list[str]) -> pl.DataFrame:
    """The wanted columns of the winners, in their order."""
    if winners.is_empty() or set(wanted) <= set(winners.columns):
        return winners
    rows = log.filter(_key.is_in(winners["image_key"].implode()))
    if order.column != "random":
        scores = winners[order.column]
        rows = rows.filter(pl.col(order.column).is_between(scores.min(), scores.max()))
    identity = ["image_id", "prediction_id", "logged_at"]
    found = rows.select(*dict.fromkeys([*wanted, *identity])).collect().unique(identity)
    return winners.select(identity).join(found, on=identity, how="left", maintain_order="left")
