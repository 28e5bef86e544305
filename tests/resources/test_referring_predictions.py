"""The log beside the table of embeddings: who reads rows sees no difference, and no embedding is held twice."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from resource_adapters import EMBEDDING_STORES, LEDGER_STORES, PREDICTION_STORES, after, image, prediction_rows

from al_core.strategies.base import Order
from al_resources.embedding_store import EmbeddingStore
from al_resources.prediction_store import PredictionStore, referring
from al_resources.prediction_store.referring import ReferringPredictionStore

ENCODERS = {1: "a" * 32, 2: "a" * 32, 3: "b" * 32, 4: None}  # by version; the fourth was trained whole
EVER = (after(-1), after(1_000))
COLUMNS = ["image_id", "prediction_id", "embedding"]


@pytest.fixture(params=PREDICTION_STORES)
def adapter(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def opened(adapter: str, folder: Path) -> tuple[ReferringPredictionStore, EmbeddingStore]:
    embeddings = EMBEDDING_STORES[adapter](folder / "embeddings")
    log = PREDICTION_STORES[adapter](folder, LEDGER_STORES[adapter](folder))
    return ReferringPredictionStore(log, lambda: embeddings, lambda name, version: ENCODERS[version]), embeddings


def value(number: int, version: int) -> list[float] | None:
    """What a version's encoder makes of an image: exact in sixteen bits."""
    encoder = ENCODERS[version] or str(version)
    return [float(number), float(ord(encoder[0])), 0.5]


def rows(*of: tuple[int, int], embedded: bool = True) -> list[dict[str, Any]]:
    return [
        {"image_id": image(number), "model_version": version, "logged_at": after(place)}
        | ({"embedding": value(number, version)} if embedded else {})
        for place, (number, version) in enumerate(of)
    ]


def held(store: PredictionStore, numbers: Sequence[int]) -> dict[tuple[str, int], Any]:
    found = store.rows_of([image(number) for number in numbers], ["image_id", "model_version", "embedding"])
    return {(row["image_id"], row["model_version"]): row["embedding"] for row in found.to_pylist()}


def test_rows_of_a_frozen_encoder_hold_none_and_every_reader_finds_it(adapter: str, tmp_path: Path) -> None:
    store, embeddings = opened(adapter, tmp_path)
    store.append(prediction_rows(rows((1, 1), (2, 1), (1, 2), (3, 4))))
    assert {key: one is None for key, one in held(store.log, [1, 2, 3]).items()} == {
        (image(1), 1): True, (image(2), 1): True, (image(1), 2): True, (image(3), 4): False,
    }  # fmt: skip
    assert embeddings.counts() == {ENCODERS[1]: 2}, "two versions with one encoder share it"
    assert held(store, [1, 2, 3])[image(1), 2] == value(1, 2)
    for answer in (
        store.eligible("digits", 1, Order("margin"), 9, COLUMNS),
        store.eligible("digits", 1, Order("random", seed=3), 9, COLUMNS),
        store.sample("digits", 1, *EVER, 9, COLUMNS, seed=0),
        *store.scan(COLUMNS, model_name="digits", model_version=1),
    ):
        found = {row["image_id"]: row["embedding"] for row in answer.to_pylist()}
        assert found == {image(number): value(number, 1) for number in (1, 2)}


@settings(max_examples=8)
@given(
    appended=st.lists(st.lists(st.tuples(st.integers(0, 12), st.sampled_from([1, 2, 3, 4]), st.booleans())), max_size=4)
)
@pytest.mark.parametrize("name", PREDICTION_STORES)
def test_whatever_is_appended_is_read_as_if_each_row_held_its_own(
    name: str, appended: list[list[tuple[int, int, bool]]]
) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patched:
        patched.setattr(referring, "HELD_BYTES", 400)  # the table is read several times
        store, _ = opened(name, Path(folder))
        expected: dict[str, list[float] | None] = {}
        kept = {(number, ENCODERS[version]) for part in appended for number, version, own in part if own}
        for part in appended:
            made = [rows((number, version), embedded=own)[0] for number, version, own in part]
            table = prediction_rows(made)
            for (number, version, own), prediction in zip(part, table["prediction_id"].to_pylist(), strict=True):
                known = own or (ENCODERS[version] is not None and (number, ENCODERS[version]) in kept)
                expected[prediction] = value(number, version) if known else None
            store.append(table)
        read = [row for batch in store.scan(COLUMNS) for row in batch.to_pylist()]
        assert sorted(row["prediction_id"] for row in read) == sorted(expected), "every row comes once"
        assert {row["prediction_id"]: row["embedding"] for row in read} == expected
        again = store.rows_of([image(number) for number in range(13)], COLUMNS).to_pylist()
        assert {row["prediction_id"]: row["embedding"] for row in again} == expected


def test_no_row_is_in_the_log_before_what_it_refers_to(
    adapter: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, embeddings = opened(adapter, tmp_path)
    table = prediction_rows(rows((1, 1)))

    def away(*_: object) -> None:
        raise OSError("away")

    with monkeypatch.context() as broken:
        broken.setattr(embeddings, "add", away)
        with pytest.raises(OSError, match="away"):
            store.append(table)
    assert store.rows_of([image(1)]).num_rows == 0
    with monkeypatch.context() as broken:
        broken.setattr(store.log, "append", away)
        with pytest.raises(OSError, match="away"):
            store.append(table)
    assert embeddings.rows_of([image(1)]) == 1
    store.append(table)  # as whoever was interrupted does
    assert (embeddings.rows_of([image(1)]), held(store, [1])) == (1, {(image(1), 1): value(1, 1)})


def test_an_embedding_that_got_lost_is_missing_and_no_error(adapter: str, tmp_path: Path) -> None:
    store, embeddings = opened(adapter, tmp_path)
    store.append(prediction_rows(rows((1, 1), (2, 1))))
    embeddings.erase([image(1)])
    assert held(store, [1, 2]) == {(image(1), 1): None, (image(2), 1): value(2, 1)}
    scanned = [row for batch in store.scan(COLUMNS, model_name="digits", model_version=1) for row in batch.to_pylist()]
    assert {row["image_id"]: row["embedding"] for row in scanned} == {image(1): None, image(2): value(2, 1)}
    embeddings.add("a" * 32, [image(1)], np.array([value(1, 1)], np.float32))
    assert held(store, [1, 2])[image(1), 1] == value(1, 1)


def test_what_no_table_keeps_stays_in_the_log(adapter: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, embeddings = opened(adapter, tmp_path)
    broken = rows((1, 1))[0] | {"embedding": [1.0, float("nan"), 0.0]}
    store.append(prediction_rows([broken, *rows((2, 1))]))
    assert (held(store.log, [1])[image(1), 1] is None, held(store.log, [2])[image(2), 1] is None) == (False, True)
    monkeypatch.setattr(embeddings, "add", lambda *_: 0)  # as of a database from before there was a table
    store.append(prediction_rows(rows((3, 1))))
    assert held(store.log, [3])[image(3), 1] == value(3, 1)
