"""The storage queue in which Event Grid announces new blobs, and the poison queue beside it."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING

from al_core.errors import Unavailable
from al_resources.azure.storage import queue_client
from al_resources.event_queue import Message

if TYPE_CHECKING:
    from azure.storage.queue import QueueClient

    from al_resources.settings.azure_data import AzureDataSettings

AT_ONCE = 32  # messages a request can return
DELETERS = 8  # requests at once: each deletes one message
POISON_SUFFIX = "-poison"


class AzureEventQueue:
    """`EventQueue` at `azure.events_queue_url`. A message that is received is hidden for `hidden_seconds`."""

    def __init__(self, settings: AzureDataSettings, *, hidden_seconds: int) -> None:
        self._settings = settings
        self._hidden_seconds = hidden_seconds

    def receive(self) -> list[Message]:
        """Up to 32 messages. Raises `OSError` where there is no queue."""
        from azure.core.exceptions import ResourceNotFoundError

        try:
            pages = self._queue.receive_messages(
                messages_per_page=AT_ONCE, visibility_timeout=self._hidden_seconds
            ).by_page()
            return [
                Message(one.id, str(one.pop_receipt), str(one.content), one.dequeue_count or 0)
                for one in next(pages, ())
            ]
        except ResourceNotFoundError as error:
            raise Unavailable(
                f"there is no queue {self._settings.events_queue_url}; `al azure init` creates it"
            ) from error

    def delete(self, receipts: Sequence[tuple[str, str]], *, until: float = math.inf) -> list[tuple[str, str]]:
        """Remove messages by (id, pop receipt); one that came back meanwhile stays, and is delivered again.

        Returns those for which there was no time `until` a moment of `time.monotonic`.
        """

        def in_time(message: tuple[str, str]) -> bool:
            if time.monotonic() >= until:
                return False
            self._delete(message)
            return True

        with ThreadPoolExecutor(DELETERS) as pool:
            done = list(pool.map(in_time, receipts))
        return [message for message, deleted in zip(receipts, done, strict=True) if not deleted]

    def poison(self, message: Message) -> None:
        """Put a message aside, where people look. It is sent before it is deleted: twice is better than never."""
        from azure.core.exceptions import ResourceNotFoundError

        try:
            self._poison.send_message(message.text)
        except ResourceNotFoundError:
            self._poison.create_queue()
            self._poison.send_message(message.text)
        self.delete([(message.id, message.receipt)])

    def counts(self) -> dict[str, int]:
        """About how many messages wait, and how many lie in the poison queue."""
        from azure.core.exceptions import ResourceNotFoundError

        counts = {"waiting": 0, "poison": 0}
        for name, queue in (("waiting", self._queue), ("poison", self._poison)):
            with suppress(ResourceNotFoundError):
                counts[name] = queue.get_queue_properties().approximate_message_count or 0
        return counts

    def _delete(self, message: tuple[str, str]) -> None:
        from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

        try:
            with suppress(ResourceNotFoundError):
                self._queue.delete_message(*message)
        except HttpResponseError as error:
            if getattr(error, "error_code", None) != "PopReceiptMismatch":
                raise

    @cached_property
    def _queue(self) -> QueueClient:
        return queue_client(self._settings, self._settings.events_queue_url)

    @cached_property
    def _poison(self) -> QueueClient:
        return queue_client(self._settings, poison_url(self._settings.events_queue_url))


def poison_url(queue_url: str) -> str:
    """The address of the poison queue beside a queue."""
    return queue_url + POISON_SUFFIX
