"""Who is told what happened while nobody was looking: a channel is a webhook, a Slack channel or a mailbox.

What is a secret comes from the environment alone (`ALERT_*`): the settings file may be read by many.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from al_core.errors import ActiveLearningError

TIMEOUT_SECONDS = 10.0  # for a channel to take it: a sensor's look may take a minute in all


class AlertError(ActiveLearningError):
    """A channel cannot be used, or did not take what it was sent; the message names no secret."""


@dataclass(frozen=True)
class Alert:
    """One thing that somebody should know."""

    key: str  # the same for the same event, however often it is found
    kind: str  # failure | refusal | drift | labels
    model: str
    text: str  # one line for people, harmless to show
    at: datetime
    link: str = ""  # where to look; empty where no address is known

    @property
    def line(self) -> str:
        """Text and link, in one line."""
        return f"{self.text} {self.link}".rstrip()


class AlertChannel(Protocol):
    """Where alerts are sent to."""

    def send(self, alerts: Sequence[Alert]) -> None:
        """All of them, in one message. Raises `AlertError` where it was not taken: then it is sent again."""
