"""Alerts by mail, through a server that takes it by SMTP."""

from __future__ import annotations

import smtplib
import ssl
from collections.abc import Sequence
from email.message import EmailMessage
from typing import TYPE_CHECKING

from al_resources.alerting import TIMEOUT_SECONDS, Alert, AlertError

if TYPE_CHECKING:
    from al_resources.settings import AlertSettings


class MailChannel:
    """One mail to everybody in `alerts.mail_to`."""

    def __init__(self, settings: AlertSettings, password: str) -> None:
        self._settings = settings
        self._password = password

    def send(self, alerts: Sequence[Alert]) -> None:
        """See `AlertChannel.send`."""
        host = f"{self._settings.mail_host}:{self._settings.mail_port}"
        try:
            with self._connection() as server:
                if self._settings.mail_user:
                    server.login(self._settings.mail_user, self._password)
                server.send_message(self._message(alerts))
        except (OSError, smtplib.SMTPException) as error:
            raise AlertError(f"the mail server {host} did not take it: {error}") from error

    def _connection(self) -> smtplib.SMTP:
        settings = self._settings
        if settings.mail_security == "tls":
            return smtplib.SMTP_SSL(
                settings.mail_host, settings.mail_port, timeout=TIMEOUT_SECONDS, context=ssl.create_default_context()
            )
        server = smtplib.SMTP(settings.mail_host, settings.mail_port, timeout=TIMEOUT_SECONDS)
        if settings.mail_security == "starttls":
            server.starttls(context=ssl.create_default_context())
        return server

    def _message(self, alerts: Sequence[Alert]) -> EmailMessage:
        kinds = ", ".join(dict.fromkeys(alert.kind for alert in alerts))
        message = EmailMessage()
        message["Subject"] = f"{alerts[0].model}: {kinds}"
        message["From"] = self._settings.mail_from
        message["To"] = ", ".join(self._settings.mail_to)
        message.set_content("\n\n".join(f"{alert.at:%Y-%m-%d %H:%M} UTC  {alert.line}" for alert in alerts))
        return message
