"""Load that hurts: what one request may cost, what all may hold at once, and what happens to the rest."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TypeVar

from starlette.types import Receive

from al_serving.payloads import BadRequest

LARGE_PIXELS = 4_000_000  # images with more wait in a lane of their own: decoding one takes a tenth of a second
READERS = max(2, min(8, os.cpu_count() or 2))  # threads that decode images
PATIENCE = 10.0  # seconds that work waits for its turn before the client is told to come back
MAX_REQUESTS = 512  # under way at once
Result = TypeVar("Result")


class Overloaded(BadRequest):
    """More work than can be done in time; the client may try again."""

    def __init__(self, reason: str) -> None:
        super().__init__(429, f"{reason}; try again in a moment")


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


class Budget:
    """So much of something may be held at once. For the event loop only: nothing is locked."""

    def __init__(self, most: int, what: str) -> None:
        self.most = most
        self.held = 0
        self._what = what

    def take(self, amount: int) -> None:
        """Raises `Overloaded` where that would be too much, unless nothing else is held."""
        if self.held and self.held + amount > self.most:
            raise Overloaded(f"{self.held:,} {self._what} are held already, at most {self.most:,} fit")
        self.held += amount

    def give_back(self, amount: int) -> None:
        """What was taken."""
        self.held -= amount

    @contextmanager
    def holding(self, amount: int) -> Iterator[None]:
        """Take for as long as the block lasts."""
        self.take(amount)
        try:
            yield
        finally:
            self.give_back(amount)


class Lanes:
    """Threads that read images: large images never keep small ones waiting, and nothing waits longer than patience."""

    def __init__(self, patience: float = PATIENCE) -> None:
        """`patience`: seconds that work may wait for a thread before it is refused."""
        self.patience = patience
        self._small = ThreadPoolExecutor(READERS, "al-reader")
        self._large = ThreadPoolExecutor(max(1, READERS // 2), "al-large-reader")

    async def run(self, work: Callable[[], Result], *, large: bool = False) -> Result:
        """`work` on a thread. Raises `Overloaded` where it waited too long; cancelled, it never begins."""
        asked = time.monotonic()

        def begin() -> Result:
            if time.monotonic() - asked > self.patience:
                raise Overloaded(f"images wait longer than {self.patience:g} s to be decoded")
            return work()

        return await asyncio.get_running_loop().run_in_executor(self._large if large else self._small, begin)

    def shutdown(self) -> None:
        """End the threads when their work is done."""
        self._small.shutdown()
        self._large.shutdown()


async def unless_gone(receive: Receive, work: Awaitable[Result]) -> Result:
    """The result of `work`, which is cancelled when the client goes away. The body must have been read.

    Raises:
        ClientGone: it did.
    """
    working = asyncio.ensure_future(work)
    listening = asyncio.ensure_future(_until_gone(receive))
    try:
        await asyncio.wait((working, listening), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone
        return working.result()
    finally:
        for task in (working, listening):
            if not task.done():
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
