"""Faults of Data Explorer, injected at the emulator: nothing is lost, nothing counts twice."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

pytest.importorskip("duckdb")
from azure.core.credentials import AccessToken
from azure.kusto.data.exceptions import KustoError, KustoServiceError
from azure_adapters import running_azurite
from kusto_adapters import database_of, ready_database
from PIL import Image
from resource_adapters import image, prediction_rows

from al_core.records import LABELS, table_of
from al_core.strategies.base import Order
from al_resources.azure import data_explorer as kusto
from al_resources.blobs.local import FsspecBlobStore
from al_resources.image_store import ImageStore
from al_resources.ledgers.kusto import KustoLedgers
from al_resources.prediction_store.kusto import KustoPredictionStore
from al_serving import collector as collector_module
from al_serving.collector import Collector, Prediction
from emulators.kusto import Fault, KustoEmulator

ROWS = 40
INGEST, QUERY, MANAGE, BLOB = "/v1/rest/ingest/", "/v2/rest/query", "/v1/rest/mgmt", "/queued/predictions"
PATHS = {"streaming": INGEST, "managed": INGEST, "queued": MANAGE}  # what a fault has to hit on each way
PASSING = {
    "throttled": {"status": 429},
    "throttled for long": {"status": 429, "times": 3},
    "overloaded": {"status": 503},
    "a page of the gateway": {"status": 502, "page": "<html>Bad Gateway</html>"},
    "slow": {"seconds": 0.4},
    "cut off before it was served": {"cut": "before"},
    "cut off in the answer": {"cut": "after"},
}


@pytest.fixture
def emulator() -> Iterator[KustoEmulator]:
    with KustoEmulator(storage=running_azurite()) as running:
        yield running


def store_of(emulator: KustoEmulator, ingestion: str) -> KustoPredictionStore:
    return KustoPredictionStore(ready_database(emulator, kusto_ingestion=ingestion))


def rows(count: int = ROWS, **change: Any) -> pa.Table:
    return prediction_rows([{"image_id": image(n), "margin": n / 100} | change for n in range(count)])


def logged(store: KustoPredictionStore) -> list[str]:
    return sorted(one for batch in store.scan(["prediction_id"]) for one in batch["prediction_id"].to_pylist())


def within(seconds: float, condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def arrived_once(store: KustoPredictionStore, sent: pa.Table) -> bool:
    """All rows are there, and every reader counts each of them once."""
    expected = sorted(sent["prediction_id"].to_pylist())
    assert within(20, lambda: len(logged(store)) >= len(expected))
    everything = store.eligible("digits", 1, Order("margin"), 10 * len(expected), ["prediction_id"])
    found = sorted(everything["prediction_id"].to_pylist())
    return logged(store) == found == expected and store.watermark().rows == len(expected)


# ---------------------------------------------------------------------- what passes
@pytest.mark.parametrize("fault", PASSING)
@pytest.mark.parametrize("ingestion", PATHS)
def test_what_passes_delays_rows_and_neither_loses_nor_doubles_them(
    emulator: KustoEmulator, ingestion: str, fault: str
) -> None:
    store, sent = store_of(emulator, ingestion), rows()
    emulator.faults.append(Fault(PATHS[ingestion], **PASSING[fault]))
    store.append(sent)
    assert arrived_once(store, sent)
    assert all(not one.times for one in emulator.faults)


@pytest.mark.parametrize("fault", PASSING)
def test_what_passes_changes_no_answer(emulator: KustoEmulator, fault: str) -> None:
    store = store_of(emulator, "streaming")
    store.append(rows())
    emulator.faults.append(Fault(QUERY, **PASSING[fault]))
    found = store.eligible("digits", 1, Order("margin"), 3, [])
    assert found["image_id"].to_pylist() == [image(0), image(1), image(2)]


@pytest.mark.parametrize("fault", PASSING)
def test_what_passes_enters_no_ledger_twice(emulator: KustoEmulator, fault: str) -> None:
    ledgers = KustoLedgers(ready_database(emulator))
    emulator.faults.append(Fault(INGEST, **PASSING[fault]))
    wanted = table_of(LABELS, [{"image_id": image(n), "label": "x"} for n in range(5)])
    assert ledgers.insert_new("labels", wanted, ["image_id"]) == 5
    assert ledgers.insert_new("labels", wanted, ["image_id"]) == 0
    assert ledgers.read("labels")["image_id"].to_list() == [image(n) for n in range(5)]


def test_half_an_answer_is_asked_for_again_where_that_may_help(emulator: KustoEmulator) -> None:
    store = store_of(emulator, "streaming")
    store.append(rows())
    emulator.faults.append(Fault(QUERY, partial="among the rows"))
    assert len(store.eligible("digits", 1, Order("margin"), ROWS, [])) == ROWS


def test_half_an_answer_is_none(emulator: KustoEmulator) -> None:
    store = store_of(emulator, "streaming")
    store.append(rows())
    emulator.faults.append(Fault(QUERY, partial="at the end"))
    with pytest.raises(KustoServiceError, match="exceeded the allowed limits"):
        store.eligible("digits", 1, Order("margin"), ROWS, [])


def test_a_service_that_stays_busy_is_named_in_the_error(
    emulator: KustoEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kusto, "GIVE_UP_SECONDS", 0.2)
    store = store_of(emulator, "streaming")
    emulator.faults.append(Fault("", status=503, times=10_000))
    with pytest.raises(KustoServiceError, match="injected fault 503"):
        store.watermark()


# ---------------------------------------------------------------------- tokens
class Credential:
    """Keeps its token for an hour, as azure-identity does, whatever the service thinks of it."""

    def __init__(self, token: str) -> None:
        self.token = token

    def get_token(self, *_: str, **__: Any) -> AccessToken:
        return AccessToken(self.token, int(time.time()) + 3600)

    def close(self) -> None: ...


@pytest.mark.parametrize("ingestion", PATHS)
def test_a_token_that_expires_in_the_middle_is_renewed(emulator: KustoEmulator, ingestion: str) -> None:
    emulator.tokens = {"first"}
    issued: list[str] = []

    def credential() -> Credential:
        assert emulator.tokens is not None
        issued.extend(emulator.tokens)
        return Credential(issued[-1])

    store = KustoPredictionStore(database_of(emulator, credential, kusto_ingestion=ingestion))
    for command in kusto.setup_commands():
        store.database.command(command)
    sent = rows()
    store.append(sent.slice(0, 10))
    emulator.tokens = {"second"}
    if ingestion == "queued":  # as after an hour, when the addresses of the queues are asked for again
        store.database._queued._resource_manager._ingest_client_resources = None
    store.append(sent.slice(10))
    assert arrived_once(store, sent)
    assert set(issued) == {"first", "second"}


def test_who_may_not_is_told_so_at_once(emulator: KustoEmulator) -> None:
    emulator.tokens = set()
    store = KustoPredictionStore(database_of(emulator, lambda: Credential("stranger")))
    begun = time.monotonic()
    with pytest.raises(KustoServiceError, match="401"):
        store.watermark()
    assert time.monotonic() - begun < 5


# ---------------------------------------------------------------------- the queue
def test_rows_of_requests_are_streamed_and_those_of_batches_queued(emulator: KustoEmulator) -> None:
    assert emulator.queued is not None
    emulator.queued.paused = True
    store = store_of(emulator, "managed")
    sent = prediction_rows([{"image_id": image(n), "source": ["online", "batch"][n % 2]} for n in range(10)])
    store.append(sent)
    assert len(logged(store)) == 5
    emulator.queued.paused = False
    assert arrived_once(store, sent)


def test_where_nothing_can_be_streamed_rows_are_queued(
    emulator: KustoEmulator, caplog: pytest.LogCaptureFixture
) -> None:
    store, sent = store_of(emulator, "managed"), rows()
    del emulator.tables["predictions"].policies["streamingingestion"]
    store.append(sent)
    assert arrived_once(store, sent)
    assert "does not stream, so rows for predictions are queued" in caplog.text


def test_rows_that_are_sent_again_while_they_wait_in_the_queue_count_once(emulator: KustoEmulator) -> None:
    assert emulator.queued is not None
    emulator.queued.paused = True
    store, sent = store_of(emulator, "queued"), rows()
    store.append(sent)
    store.append(sent)
    assert logged(store) == []
    emulator.queued.paused = False
    assert within(20, lambda: emulator.rows("predictions") == 2 * ROWS)
    assert arrived_once(store, sent)


def test_a_container_that_refuses_an_upload_costs_no_row(
    emulator: KustoEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client's own second attempt uploads what is left of the stream: an empty blob."""
    assert emulator.queued is not None
    monkeypatch.setattr(kusto, "GIVE_UP_SECONDS", 1)
    emulator.queued.missing_container = True
    store, sent = store_of(emulator, "queued"), rows()
    with pytest.raises(KustoError, match="ContainerNotFound"):
        store.append(sent)
    emulator.queued.missing_container = False
    again = store_of(emulator, "queued")
    again.append(sent)
    assert arrived_once(again, sent)
    assert again.failures() == []


def test_what_the_queue_could_not_take_is_shown_and_sent_again_when_it_may_pass(emulator: KustoEmulator) -> None:
    store = store_of(emulator, "queued")
    lost, sent = rows(), prediction_rows([{"image_id": image(100 + n)} for n in range(5)])
    emulator.faults.append(Fault(BLOB, status=500))
    store.append(lost)
    assert within(20, lambda: bool(store.failures()))
    (failure,) = store.failures()
    assert failure.startswith("predictions, 20")
    assert "injected fault 500" in failure
    assert "sig=" not in failure  # what opens the storage is not for people to see
    store.append(sent)
    assert store.compact() == {"failed_ingestions_sent_again": 1}
    assert arrived_once(store, pa.concat_tables([lost, sent]))
    assert store.failures() == []


def test_what_cannot_pass_by_itself_waits_for_a_person(emulator: KustoEmulator) -> None:
    store, sent = store_of(emulator, "queued"), rows()
    mapping = emulator.tables["predictions"].mappings.pop(kusto.MAPPING)
    store.append(sent)
    assert within(20, lambda: bool(store.failures()))
    assert store.compact() == {"failed_ingestions_sent_again": 0}
    assert len(store.failures()) == 1
    emulator.tables["predictions"].mappings[kusto.MAPPING] = mapping
    assert store.database.send_failed_again(permanent=True) == 1
    assert arrived_once(store, sent)


def test_failures_of_other_databases_are_left_alone(emulator: KustoEmulator) -> None:
    store = store_of(emulator, "queued")
    emulator.tables["predictions"].mappings.clear()
    store.append(rows())
    assert within(20, lambda: bool(store.failures()))
    neighbour = KustoPredictionStore(database_of(emulator, kusto_database="theirs", kusto_ingestion="queued"))
    assert neighbour.failures() == []
    assert neighbour.database.send_failed_again(permanent=True) == 0


def test_rows_whose_blob_was_cleared_away_are_called_lost(
    emulator: KustoEmulator, caplog: pytest.LogCaptureFixture
) -> None:
    assert emulator.queued is not None
    store = store_of(emulator, "queued")
    emulator.faults.append(Fault(BLOB, status=500))
    store.append(rows())
    assert within(20, lambda: bool(store.failures()))
    emulator.queued.renew_containers()
    later = store_of(emulator, "queued")
    assert later.compact() == {"failed_ingestions_sent_again": 0}
    assert "Lost: the service has cleared" in caplog.text
    assert len(later.failures()) == 1


# ---------------------------------------------------------------------- the whole way
def png(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(number).integers(0, 255, (8, 8), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def predictions(count: int) -> list[Prediction]:
    probs = np.array([0.25, 0.75], np.float32)
    return [Prediction(png(n), image(n), None, "digits", 1, ("0", "1"), probs, "online") for n in range(count)]


def collector(store: KustoPredictionStore, folder: Path) -> Collector:
    images = ImageStore(FsspecBlobStore(folder / "blobs"))
    return Collector(store, images, KustoLedgers(store.database), folder / "spool", flush_rows=10, flush_seconds=0.1)


def test_during_an_outage_rows_wait_in_the_spool_and_the_next_process_sends_them(
    emulator: KustoEmulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kusto, "GIVE_UP_SECONDS", 0.1)
    store = store_of(emulator, "streaming")
    outage = Fault("", status=503, times=10_000)
    emulator.faults.append(outage)
    first = collector(store, tmp_path)
    first.offer(predictions(ROWS))
    assert within(10, lambda: first.counts().failures > 0 and first.counts().spooled == ROWS)
    first.close(timeout=0.1)
    assert emulator.rows("predictions") == 0
    outage.times = 0
    collector(store, tmp_path).close(timeout=20)
    assert len(logged(store)) == ROWS
    assert not list(tmp_path.glob("spool/*/*.arrow"))


def test_of_a_delivery_that_failed_in_part_only_the_rest_is_sent_again(
    emulator: KustoEmulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kusto, "GIVE_UP_SECONDS", 0)
    monkeypatch.setattr(collector_module, "FIRST_RETRY_SECONDS", 0.05)
    monkeypatch.setattr(kusto, "STREAM_BYTES", 1_000)  # so that a few rows are many requests
    store = store_of(emulator, "streaming")
    sender = collector(store, tmp_path)
    for number, fault in enumerate(
        [{"cut": "after"}, {"status": 503, "times": 2}]
    ):  # taken, but nobody knows; not taken
        emulator.faults.append(Fault(INGEST, **fault))
        sender.offer(predictions(ROWS)[number * ROWS // 2 : (number + 1) * ROWS // 2])
        assert within(10, lambda: emulator.rows("predictions") >= 4)
    assert sender.flush(30)
    sender.close()
    assert sender.counts().failures >= 1
    assert len(logged(store)) == ROWS == emulator.rows("predictions")
