"""Connections that hurt nobody: bounded in number, and none of them slow or silent without end.

uvicorn itself waits for ever for a connection that says nothing, for a head that comes byte by byte, and for a body
that stops half-way, and takes as many of them as there are file descriptors.
"""

from __future__ import annotations

import asyncio
import resource
from contextlib import suppress
from dataclasses import dataclass, field

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

LONGEST_HEAD = 65_536  # bytes
SPARE_FILES = 200  # file descriptors for everything that is no connection
_FULL = b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
_SLOW = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
_LONG = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


@dataclass
class Connections:
    """What one server allows, and what it has. `protocol` goes to uvicorn as `http`."""

    most: int = 1_000
    head_seconds: float = 10.0  # from the connection, or the answer before, to the end of the head
    body_seconds: float = 30.0  # from there to the end of the body
    answer_seconds: float = 120.0  # from there until the client has read the answer
    closed: dict[str, int] = field(default_factory=lambda: {"too many": 0, "too slow": 0, "too long": 0})
    waiting: dict[_Bounded, None] = field(default_factory=dict)  # for a whole request, the longest first

    def __post_init__(self) -> None:
        self.most = min(self.most, _files() - SPARE_FILES)

    @property
    def protocol(self) -> type[asyncio.Protocol]:
        """Makes one connection's protocol."""

        class Bounded(_Bounded):
            bounds = self

        return Bounded


class _Bounded(HttpToolsProtocol):
    """One connection. Timers are per phase, so that a byte now and then buys no time."""

    bounds: Connections
    _timer: asyncio.TimerHandle | None = None
    _head_bytes = 0
    _in_body = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.bounds.most and not self._make_room():
            self._close(_FULL, "too many")
            return
        self._wait_for_request()

    def data_received(self, data: bytes) -> None:
        if not self._in_body:
            self._head_bytes += len(data)
        super().data_received(data)
        if not self._in_body and self in self.bounds.waiting and self._head_bytes > LONGEST_HEAD:
            self._close(_LONG, "too long")

    def on_headers_complete(self) -> None:
        self._in_body = True
        super().on_headers_complete()
        self._within(self.bounds.body_seconds)

    def on_message_complete(self) -> None:
        self._in_body = False
        self._head_bytes = 0
        super().on_message_complete()
        if self.cycle is not None and not self.cycle.response_complete:  # else it was answered before it was read
            self.bounds.waiting.pop(self, None)
            self._within(self.bounds.answer_seconds)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.response_complete and not self.transport.is_closing():  # else the next one is pipelined
            self._wait_for_request()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        super().connection_lost(exc)

    def _wait_for_request(self) -> None:
        self.bounds.waiting[self] = None
        self._within(self.bounds.head_seconds)

    def _make_room(self) -> bool:
        """Whose request takes longest to arrive goes: who only holds connections must not keep others out."""
        for longest in self.bounds.waiting:
            longest._close(b"", "too many")
            return True
        return False

    def _within(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(seconds, self._too_slow)

    def _too_slow(self) -> None:
        begun = self.cycle is not None and self.cycle.response_started
        self._close(b"" if begun else _SLOW, "too slow")

    def _close(self, last_words: bytes, why: str) -> None:
        """Soon, too, where the client does not read."""
        self._forget()
        self.bounds.closed[why] += 1
        self.transport.write(last_words)
        self.transport.close()
        self.loop.call_later(1.0, self.transport.abort)

    def _forget(self) -> None:
        self.bounds.waiting.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _files() -> int:
    """How many files this process may have open, after asking for as many as it may ask for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(ValueError, OSError):  # macOS promises more than it gives
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 20 if soft == resource.RLIM_INFINITY else soft
