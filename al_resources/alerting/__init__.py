"""Who is told what happened while nobody was looking: a channel is a webhook, a Slack channel or a mailbox.

What is a secret comes from the environment alone (`ALERT_*`): the settings file may be read by many.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

from al_core.errors import ActiveLearningError

if TYPE_CHECKING:
    from al_resources.settings import AlertSettings

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


def open_channel(name: str, settings: AlertSettings, environment: Mapping[str, str]) -> AlertChannel:
    """The channel of that name. Raises `AlertError`, naming the variable that is missing."""
    if name == "mail":
        from al_resources.alerting.mail import MailChannel

        return MailChannel(settings, environment.get("ALERT_MAIL_PASSWORD", ""))
    from al_resources.alerting.webhook import SlackChannel, WebhookChannel

    if name == "slack":
        return SlackChannel(_address(environment, "ALERT_SLACK_URL"))
    return WebhookChannel(_address(environment, "ALERT_WEBHOOK_URL"), environment.get("ALERT_WEBHOOK_TOKEN", ""))


def _address(environment: Mapping[str, str], variable: str) -> str:
    address = environment.get(variable, "")
    if not address.startswith(("https://", "http://")):
        found = "is not set" if not address else "holds no address"
        raise AlertError(f"{variable} {found}; expected https://..., in the environment of Dagster's code location")
    return address
