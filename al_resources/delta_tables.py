"""What all Delta tables of the embedded stores share: opening, creating, committing and merging files safely."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import unquote

import polars as pl
import pyarrow as pa

from al_core.records import empty_table
from al_resources.delta_durability import set_torn_aside, shorten_log, sync_checkpoint, sync_commits
from al_resources.durable import write_file

if TYPE_CHECKING:
    from deltalake import DeltaTable, WriterProperties

VACUUM_HOURS = 24  # longer than any reader holds on to a version of a table
# Every open lists the log and reads of each file that was replaced: `vacuum` keeps both short. deltalake would clean
# the log up as well, without waiting for the checkpoint that replaces it to be on the disk.
SHORT_LOG: dict[str, str] = {
    "delta.enableExpiredLogCleanup": "false",
    "delta.deletedFileRetentionDuration": f"interval {2 * VACUUM_HOURS} hours",
}
GIVE_UP_SECONDS = 120
LOOK_AGAIN_SECONDS = 0.1
Answer = TypeVar("Answer")
_kept: ContextVar[dict[Path, DeltaTable | None] | None] = ContextVar("tables of one look", default=None)


@contextmanager
def one_look() -> Iterator[None]:
    """Each table is opened once meanwhile, and stays as it stood then: for somebody who reads, and writes nothing."""
    token = _kept.set({})
    try:
        yield
    finally:
        _kept.reset(token)


def open_table(path: Path) -> DeltaTable | None:
    """The table as it is now, or None where there is none yet.

    Raises:
        DamagedTable: it lacks what was written for good.
    """
    from deltalake import DeltaTable
    from deltalake.exceptions import TableNotFoundError

    kept = _kept.get()
    if kept is not None and path in kept:
        return kept[path]
    set_torn_aside(path)
    table = None
    if (path / "_delta_log").is_dir():
        with suppress(TableNotFoundError):  # it is being created
            table = DeltaTable(path)
    if kept is not None:
        kept[path] = table
    return table


def open_or_create(
    path: Path,
    schema: pa.Schema,
    *,
    partition_by: Sequence[str] = (),
    configuration: dict[str, str | None] | None = None,
) -> DeltaTable:
    """The table; when many processes begin at once, exactly one of them creates it.

    A table of an earlier version gains the columns that `schema` has and it lacks; in its old rows they are null. Its
    log becomes a short one.

    Raises:
        CommitFailedError: another process changed it so at the same time; try again.
    """
    from deltalake import CommitProperties, DeltaTable
    from deltalake.exceptions import DeltaError

    if (table := open_table(path)) is not None:
        return _with_short_log(_with_columns(table, schema))
    try:
        return DeltaTable.create(
            path,
            schema,
            partition_by=list(partition_by),
            configuration=SHORT_LOG | (configuration or {}),
            # With retries, the second to come would create the table once more, on top of the first one's.
            commit_properties=CommitProperties(max_commit_retries=0),
        )
    except DeltaError:
        if (table := open_table(path)) is None:
            raise
        return table


def _with_columns(table: DeltaTable, schema: pa.Schema) -> DeltaTable:
    from deltalake import Schema

    known = _columns(table)
    new = [field for field in Schema.from_arrow(schema).fields if field.name not in known]
    if new:
        table.alter.add_columns(new)
        table.update_incremental()
    return table


def _with_short_log(table: DeltaTable) -> DeltaTable:
    if SHORT_LOG.items() - table.metadata().configuration.items():
        table.alter.set_table_properties(SHORT_LOG)
        table.update_incremental()
    return table


def missing_columns(path: Path, schema: pa.Schema) -> list[str]:
    """What a table of an earlier version lacks; nothing where there is no table yet."""
    table = open_table(path)
    known = set(schema.names) if table is None else _columns(table)
    return [name for name in schema.names if name not in known]


def add_columns(path: Path, schema: pa.Schema) -> None:
    """Give a table the columns of `schema` that it lacks; another process may do the same at the same time."""
    commit(path, lambda: open_or_create(path, schema))


def _columns(table: DeltaTable) -> set[str]:
    return {field.name for field in table.schema().fields}


def scan(table: DeltaTable, schema: pa.Schema) -> pl.LazyFrame:
    """The table's rows with all columns of `schema`; those that an older table lacks are null."""
    rows = pl.scan_delta(table)
    known = _columns(table)
    types = pl.DataFrame(empty_table(schema)).schema
    return rows.with_columns(pl.lit(None, types[name]).alias(name) for name in schema.names if name not in known)


def commit(path: Path, attempt: Callable[[], Answer]) -> Answer:
    """Call `attempt`, which reads the table anew and commits, until no other writer comes in between, and sync it.

    Raises:
        OSError: it may not be on the disk.
        TimeoutError: others were faster for two minutes; nothing was written.
    """
    from deltalake.exceptions import CommitFailedError
    from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

    retrying = Retrying(
        retry=retry_if_exception_type(CommitFailedError),
        wait=wait_random_exponential(multiplier=0.02, max=1),
        stop=stop_after_delay(GIVE_UP_SECONDS),
        reraise=True,
    )
    try:
        answer = retrying(attempt)
    except CommitFailedError as error:
        raise TimeoutError(
            f"{path}: other writers were faster for {GIVE_UP_SECONDS} s and nothing was written ({error}); "
            "let fewer processes write at once"
        ) from error
    sync_commits(path)
    return answer


def erase_images(path: Path, image_ids: Collection[str], writer_properties: WriterProperties | None = None) -> int:
    """Erase the rows of some images, and the files that held them: no version before can be read any more.

    Whoever reads the table at this moment fails and has to read it again. `image_ids` are checked ones.

    Raises:
        TimeoutError: others merged files or wrote for minutes; some rows may be left, so erase again.
    """
    if not image_ids or open_table(path) is None:
        return 0
    listed = ", ".join(f"'{one}'" for one in sorted(image_ids))

    def attempt() -> int:
        from deltalake import CommitProperties

        table = open_table(path)
        assert table is not None
        deleted = table.delete(
            f"image_id in ({listed})",
            writer_properties=writer_properties,
            commit_properties=CommitProperties(max_commit_retries=0),
        )
        return int(deleted["num_deleted_rows"])

    deadline = time.monotonic() + GIVE_UP_SECONDS
    while time.monotonic() < deadline:
        with merging_files(path) as our_turn:
            if our_turn:
                erased = commit(path, attempt)
                table = open_table(path)
                assert table is not None
                # also after nothing was erased: an attempt before may have been killed in between
                table.vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False)
                _clear_statistics(path, table)
                return erased
        time.sleep(LOOK_AGAIN_SECONDS)
    raise TimeoutError(f"{path}: another process merged its files for {GIVE_UP_SECONDS} s; erase again")


def _clear_statistics(path: Path, table: DeltaTable) -> None:
    """Out of the table's log, which keeps the smallest and largest values of files that are gone."""
    table.update_incremental()
    table.create_checkpoint()
    sync_commits(path)
    sync_checkpoint(path)
    log, newest = path / "_delta_log", f"{table.version():020d}"
    for checkpoint in log.glob("*.checkpoint*.parquet"):
        if checkpoint.name < newest:
            checkpoint.unlink(missing_ok=True)
    current = set(table.get_add_actions(flatten=True).column("path").to_pylist())
    for file in sorted(log.glob("*.json")):
        entries = [json.loads(line) for line in file.read_text().splitlines() if line]
        added = [entry["add"] for entry in entries if "add" in entry]
        gone = [action for action in added if action.get("stats") and unquote(action["path"]) not in current]
        for action in gone:
            del action["stats"]
        if gone:
            write_file(file, "".join(json.dumps(entry) + "\n" for entry in entries).encode())


@contextmanager
def merging_files(path: Path) -> Iterator[bool]:
    """True for one process at a time, False for all others meanwhile, who leave the work to that one.

    deltalake does not notice when two processes merge the same files: the table would hold their rows twice.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path / "_compaction.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def merge_small_files(
    path: Path, partition_by: Sequence[str], *, smaller_than: int, least: int, properties: WriterProperties
) -> None:
    """Keep a table that is written to every few seconds quick to read: merge a partition's small files, if `least`.

    What is merged once is left alone, so it costs as much as was appended.

    Raises:
        CommitFailedError: another process wrote in between; nothing was merged.
    """
    with merging_files(path) as our_turn:
        table = open_table(path)
        if not our_turn or table is None:
            return
        files = pl.DataFrame(table.get_add_actions(flatten=True))
        small = files.rename({f"partition.{name}": name for name in partition_by})
        small = small.filter(pl.col("size_bytes") < smaller_than)
        crowded = small.group_by(partition_by).len().filter(pl.col("len") >= least)
        for partition in crowded.iter_rows(named=True):
            table.optimize.compact(
                partition_filters=[(name, "=", str(partition[name])) for name in partition_by],
                target_size=smaller_than,
                max_concurrent_tasks=1,
                writer_properties=properties,
            )
        if not crowded.is_empty():
            vacuum(path, table)


def vacuum(path: Path, table: DeltaTable) -> int:
    """Delete the files that were replaced so long ago that nobody reads them, and commits that a checkpoint holds;
    returns how many files. What replaced them is synced first.
    """
    sync_commits(path)
    shorten_log(path)
    table.update_incremental()
    return len(table.vacuum(retention_hours=VACUUM_HOURS, dry_run=False, enforce_retention_duration=False))
