"""Load that hurts: slow and silent connections, bodies that do not end, images that take long, clients that leave."""

from __future__ import annotations

import asyncio
import io
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import httpx
import pytest
from PIL import Image
from serving_stores import png
from small_models import register_model, service_of

from al_resources.platform import Platform
from al_serving.connections import LONGEST_HEAD
from al_serving.load import READERS, Budget, ClientGone, Lanes, Overloaded, unless_gone

POST = b"POST /score HTTP/1.1\r\nhost: 127.0.0.1\r\n"


def bomb(side: int) -> bytes:
    """A PNG of a few kilobytes with side x side pixels."""
    buffer = io.BytesIO()
    Image.new("L", (side, side)).save(buffer, "PNG")
    return buffer.getvalue()


@contextmanager
def serving(platform: Platform, **settings: Any) -> Iterator[str]:
    """The service with version 1, under other settings."""
    changed = platform.settings.serving.model_copy(update=settings)
    platform = Platform(platform.settings.model_copy(update={"serving": changed}))
    platform.endpoint.create("blue", register_model(platform))
    platform.endpoint.set_traffic({"blue": 100})
    with service_of(platform) as address:
        yield address


def connected(address: str) -> socket.socket:
    host, _, port = address.removeprefix("http://").partition(":")
    connection = socket.create_connection((host, int(port)), timeout=20)
    connection.settimeout(20)
    return connection


def said_until_closed(connection: socket.socket) -> bytes:
    said = b""
    while True:
        try:
            part = connection.recv(65_536)
        except ConnectionResetError:
            return said
        if not part:
            return said
        said += part


def metric(address: str, name: str) -> float:
    lines = httpx.get(f"{address}/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


def test_a_body_that_stops_half_way_is_answered_with_408_and_closed(platform: Platform) -> None:
    with serving(platform, request_seconds=0.3) as address, connected(address) as connection:
        connection.sendall(POST + b"content-length: 100\r\n\r\nhalf")
        begun = time.monotonic()
        assert b" 408 " in said_until_closed(connection)
        assert time.monotonic() - begun < 10
        assert httpx.post(f"{address}/score", content=png(1)).status_code == 200
        assert metric(address, 'al_connections_closed_total{why="too slow"}') == 1


def test_a_byte_now_and_then_buys_no_time(platform: Platform) -> None:
    with serving(platform, request_seconds=0.5) as address, connected(address) as connection:
        connection.sendall(POST + b"content-length: 1000\r\n\r\n")
        begun = time.monotonic()
        with suppress(OSError):  # broken pipe or reset, as it happens
            while time.monotonic() - begun < 15:
                connection.sendall(b"x")
                time.sleep(0.05)
        assert time.monotonic() - begun < 10


def test_a_head_without_end_is_refused(platform: Platform) -> None:
    with serving(platform) as address, connected(address) as connection:
        connection.sendall(POST + b"x-long: " + b"x" * (LONGEST_HEAD + 1_000))
        assert b" 431 " in said_until_closed(connection)


def test_who_holds_all_connections_keeps_nobody_out(platform: Platform) -> None:
    with serving(platform, max_connections=20) as address, ExitStack() as stack:
        silent = [stack.enter_context(connected(address)) for _ in range(15)]
        halves = [stack.enter_context(connected(address)) for _ in range(15)]
        for half in halves:
            half.sendall(POST + b"content-length: 1000\r\n\r\nhalf")
        for number in range(10):  # each a connection of its own
            assert httpx.post(f"{address}/score", content=png(number), timeout=10).status_code == 200
        assert said_until_closed(silent[0]) == b""
        assert metric(address, 'al_connections_closed_total{why="too many"}') >= 10


def test_bodies_that_are_on_their_way_share_a_bounded_memory(platform: Platform) -> None:
    with serving(platform, max_waiting_bytes=100_000) as address, ExitStack() as stack:
        first = stack.enter_context(connected(address))
        first.sendall(POST + b"content-length: 200000\r\n\r\n" + bytes(90_000))
        until(lambda: httpx.post(f"{address}/score", content=bytes(50_000)).status_code == 429)
        refused = httpx.post(f"{address}/score", content=bytes(50_000))
        assert refused.headers["retry-after"] == "1"
        assert "at most 100,000 fit" in refused.json()["error"]
        assert httpx.post(f"{address}/score", content=png(1)).status_code == 200, "a small one still fits"
        first.close()
        until(lambda: httpx.post(f"{address}/score", content=bytes(50_000)).status_code == 422)


def until(ready: Callable[[], bool], timeout: float = 20) -> None:
    deadline = time.monotonic() + timeout
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_request_has_a_budget_of_pixels_and_none_of_its_large_images_is_begun_beyond(platform: Platform) -> None:
    large = bomb(7_000)
    with serving(platform) as address:
        begun = time.monotonic()
        files = [("images", (f"{number}.png", large)) for number in range(15)]
        answer = httpx.post(f"{address}/score", files=files, timeout=60)
        assert answer.status_code == 413
        assert "100,000,000 pixels together" in answer.json()["error"]
        assert time.monotonic() - begun < 2, "735 million pixels take 20 s"


def test_large_images_do_not_keep_small_ones_waiting(platform: Platform) -> None:
    large = bomb(5_000)
    with serving(platform) as address:
        httpx.post(f"{address}/score", content=png(0))
        threads = [
            threading.Thread(target=httpx.post, args=(f"{address}/score",), kwargs={"content": large, "timeout": 60})
            for _ in range(6)
        ]
        for thread in threads:
            thread.start()
        seconds = []
        while any(thread.is_alive() for thread in threads):
            begun = time.monotonic()
            assert httpx.post(f"{address}/score", content=png(len(seconds))).status_code == 200
            seconds.append(time.monotonic() - begun)
        assert len(seconds) > 3, "small ones were answered while the large ones were read"
        for thread in threads:
            thread.join()


def test_work_that_waited_too_long_is_refused_and_not_done() -> None:
    done: list[int] = []

    async def scenario() -> None:
        lanes = Lanes(patience=0.05)
        blockers = [asyncio.ensure_future(lanes.run(lambda: time.sleep(0.3), large=True)) for _ in range(READERS)]
        await asyncio.sleep(0)  # until they are asked for
        with pytest.raises(Overloaded, match="wait longer"):
            await lanes.run(lambda: done.append(1), large=True)
        await asyncio.gather(*blockers, return_exceptions=True)
        lanes.shutdown()

    asyncio.run(scenario())
    assert done == []


def test_work_for_a_client_that_has_gone_is_dropped() -> None:
    done: list[str] = []

    async def scenario() -> None:
        lanes = Lanes()
        gone = asyncio.Event()

        async def receive() -> dict[str, Any]:
            await gone.wait()
            return {"type": "http.disconnect"}

        blockers = [asyncio.ensure_future(lanes.run(lambda: time.sleep(0.3), large=True)) for _ in range(READERS)]
        await asyncio.sleep(0)  # until they are asked for
        asyncio.get_running_loop().call_later(0.05, gone.set)
        with pytest.raises(ClientGone):
            await unless_gone(receive, lanes.run(lambda: done.append("for nobody"), large=True))
        await asyncio.gather(*blockers)
        lanes.shutdown()

    asyncio.run(scenario())
    assert done == []


def test_a_budget_takes_what_fits_and_one_that_is_larger_when_nothing_else_is_held() -> None:
    budget = Budget(10, "things")
    with budget.holding(15), pytest.raises(Overloaded, match=r"15 things are held already, at most 10 fit"):
        budget.take(1)
    budget.take(4)
    budget.take(6)
    with pytest.raises(Overloaded):
        budget.take(1)
    budget.give_back(6)
    budget.take(6)


def test_six_hundred_slow_connections_do_not_slow_others_down(platform: Platform) -> None:
    with serving(platform) as address, ExitStack() as stack:
        for number in range(600):
            slow = stack.enter_context(connected(address))
            slow.sendall(POST[: 1 + number % 30] if number % 2 else POST + b"content-length: 1000\r\n\r\nhalf")
        with httpx.Client(base_url=address, timeout=20) as client:
            client.post("/score", content=png(0))
            seconds = []
            for number in range(100):
                begun = time.perf_counter()
                assert client.post("/score", content=png(number)).status_code == 200
                seconds.append(time.perf_counter() - begun)
        assert sorted(seconds)[98] < 1.0, "on an idle machine below 0.25 s"
