"""Which channel stands behind a name of `alerts.channels`; the others are not imported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from al_resources.alerting import AlertError

if TYPE_CHECKING:
    from al_resources.alerting import AlertChannel
    from al_resources.settings import AlertSettings


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
