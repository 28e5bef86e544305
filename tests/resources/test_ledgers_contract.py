"""The contract of every ledger store."""

from __future__ import annotations

import multiprocessing
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from resource_adapters import EMBEDDED, LEDGER_STORES, MIDNIGHT, after, image

from al_core.records import LABELS, LEDGERS, table_of
from al_resources.ledgers import Ledgers, delta, kept_rows
from al_resources.ledgers.delta import DeltaLedgers


def labels(*rows: dict[str, Any]) -> pa.Table:
    return table_of(LABELS, [{"image_id": image(1), "label": "7", "labeled_at": MIDNIGHT} | row for row in rows])


@pytest.mark.parametrize("name", LEDGERS)
def test_an_empty_ledger_has_its_columns(ledgers: Ledgers, name: str) -> None:
    empty = ledgers.read(name)
    assert empty.is_empty()
    assert empty.schema == pl.DataFrame(LEDGERS[name].empty_table()).schema


def test_rows_come_back_in_the_order_of_insertion_whatever_their_times(ledgers: Ledgers) -> None:
    for second in (5, 1, 9, 3):
        ledgers.insert_new(
            "labels",
            labels({"label": f"{second}a", "labeled_at": after(second)}, {"label": f"{second}b"}),
            ["label"],
        )
    assert ledgers.read("labels")["label"].to_list() == ["5a", "5b", "1a", "1b", "9a", "9b", "3a", "3b"]
    assert ledgers.read("labels")["labeled_at"][0] == after(5)


def test_only_what_is_new_goes_in(ledgers: Ledgers) -> None:
    assert ledgers.insert_new("labels", labels({"label": "a"}, {"label": "b"}), ["label"]) == 2
    assert ledgers.insert_new("labels", labels({"label": "b"}, {"label": "c"}), ["label"]) == 1
    assert ledgers.insert_new("labels", labels({"label": "b"}), ["label"]) == 0
    assert ledgers.read("labels")["label"].to_list() == ["a", "b", "c"]


def test_of_equal_rows_in_one_insert_the_first_goes_in(ledgers: Ledgers) -> None:
    rows = labels({"label": "a", "annotator": "first"}, {"label": "a", "annotator": "second"})
    assert ledgers.insert_new("labels", rows, ["label"]) == 1
    assert ledgers.read("labels")["annotator"].to_list() == ["first"]


def test_a_null_equals_a_null(ledgers: Ledgers) -> None:
    rows = labels({"annotator": None}, {"annotator": "x"})
    assert ledgers.insert_new("labels", rows, ["image_id", "annotator"]) == 2
    assert ledgers.insert_new("labels", rows, ["image_id", "annotator"]) == 0


def test_reading_filters_by_equality_and_none_finds_nulls(ledgers: Ledgers) -> None:
    rows = labels({"label": "a", "round": 1}, {"label": "b", "round": 2}, {"label": "c"})
    ledgers.insert_new("labels", rows, ["label"])
    assert ledgers.read("labels", round=2)["label"].to_list() == ["b"]
    assert ledgers.read("labels", round=None)["label"].to_list() == ["c"]
    assert ledgers.read("labels", round=2, label="a").is_empty()


@pytest.mark.parametrize("text", ["o'brien", 'a "b"', "x' or '1'='1", "naïve\n|[]"])
def test_values_are_never_code(ledgers: Ledgers, text: str) -> None:
    ledgers.insert_new("labels", labels({"label": text}), ["label"])
    assert ledgers.insert_new("labels", labels({"label": text}), ["label"]) == 0
    assert ledgers.read("labels", label=text)["label"].to_list() == [text]


def test_an_unknown_ledger_or_column_is_named(ledgers: Ledgers) -> None:
    with pytest.raises(ValueError, match=r"unknown ledger 'lables'; expected one of .*labels"):
        ledgers.read("lables")
    with pytest.raises(ValueError, match=r"no column \['colour'\]; it has .*label"):
        ledgers.read("labels", colour="red")
    with pytest.raises(ValueError, match="no column"):
        ledgers.insert_new("labels", labels({}), ["colour"])
    with pytest.raises(ValueError, match="at least one column"):
        ledgers.insert_new("labels", labels({}), [])
    with pytest.raises(ValueError, match="not rows of the ledger 'exports'"):
        ledgers.insert_new("exports", labels({}), ["path"])


def test_a_hundred_inserts_stay_quick_to_read_and_complete(ledgers: Ledgers) -> None:
    for number in range(70):
        ledgers.insert_new("labels", labels({"label": str(number)}), ["label"])
    assert ledgers.read("labels")["label"].to_list() == [str(number) for number in range(70)]


@pytest.mark.parametrize("adapter", LEDGER_STORES)
@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["x", None])), max_size=4), max_size=5))
def test_any_sequence_of_inserts_holds_each_key_once(
    tmp_path_factory: pytest.TempPathFactory, adapter: str, inserts: list[list[tuple[str, Any]]]
) -> None:
    with tempfile.TemporaryDirectory(dir=tmp_path_factory.getbasetemp()) as folder:
        ledgers = LEDGER_STORES[adapter](Path(folder))
        known: list[tuple[str, Any]] = []
        for insert in inserts:
            rows = labels(*({"label": label, "annotator": annotator} for label, annotator in insert))
            new = [key for key in dict.fromkeys(insert) if key not in known]
            assert ledgers.insert_new("labels", rows, ["label", "annotator"]) == len(new)
            known += new
        assert ledgers.read("labels").select("label", "annotator").rows() == known


@pytest.mark.parametrize("lacking", [[], ["answer"]], ids=["new", "of an earlier version"])
def test_a_large_file_is_searched_by_the_hashes_of_its_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacking: list[str]
) -> None:
    """An insert reads only a large file that holds one of its keys, and gives the same as if it had read all."""
    monkeypatch.setattr(delta, "LARGE_ROWS", 1)
    monkeypatch.setattr(delta, "MERGE_FILES_ABOVE", 2)
    ledgers, on = DeltaLedgers(tmp_path), ["image_id", "annotator", "answer"]
    with monkeypatch.context() as earlier:
        earlier.setitem(LEDGERS, "labels", pa.schema([field for field in LABELS if field.name not in lacking]))
        old = labels(*({"image_id": image(n), "annotator": None} for n in range(3))).drop_columns(lacking)
        ledgers.insert_new("labels", old, [column for column in on if column not in lacking])
    read: list[Path] = []
    scan = delta.scan
    monkeypatch.setattr(delta, "scan", lambda files, keys: read.extend(files) or scan(files, keys))
    for start in range(3, 12, 3):  # some files are merged on the way
        assert ledgers.insert_new("labels", labels(*({"image_id": image(start + n)} for n in range(3))), on) == 3
    assert read == []
    assert ledgers.insert_new("labels", labels({"image_id": image(1)}, {"image_id": image(99)}), on) == 1
    assert len(read) == 1
    assert ledgers.insert_new("labels", labels({"image_id": image(1), "annotator": "x"}), on) == 1
    assert ledgers.erase("labels", [image(1)]) == 2
    assert ledgers.insert_new("labels", labels({"image_id": image(1)}), on) == 1
    there = {file.name for file in (tmp_path / "labels").glob("*.parquet")}
    kept = {file.name.partition(".parquet.")[0] + ".parquet" for file in (tmp_path / "labels" / "_keys").iterdir()}
    assert kept <= there, "hashes of rows that were erased are gone with them"


def insert_often(adapter: str, folder: Path) -> int:
    ledgers = LEDGER_STORES[adapter](folder)
    return sum(
        ledgers.insert_new("labels", labels({"label": str(n)}, {"label": str(n + 1)}), ["label"]) for n in range(12)
    )


@pytest.mark.parametrize("adapter", EMBEDDED)
def test_processes_that_insert_the_same_rows_at_once_insert_them_once(adapter: str, tmp_path: Path) -> None:
    with ProcessPoolExecutor(4, multiprocessing.get_context("forkserver")) as pool:
        inserted = sum(pool.map(insert_often, [adapter] * 4, [tmp_path] * 4))
    found = LEDGER_STORES[adapter](tmp_path).read("labels")["label"].to_list()
    assert inserted == len(found) == 13
    assert sorted(map(int, found)) == list(range(13))


def test_a_ledger_of_an_earlier_version_is_read_and_gains_the_columns_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledgers = DeltaLedgers(tmp_path)
    with monkeypatch.context() as earlier:
        earlier.setitem(LEDGERS, "labels", pa.schema([field for field in LABELS if field.name != "answer"]))
        ledgers.insert_new("labels", labels({"label": "a"}).drop_columns("answer"), ["label"])
    assert ledgers.read("labels")["answer"].to_list() == [None]
    ledgers.insert_new("labels", labels({"label": "b", "answer": 3}), ["label"])
    assert ledgers.read("labels").select("label", "answer").rows() == [("a", None), ("b", 3)]
    assert ledgers.read("labels", answer=None)["label"].to_list() == ["a"]


def test_erased_rows_are_gone_and_the_others_stand_in_their_order(ledgers: Ledgers) -> None:
    rows = [{"image_id": image(n), "label": f"{n}{turn}"} for turn in "ab" for n in range(4)]
    ledgers.insert_new("labels", labels(*rows), ["label"])
    assert ledgers.erase("labels", [image(1), image(3), image(9)]) == 4
    assert ledgers.read("labels")["label"].to_list() == ["0a", "2a", "0b", "2b"]
    assert ledgers.erase("labels", [image(1)]) == 0
    assert ledgers.insert_new("labels", labels({"image_id": image(1), "label": "1a"}), ["label"]) == 1


def test_an_empty_ledger_and_no_images_are_nothing_to_erase(ledgers: Ledgers) -> None:
    assert ledgers.erase("labels", [image(1)]) == 0
    ledgers.insert_new("labels", labels({"label": "a"}), ["label"])
    assert ledgers.erase("labels", []) == 0
    assert ledgers.read("labels").height == 1


@pytest.mark.parametrize(
    ("name", "ids", "told"),
    [
        ("labels", ["x') or ('' = '"], "is no image id; expected 32 hexadecimal digits"),
        ("deployments", [image(1)], "has no column"),
        ("forgotten", [image(1)], "stays on record"),
    ],
)
def test_what_cannot_be_erased_is_refused(ledgers: Ledgers, name: str, ids: list[str], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        ledgers.erase(name, ids)


def test_erased_rows_are_in_no_file_of_the_table(tmp_path: Path) -> None:
    ledgers = DeltaLedgers(tmp_path)
    for n in range(3):
        ledgers.insert_new("labels", labels({"image_id": image(n), "label": f"label-{n}"}), ["label"])
    ledgers.erase("labels", [image(1)])
    for file in tmp_path.rglob("*"):
        if file.is_file():
            assert b"label-1" not in file.read_bytes(), file


@pytest.mark.parametrize("kept_bytes", [kept_rows.KEPT_BYTES, 0], ids=["kept", "too large to be kept"])
def test_a_read_opens_the_files_that_came_since_the_last_and_tells_the_whole_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept_bytes: int
) -> None:
    monkeypatch.setattr(kept_rows, "KEPT_BYTES", kept_bytes)
    opened: list[int] = []
    scan = kept_rows.scan
    monkeypatch.setattr(kept_rows, "scan", lambda files, schema: opened.append(len(files)) or scan(files, schema))
    ledgers, expected = DeltaLedgers(tmp_path), []
    for name in "cab":
        ledgers.insert_new("labels", labels({"label": name}), ["label"])
        expected.append(name)
        assert ledgers.read("labels")["label"].to_list() == expected
    ledgers.read("labels")
    assert opened == ([1, 1, 1] if kept_bytes else [1, 2, 3, 3])
    ledgers.erase("labels", [image(1)])
    assert ledgers.read("labels").is_empty(), "what is kept forgets with the table"
