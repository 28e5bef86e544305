"""The contract of every queue of blob events: delivered at least once, hidden while held, gone when deleted."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import pytest

from al_core.errors import Unavailable
from al_resources.event_queue import EventQueue

HIDDEN_SECONDS = 1


@dataclass
class Bench:
    """A queue, somebody who sends to it, and the same queue somewhere where there is none."""

    queue: EventQueue
    send: Callable[[str], None]
    nowhere: EventQueue


def azure() -> Bench:
    from al_resources.event_queue.azure import AzureEventQueue
    from al_resources.settings.azure_data import AzureDataSettings
    from emulators.azurite import shared_azurite
    from emulators.events import send

    storage = shared_azurite()
    url = storage.queue()

    def queue_at(address: str) -> EventQueue:
        settings = AzureDataSettings(blob_account_url=storage.blob_url, events_queue_url=address)
        return AzureEventQueue(settings, hidden_seconds=HIDDEN_SECONDS)

    return Bench(queue_at(url), lambda text: send(url, text), queue_at(f"{url}x"))


QUEUES: dict[str, Callable[[], Bench]] = {"azure": azure} if find_spec("azure") else {}


@pytest.fixture(params=QUEUES)
def bench(request: pytest.FixtureRequest) -> Bench:
    return QUEUES[request.param]()


def test_what_is_sent_is_received_and_then_hidden(bench: Bench) -> None:
    for text in ("one", "two"):
        bench.send(text)
    assert {message.text for message in bench.queue.receive()} == {"one", "two"}
    assert bench.queue.receive() == []


def test_what_is_not_deleted_comes_again_and_says_how_often(bench: Bench) -> None:
    bench.send("again")
    [first] = bench.queue.receive()
    deadline = time.monotonic() + 20 * HIDDEN_SECONDS
    while not (second := bench.queue.receive()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert [message.deliveries for message in (first, *second)] == [1, 2]
    assert bench.queue.delete([(first.id, first.receipt)]) == [], "an old receipt deletes nothing, and is no error"
    assert bench.queue.counts()["waiting"] == 1


def test_what_is_deleted_is_gone(bench: Bench) -> None:
    bench.send("done")
    [message] = bench.queue.receive()
    assert bench.queue.delete([(message.id, message.receipt)]) == []
    assert bench.queue.counts() == {"waiting": 0, "poison": 0}


def test_what_there_was_no_time_for_is_named(bench: Bench) -> None:
    bench.send("later")
    [message] = bench.queue.receive()
    receipt = (message.id, message.receipt)
    assert bench.queue.delete([receipt], until=time.monotonic()) == [receipt]


def test_what_is_put_aside_waits_for_people(bench: Bench) -> None:
    bench.send("poison")
    [message] = bench.queue.receive()
    bench.queue.poison(message)
    assert bench.queue.counts() == {"waiting": 0, "poison": 1}


def test_a_missing_queue_is_named_with_the_way_out(bench: Bench) -> None:
    with pytest.raises(Unavailable, match=r"there is no queue .*; `al azure init` creates it"):
        bench.nowhere.receive()
