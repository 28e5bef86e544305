"""Alerts as a POST of JSON: to a service of one's own, or as Slack's incoming webhooks take it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from al_resources.alerting import TIMEOUT_SECONDS, Alert, AlertError

_SLACK = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})  # what Slack reads as markup of its own


class WebhookChannel:
    """`{"alerts": [{key, kind, model, text, at, link}, ...]}`, with the token as bearer where there is one."""

    def __init__(self, url: str, token: str = "") -> None:
        self._url = url
        self._headers = {"authorization": f"Bearer {token}"} if token else {}

    def send(self, alerts: Sequence[Alert]) -> None:
        """See `AlertChannel.send`. A 2xx is a receipt; redirects are not followed, they could lead anywhere."""
        _post(self._url, {"alerts": [_row(alert) for alert in alerts]}, self._headers)


class SlackChannel:
    """One message: a line an alert."""

    def __init__(self, url: str) -> None:
        self._url = url

    def send(self, alerts: Sequence[Alert]) -> None:
        """See `AlertChannel.send`."""
        lines = [f"*{alert.model}* {alert.kind}: {alert.line.translate(_SLACK)}" for alert in alerts]
        _post(self._url, {"text": "\n".join(lines)}, {})


def _row(alert: Alert) -> dict[str, str]:
    return {
        "key": alert.key,
        "kind": alert.kind,
        "model": alert.model,
        "text": alert.text,
        "at": alert.at.isoformat(),
        "link": alert.link,
    }


def _post(url: str, body: dict[str, Any], headers: dict[str, str]) -> None:
    """Raises `AlertError`, which names the host alone: the rest of the address may be what lets one in."""
    import httpx

    host = urlsplit(url).hostname
    try:
        response = httpx.post(url, json=body, headers=headers, timeout=TIMEOUT_SECONDS)
    except httpx.HTTPError as error:
        raise AlertError(f"{host} cannot be reached: {type(error).__name__}") from None  # its words hold the address
    if not response.is_success:
        raise AlertError(f"{host} did not take it: HTTP {response.status_code}")
