"""The queue in which a store announces new blobs: at least once, in no order, hidden from others once received."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Message:
    """One delivery of a message. `receipt` is good until the message becomes visible again."""

    id: str
    receipt: str
    text: str
    deliveries: int


class EventQueue(Protocol):
    """What every queue of blob events can do."""

    def receive(self) -> list[Message]:
        """Some messages, hidden from everybody for a while. Raises `Unavailable` where there is no queue."""

    def delete(self, receipts: Sequence[tuple[str, str]], *, until: float = math.inf) -> list[tuple[str, str]]:
        """Remove messages by (id, receipt); one that came back meanwhile stays, and is delivered again.

        Returns those for which there was no time `until` a moment of `time.monotonic`.
        """

    def poison(self, message: Message) -> None:
        """Put a message aside, where people look."""

    def counts(self) -> dict[str, int]:
        """About how many messages wait, and how many were put aside: `{"waiting": ..., "poison": ...}`."""
