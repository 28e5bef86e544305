"""What a power cut leaves: files of 0 bytes or cut in the middle, names that are gone. What was promised is there."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pytest
from resource_adapters import MIDNIGHT, image, prediction_rows

from al_core.records import LABELS, table_of
from al_resources import delta_durability, durable
from al_resources.blobs.local import FsspecBlobStore
from al_resources.delta_durability import MARK, DamagedTable, shorten_log, sync_commits
from al_resources.delta_tables import open_table
from al_resources.ledgers.delta import DeltaLedgers
from al_resources.prediction_store.delta import DeltaPredictionStore


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """What was synced, in order."""
    paths: list[Path] = []

    def fsync(handle: int) -> None:
        paths.append(Path(f"/proc/self/fd/{handle}").readlink())

    monkeypatch.setattr(durable.os, "fsync", fsync)
    return paths


def restart() -> None:
    """The next process knows nothing."""
    delta_durability._looked_at.clear()


def label(ledgers: DeltaLedgers, name: str) -> int:
    row = {"image_id": image(1), "label": name, "labeled_at": MIDNIGHT}
    return ledgers.insert_new("labels", table_of(LABELS, [row]), ["label"])


def unsynced(ledgers: DeltaLedgers, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit whose writer dies before it is synced."""
    with monkeypatch.context() as dying:
        dying.setattr("al_resources.delta_tables.sync_commits", lambda table: None)
        label(ledgers, name)


def names(ledgers: DeltaLedgers) -> list[str]:
    return ledgers.read("labels")["label"].to_list()


# ---------------------------------------------------------------------- blobs
def test_a_blob_is_synced_before_it_has_its_name_and_its_folder_after(tmp_path: Path, synced: list[Path]) -> None:
    FsspecBlobStore(tmp_path).write("a/b/c.json", b"x")
    assert synced[:2] == [tmp_path, tmp_path / "a"], "the folders that were made"
    assert synced[2].name.endswith(".tmp")
    assert synced[3:] == [tmp_path / "a" / "b"]


@pytest.mark.parametrize("if_absent", [False, True])
def test_a_blob_that_could_not_be_synced_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, if_absent: bool
) -> None:
    store = FsspecBlobStore(tmp_path)
    store.write("a.json", b"before")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(durable.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        store.write("b.json" if if_absent else "a.json", b"after", if_absent=if_absent)
    assert [(one.path, store.read(one.path)) for one in store.list("")] == [("a.json", b"before")]
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"], "nothing eats what is freed"


# ---------------------------------------------------------------------- Delta tables
def test_a_commit_is_synced_with_its_data_before_an_insert_returns(tmp_path: Path, synced: list[Path]) -> None:
    ledgers = DeltaLedgers(tmp_path)
    label(ledgers, "cat")
    table = tmp_path / "labels"
    (data,) = table.glob("*.parquet")
    log = table / "_delta_log"
    commits = [log / f"{version:020d}.json" for version in (0, 1)]
    assert synced == [commits[0], data, commits[1], log, table, tmp_path]
    synced.clear()
    label(ledgers, "dog")
    assert len(synced) == 5, "what was synced before is not synced again"


def test_the_next_writer_syncs_what_a_killed_one_did_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, synced: list[Path]
) -> None:
    ledgers = DeltaLedgers(tmp_path)
    label(ledgers, "cat")
    unsynced(ledgers, "dog", monkeypatch)
    synced.clear()
    label(ledgers, "owl")
    assert [path.name for path in synced if path.suffix == ".json"] == [f"{version:020d}.json" for version in (2, 3)]


def test_where_syncing_fails_nothing_is_promised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(handle: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(durable.os, "fsync", broken)
    with pytest.raises(OSError, match="Input/output error"):
        label(DeltaLedgers(tmp_path), "cat")


# ---------------------------------------------------------------------- a log that is kept short
@pytest.fixture
def long_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DeltaLedgers:
    """A ledger of 12 commits whose checkpoint is the 8th, all of them two hours old."""
    with monkeypatch.context() as quick:
        quick.setattr(durable.os, "fsync", lambda handle: None)
        ledgers = DeltaLedgers(tmp_path)
        for number in range(8):
            label(ledgers, f"{number}")
        table = open_table(tmp_path / "labels")
        assert table is not None
        table.create_checkpoint()
        for number in range(8, 12):
            label(ledgers, f"{number}")
    for file in (tmp_path / "labels" / "_delta_log").iterdir():
        os.utime(file, (time.time() - 7200,) * 2)
    return ledgers


def commits(ledgers: DeltaLedgers) -> list[int]:
    return sorted(int(file.stem) for file in (ledgers.path / "labels" / "_delta_log").glob("*.json"))


@pytest.mark.parametrize("mark", ["12", "", "3", "8"])
def test_a_log_that_was_shortened_has_lost_nothing_wherever_the_mark_stands_after_a_cut(
    long_log: DeltaLedgers, mark: str
) -> None:
    table = long_log.path / "labels"
    assert shorten_log(table) == 8
    assert commits(long_log) == [8, 9, 10, 11, 12]
    (table / MARK).write_text(mark)
    restart()
    assert names(long_log) == [f"{number}" for number in range(12)]
    label(long_log, "next")
    assert (table / MARK).read_text() == "13"
    assert not (table / "_torn").exists()


def test_of_a_log_that_is_being_shortened_at_the_moment_of_a_cut_any_part_may_be_left(long_log: DeltaLedgers) -> None:
    table = long_log.path / "labels"
    for version in (0, 1, 2, 5):
        (table / "_delta_log" / f"{version:020d}.json").unlink()
    (table / MARK).unlink()
    restart()
    assert names(long_log) == [f"{number}" for number in range(12)]
    assert not (table / "_torn").exists()


def test_a_commit_that_no_checkpoint_holds_is_missed_and_what_follows_is_set_aside(long_log: DeltaLedgers) -> None:
    table = long_log.path / "labels"
    shorten_log(table)
    (table / MARK).write_text("8")
    (table / "_delta_log" / f"{10:020d}.json").unlink()
    restart()
    assert names(long_log) == [f"{number}" for number in range(9)]
    assert len(list((table / "_torn").iterdir())) == 2


def test_a_log_is_shortened_only_behind_a_whole_checkpoint_and_what_is_young_stays(
    long_log: DeltaLedgers, synced: list[Path]
) -> None:
    log = long_log.path / "labels" / "_delta_log"
    os.utime(log / f"{3:020d}.json")
    assert shorten_log(log.parent) == 3
    assert [path.name for path in synced] == [f"{8:020d}.checkpoint.parquet", "_delta_log"]
    os.utime(log / f"{3:020d}.json", (0, 0))
    (checkpoint,) = log.glob("*.parquet")
    os.utime(checkpoint)
    assert shorten_log(log.parent) == 0, "somebody may just have found the one before it"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-4])
    os.utime(checkpoint, (0, 0))
    assert shorten_log(log.parent) == 0


def torn_log(table: Path) -> None:
    newest(table, "_delta_log/*.json").write_bytes(b"")


def half_a_log(table: Path) -> None:
    file = newest(table, "_delta_log/*.json")
    file.write_bytes(file.read_bytes()[:-40])


def zeros_in_the_log(table: Path) -> None:
    file = newest(table, "_delta_log/*.json")
    file.write_bytes(bytes(file.stat().st_size))


def torn_data(table: Path) -> None:
    newest(table, "*.parquet").write_bytes(b"")


def zeros_in_the_data(table: Path) -> None:
    file = newest(table, "*.parquet")
    file.write_bytes(bytes(file.stat().st_size))


def lost_data(table: Path) -> None:
    newest(table, "*.parquet").unlink()


def newest(table: Path, pattern: str) -> Path:
    return max(table.glob(pattern), key=lambda file: (file.stat().st_mtime_ns, file.name))


TEARING = [torn_log, half_a_log, zeros_in_the_log, torn_data, zeros_in_the_data, lost_data]


@pytest.mark.parametrize("tear", TEARING)
def test_a_torn_commit_that_was_not_promised_is_set_aside_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tear: Callable[[Path], None]
) -> None:
    ledgers = DeltaLedgers(tmp_path)
    label(ledgers, "cat")
    unsynced(ledgers, "dog", monkeypatch)
    tear(tmp_path / "labels")
    restart()
    with caplog.at_level(logging.WARNING):
        assert names(ledgers) == ["cat"]
    assert "a crash left commits half written" in caplog.text
    assert [file.name for file in (tmp_path / "labels" / "_torn").iterdir()] == [f"{2:020d}.json"]
    label(ledgers, "dog")
    assert names(ledgers) == ["cat", "dog"]


@pytest.mark.parametrize("tear", TEARING)
def test_a_torn_commit_that_was_promised_is_an_error_that_names_the_file(
    tmp_path: Path, tear: Callable[[Path], None]
) -> None:
    ledgers = DeltaLedgers(tmp_path)
    label(ledgers, "cat")
    tear(tmp_path / "labels")
    restart()
    with pytest.raises(DamagedTable, match=r"is torn, and its rows were written for good; restore the file"):
        names(ledgers)


def test_a_table_whose_very_first_commit_is_torn_is_none_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledgers = DeltaLedgers(tmp_path)
    unsynced(ledgers, "cat", monkeypatch)
    for file in (tmp_path / "labels" / "_delta_log").iterdir():
        file.write_bytes(b"")
    restart()
    assert names(ledgers) == []
    label(ledgers, "dog")
    assert names(ledgers) == ["dog"]


def test_a_commit_after_one_whose_very_name_is_lost_is_set_aside_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledgers = DeltaLedgers(tmp_path)
    label(ledgers, "cat")
    for name in ("dog", "owl"):
        unsynced(ledgers, name, monkeypatch)
    (tmp_path / "labels" / "_delta_log" / f"{2:020d}.json").unlink()
    restart()
    assert names(ledgers) == ["cat"]
    label(ledgers, "owl")
    assert names(ledgers) == ["cat", "owl"]


def test_what_another_writer_synced_survives_though_a_killed_one_came_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledgers = DeltaLedgers(tmp_path)
    unsynced(ledgers, "cat", monkeypatch)
    label(ledgers, "dog")
    unsynced(ledgers, "owl", monkeypatch)
    torn_data(tmp_path / "labels")
    restart()
    assert names(ledgers) == ["cat", "dog"]


@pytest.mark.parametrize("file", ["_last_checkpoint", "*.checkpoint.parquet"])
def test_a_torn_checkpoint_costs_nothing(tmp_path: Path, file: str) -> None:
    from deltalake import DeltaTable

    ledgers = DeltaLedgers(tmp_path)
    label(ledgers, "cat")
    DeltaTable(tmp_path / "labels").create_checkpoint()
    newest(tmp_path / "labels" / "_delta_log", file).write_bytes(b"")
    restart()
    assert names(ledgers) == ["cat"]


def test_files_that_a_compaction_replaced_may_be_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from deltalake import DeltaTable

    ledgers = DeltaLedgers(tmp_path)
    for name in ("cat", "dog", "owl"):
        unsynced(ledgers, name, monkeypatch)
    table = DeltaTable(tmp_path / "labels")
    table.optimize.compact()
    table.vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False)
    restart()
    assert names(ledgers) == ["cat", "dog", "owl"]
    sync_commits(tmp_path / "labels")
    assert (tmp_path / "labels" / "_synced").read_text() == str(DeltaTable(tmp_path / "labels").version())


def test_the_log_is_whole_after_a_cut_in_a_partition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = DeltaPredictionStore(tmp_path / "log", DeltaLedgers(tmp_path))
    store.append(prediction_rows([{"image_id": image(1)}]))
    with monkeypatch.context() as dying:
        dying.setattr("al_resources.delta_tables.sync_commits", lambda table: None)
        store.append(prediction_rows([{"image_id": image(2), "model_version": 2}]))
    newest(tmp_path / "log", "**/*.parquet").write_bytes(b"")
    restart()
    assert pl.concat(map(pl.DataFrame, store.scan(["image_id"])))["image_id"].to_list() == [image(1)]


@pytest.fixture(autouse=True)
def _forgetful() -> Iterator[None]:
    yield
    restart()
