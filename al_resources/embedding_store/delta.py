"""The table of embeddings as a Delta table: one partition an encoder, sorted by image, half precision."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pyarrow as pa

from al_core.learning.known_embeddings import Embedded
from al_core.records import EMBEDDINGS
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
from al_resources.embedding_store import Extent, check_embeddings, first_unknown, in_order, nothing_known, rows_at
from al_resources.forgotten import check_ids
from al_resources.half_precision import packed, unpacked
from al_resources.prediction_store.rows import id_bits

if TYPE_CHECKING:
    from deltalake import DeltaTable

ENCODERS = 8  # kept, those that were added to last: where training changes the encoder, each version has its own
ROW_GROUP = 4_096  # rows: of 1 280 values ten megabytes, the least that is decoded around one that is wanted
LOOK_EVERY = 64  # appends after which it is looked at whether small files have to be merged
STREAMED = 16_384  # rows: of 1 280 values 80 megabytes
SMALL_BYTES = 32 << 20
SMALL_FILES = 8  # in a partition with fewer they are left alone
SORT_BYTES = 1 << 30  # memory that sorting a partition may take, beyond that on disk
TARGET_BYTES = 256 << 20

_EMBEDDING = EMBEDDINGS.get_field_index("embedding")
_PHYSICAL = EMBEDDINGS.set(_EMBEDDING, pa.field("embedding", pa.binary()))


class DeltaEmbeddingStore:
    """`EmbeddingStore` in a local folder; a folder that is missing is an empty table."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def add(
        self,
        encoder: str,
        image_ids: Sequence[str],
        embeddings: np.ndarray,
        image_hashes: Sequence[str | None] | None = None,
    ) -> int:
        """Keep what is new in one commit, see `EmbeddingStore.add`.

        Two processes that add the same image at the same moment leave two rows of it, of which readers take one.

        Raises:
            InvalidInput: see there.
            TimeoutError: other writers were faster for minutes; nothing was written.
        """
        check_embeddings(image_ids, embeddings)
        new = first_unknown(image_ids, self.known(encoder, image_ids))
        if not len(new):
            return 0
        rows = rows_at(new, encoder, image_ids, embeddings, image_hashes)
        ordered = rows.sort_by("image_key")
        physical = ordered.set_column(_EMBEDDING, "embedding", packed(ordered["embedding"]))
        version = commit(self.path, lambda: self._append(physical))
        if version % LOOK_EVERY == 0:
            self._merge_small_files()
        return len(new)

    def read(self, encoder: str, image_ids: Sequence[str]) -> Embedded:
        """What this encoder made of these images."""
        rows = self._rows(encoder, image_ids)
        if rows is None:
            return nothing_known(len(image_ids))
        found = rows.select("image_id", "image_hash", "embedding").collect().unique("image_id", keep="any")
        if found.is_empty():
            return nothing_known(len(image_ids))
        return in_order(image_ids, found, _matrix(found["embedding"]))

    def known(self, encoder: str, image_ids: Sequence[str]) -> np.ndarray:
        """Which of these images have an embedding of this encoder: narrow columns only."""
        rows = self._rows(encoder, image_ids)
        if rows is None:
            return np.zeros(len(image_ids), bool)
        there = rows.select("image_id").collect()["image_id"]
        return pl.Series(list(image_ids), dtype=pl.String).is_in(there.implode()).to_numpy()

    def stream(self, encoder: str, image_ids: Collection[str]) -> Iterator[tuple[pl.Series, np.ndarray]]:
        """What this encoder made of these images: one pass over its partition, `STREAMED` rows at a time."""
        rows = self._rows(encoder, image_ids)
        if rows is None:
            return
        parts = rows.select("image_id", "embedding").collect_batches(chunk_size=STREAMED, maintain_order=False)
        for part in parts:
            if part.height:
                yield part["image_id"], _matrix(part["embedding"])

    def counts(self) -> dict[str, int]:
        """How many embeddings there are, by encoder."""
        table = open_table(self.path)
        if table is None:
            return {}
        ids = pl.col("image_id").n_unique().alias("images")
        return dict(scan(table, _PHYSICAL).group_by("encoder").agg(ids).collect(engine="streaming").iter_rows())

    def extent(self, encoder: str, until: datetime | None = None) -> Extent:
        """How many rows an encoder has, of those that were added until a moment: one column of numbers."""
        table = open_table(self.path)
        if table is None:
            return Extent(0, None)
        at = pl.col("embedded_at")
        rows = scan(table, _PHYSICAL).filter(pl.col("encoder") == encoder)
        rows = rows if until is None else rows.filter(at <= until)
        return Extent(*rows.select(pl.len(), at.max()).collect(engine="streaming").row(0))

    def rows_of(self, image_ids: Collection[str]) -> int:
        """How many rows there are of some images, of whatever encoder."""
        table = open_table(self.path)
        if table is None or not image_ids:
            return 0
        return int(_of_images(scan(table, _PHYSICAL), list(image_ids)).select(pl.len()).collect().item())

    def erase(self, image_ids: Collection[str]) -> int:
        """Erase what every encoder made of some images, see `erase_images`."""
        check_ids(image_ids)
        return erase_images(self.path, image_ids, _writer_properties())

    def compact(self, keep: Collection[str] = ()) -> dict[str, int]:
        """Forget encoders nobody added to for long and nobody keeps, sort the small files of the others, clear up."""
        done = {"encoders_forgotten": 0, "encoders_sorted": 0, "files_deleted": 0}
        if open_table(self.path) is None:
            return done
        with merging_files(self.path) as our_turn:
            table = open_table(self.path)
            if not our_turn or table is None:
                return done
            for encoder in self._superseded(table):
                if encoder in keep:
                    continue
                commit(self.path, lambda name=encoder: self._drop(name))  # type: ignore[misc]
                done["encoders_forgotten"] += 1
            table.update_incremental()
            small = _files(table).filter(pl.col("size_bytes") < TARGET_BYTES // 2).group_by("encoder").len()
            for encoder in small.filter(pl.col("len") >= SMALL_FILES)["encoder"].sort():
                table.optimize.z_order(
                    ["image_key"],
                    partition_filters=[("encoder", "=", encoder)],
                    target_size=TARGET_BYTES,
                    max_concurrent_tasks=1,
                    max_spill_size=SORT_BYTES,
                    writer_properties=_writer_properties(),
                )
                done["encoders_sorted"] += 1
            return {**done, "files_deleted": vacuum(self.path, table)}

    # ------------------------------------------------------------------ parts
    def _rows(self, encoder: str, image_ids: Collection[str]) -> pl.LazyFrame | None:
        """The rows of these images; None where there cannot be any."""
        table = open_table(self.path)
        if table is None or not len(image_ids):
            return None
        return _of_images(scan(table, _PHYSICAL).filter(pl.col("encoder") == encoder), image_ids)

    def _append(self, rows: pa.Table) -> int:
        """One attempt; the version of the table afterwards."""
        from deltalake import CommitProperties, write_deltalake

        statistics: dict[str, str | None] = {"delta.dataSkippingStatsColumns": "image_key,embedded_at"}
        table = open_or_create(self.path, _PHYSICAL, partition_by=["encoder"], configuration=statistics)
        write_deltalake(
            table,
            rows,
            mode="append",
            writer_properties=_writer_properties(),
            commit_properties=CommitProperties(max_commit_retries=100),  # appends never contradict each other
        )
        return table.version()

    def _merge_small_files(self) -> None:
        from deltalake.exceptions import CommitFailedError

        with suppress(CommitFailedError):  # what does not come about now will at one of the next appends
            merge_small_files(
                self.path, ["encoder"], smaller_than=SMALL_BYTES, least=SMALL_FILES, properties=_writer_properties()
            )

    def _superseded(self, table: DeltaTable) -> list[str]:
        """The encoders beyond those that were added to last."""
        newest = pl.col("embedded_at").max()
        last = scan(table, _PHYSICAL).group_by("encoder").agg(newest).collect(engine="streaming")
        return last.sort("embedded_at", "encoder", descending=True)["encoder"][ENCODERS:].to_list()

    def _drop(self, encoder: str) -> None:
        from deltalake import CommitProperties

        table = open_table(self.path)
        assert table is not None
        named = encoder.replace("'", "''")
        table.delete(f"encoder = '{named}'", commit_properties=CommitProperties(max_commit_retries=0))


def embedding_files(path: Path) -> tuple[Path, pa.Schema]:
    """Where the table lies, and the columns it has."""
    return path, _PHYSICAL


def _matrix(packed_rows: pl.Series) -> np.ndarray:
    """(K, d) float32 of K values of half precision as they lie in files."""
    lists = unpacked(pa.chunked_array([packed_rows.to_arrow()]))
    return lists.flatten().to_numpy(zero_copy_only=False).reshape(len(packed_rows), -1)


def _of_images(rows: pl.LazyFrame, image_ids: Collection[str]) -> pl.LazyFrame:
    """Found by their keys, which are numbers, and told apart by their ids."""
    ids = pl.Series("image_id", list(image_ids), pl.String)
    keys = id_bits(ids, slice_from=0)
    within = pl.col("image_key").is_between(keys.min(), keys.max())
    return rows.filter(within, pl.col("image_key").is_in(keys.implode()), pl.col("image_id").is_in(ids.implode()))


def _files(table: DeltaTable) -> pl.DataFrame:
    return pl.DataFrame(table.get_add_actions(flatten=True)).rename({"partition.encoder": "encoder"})


def _writer_properties() -> Any:
    from deltalake import ColumnProperties, WriterProperties

    plain = ColumnProperties(dictionary_enabled=False)  # no value repeats: a dictionary would only be overhead
    columns = dict.fromkeys(("image_id", "image_key", "image_hash", "embedding", "embedded_at"), plain)
    return WriterProperties(compression="LZ4", max_row_group_size=ROW_GROUP, column_properties=columns)
