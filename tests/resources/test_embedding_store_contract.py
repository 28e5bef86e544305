"""The contract of every embedding store: what one encoder made of an image is kept once, and found by both."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from resource_adapters import EMBEDDING_STORES, image

from al_core.errors import InvalidInput
from al_resources.embedding_store import EmbeddingStore, Extent, delta

HERE, THERE = "a" * 32, "b" * 32  # two encoders
NEAR = 2.0**-8  # of 16 bits: Data Explorer keeps seven digits of two, files ten


def made(count: int, width: int = 6, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)


def images(*numbers: int) -> list[str]:
    return [image(number) for number in numbers]


def test_of_a_missing_table_nothing_is_known(embeddings: EmbeddingStore) -> None:
    assert not embeddings.known(HERE, images(1, 2)).any()
    found = embeddings.read(HERE, images(1, 2))
    assert (found.known.tolist(), len(found.embeddings), found.image_hashes) == ([False, False], 0, [])
    assert embeddings.counts() == {}
    assert embeddings.rows_of(images(1)) == 0
    assert embeddings.erase(images(1)) == 0
    embeddings.compact()


def test_what_was_added_is_found_in_the_order_it_is_asked_for(embeddings: EmbeddingStore) -> None:
    rows = made(3)
    assert embeddings.add(HERE, images(1, 2, 3), rows, ["ff", None, "0a"]) == 3
    found = embeddings.read(HERE, images(3, 9, 1))
    assert found.known.tolist() == [True, False, True]
    np.testing.assert_allclose(found.embeddings, rows[[2, 0]], rtol=NEAR)
    assert found.image_hashes == ["0a", "ff"]
    assert embeddings.known(HERE, images(3, 9, 1)).tolist() == [True, False, True]


def test_embeddings_of_two_encoders_never_mix(embeddings: EmbeddingStore) -> None:
    embeddings.add(HERE, images(1), made(1, 6))
    embeddings.add(THERE, images(1, 2), made(2, 4, seed=1))
    assert embeddings.read(HERE, images(1, 2)).embeddings.shape == (1, 6)
    assert embeddings.read(THERE, images(1, 2)).embeddings.shape == (2, 4)
    assert embeddings.counts() == {HERE: 1, THERE: 2}


def test_what_is_known_stays_and_is_kept_once(embeddings: EmbeddingStore) -> None:
    rows = made(3)
    embeddings.add(HERE, images(1, 2), rows[:2])
    assert embeddings.add(HERE, images(2, 3, 3), np.stack([-rows[1], rows[2], rows[2]])) == 1
    np.testing.assert_allclose(embeddings.read(HERE, images(2)).embeddings, rows[1:2], rtol=NEAR)
    assert embeddings.rows_of(images(1, 2, 3)) == 3


def test_what_is_forgotten_is_gone_of_every_encoder_and_the_rest_stays(embeddings: EmbeddingStore) -> None:
    for encoder in (HERE, THERE):
        embeddings.add(encoder, images(1, 2), made(2))
    assert embeddings.erase(images(1)) == 2
    assert embeddings.rows_of(images(1)) == 0
    assert embeddings.known(THERE, images(1, 2)).tolist() == [False, True]


def test_a_stream_gives_each_known_image_and_nothing_else(embeddings: EmbeddingStore) -> None:
    embeddings.add(HERE, images(1, 2, 3), made(3))
    embeddings.add(THERE, images(4), made(1))
    found = {}
    for ids, rows in embeddings.stream(HERE, images(3, 4, 9, 1)):
        found |= dict(zip(ids, rows, strict=True))
    assert set(found) == set(images(1, 3))
    np.testing.assert_allclose(found[image(3)], made(3)[2], rtol=NEAR)
    assert list(embeddings.stream(HERE, [])) == []


def test_what_comes_in_later_changes_no_count_up_to_a_moment_and_what_is_lost_does(embeddings: EmbeddingStore) -> None:
    assert embeddings.extent(HERE) == Extent(0, None)
    embeddings.add(HERE, images(1, 2), made(2))
    before = embeddings.extent(HERE)
    assert before.rows == 2
    embeddings.add(THERE, images(1), made(1))
    embeddings.add(HERE, images(3), made(1))
    assert embeddings.extent(HERE, before.newest) == before
    assert embeddings.extent(HERE).rows == 3
    embeddings.erase(images(1))
    assert embeddings.extent(HERE, before.newest).rows == 1


def test_what_is_no_embedding_is_refused_with_the_image(embeddings: EmbeddingStore) -> None:
    broken = made(2)
    broken[1, 0] = np.nan
    with pytest.raises(InvalidInput, match=f"image {image(2)} is not finite"):
        embeddings.add(HERE, images(1, 2), broken)
    with pytest.raises(InvalidInput, match=r"shape \(2, 6\) for 1 images; expected \(1, d\)"):
        embeddings.add(HERE, images(1), made(2))
    assert embeddings.rows_of(images(1, 2)) == 0


@pytest.mark.parametrize("store", EMBEDDING_STORES)
@settings(max_examples=8)
@given(batches=st.lists(st.lists(st.integers(0, 30), max_size=12), max_size=5), asked=st.lists(st.integers(0, 40)))
def test_however_it_came_in_each_image_has_its_first_embedding(
    store: str, batches: list[list[int]], asked: list[int]
) -> None:
    value: Callable[[int, int], list[float]] = lambda number, batch: [float(number), float(batch), 1.0]  # noqa: E731
    with tempfile.TemporaryDirectory() as folder:
        table, first = EMBEDDING_STORES[store](Path(folder)), dict[int, int]()
        for batch, numbers in enumerate(batches):
            rows = np.array([value(number, batch) for number in numbers], np.float32).reshape(-1, 3)
            new = set(numbers) - first.keys()
            assert table.add(HERE, images(*numbers), rows) == len(new)
            first |= dict.fromkeys(new, batch)
        table.compact()
        found = table.read(HERE, images(*asked))
        assert found.known.tolist() == [number in first for number in asked]
        known = [number for number in asked if number in first]
        assert found.embeddings.tolist() == [value(number, first[number]) for number in known]


def test_many_small_additions_become_few_files_and_old_encoders_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delta, "LOOK_EVERY", 5)
    monkeypatch.setattr(delta, "SMALL_FILES", 3)
    monkeypatch.setattr(delta, "ENCODERS", 2)
    table = delta.DeltaEmbeddingStore(tmp_path / "embeddings")
    for number in range(12):
        table.add(HERE, images(number), made(1, seed=number))
    assert len(table_files(table)) < 12, "merged while it was written to"
    for encoder in ("c" * 32, "d" * 32):
        table.add(encoder, images(1), made(1))
    assert table.compact(keep=[HERE])["encoders_forgotten"] == 0, "the log refers to it"
    assert table.compact()["encoders_forgotten"] == 1
    assert set(table.counts()) == {"c" * 32, "d" * 32}


def table_files(table: delta.DeltaEmbeddingStore) -> list[str]:
    from deltalake import DeltaTable

    return DeltaTable(table.path).file_uris()


@pytest.mark.skipif("kusto" not in EMBEDDING_STORES, reason="needs the emulated Data Explorer")
def test_a_database_that_was_set_up_before_there_was_the_table_goes_on_without_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    from kusto_adapters import database_of

    from al_resources.azure.data_explorer import setup_commands
    from al_resources.embedding_store.kusto import KustoEmbeddingStore
    from emulators.kusto import KustoEmulator

    with KustoEmulator() as emulator:
        database = database_of(emulator)
        before = [command for command in setup_commands() if "embeddings" not in command]
        for command in before:
            database.command(command)
        table = KustoEmbeddingStore(database)
        assert table.add(HERE, images(1), made(1)) == 0
        assert not table.known(HERE, images(1)).any()
        assert table.rows_of(images(1)) == table.erase(images(1)) == 0
        assert [record.message for record in caplog.records if "al upgrade" in record.message] == [
            "the database has no table embeddings, so no embedding is kept; `al upgrade` makes it"
        ]
        for command in setup_commands():
            database.command(command)
        assert table.add(HERE, images(1), made(1)) == 1
