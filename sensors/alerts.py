"""The sensor that tells people who are not looking. Off until `alerts.channels` names where to.

What was sent, and over which channel, is the cursor: what a channel did not take is sent over that one again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import dagster as dg

from al_assets.loop_names import THE_LOOP, LoopNames
from al_resources.platform import Platform
from al_resources.settings import Settings

if TYPE_CHECKING:
    from al_resources.alerting import Alert


def build_alert_sensor(settings: Settings, loop: LoopNames = THE_LOOP) -> dg.SensorDefinition:
    """The sensor; it runs from the start where a channel is named."""
    wanted = dg.DefaultSensorStatus.RUNNING if settings.alerts.channels else dg.DefaultSensorStatus.STOPPED
    return dg.sensor(
        name=loop.name("alerts"),
        minimum_interval_seconds=settings.alerts.interval_seconds,
        default_status=wanted,
        description="Tells of failures, refusals, drift, and that nobody labels: webhook, Slack or mail, by [alerts].",
    )(loop.bound(alert_sensor))


def alert_sensor(context: dg.SensorEvaluationContext, platform: dg.ResourceParam[Platform]) -> dg.SkipReason:
    """One look. What happened before the first one is not told."""
    from al_core.records import utc_now
    from al_loop.alerts import alerts

    settings = platform.settings.alerts
    if not settings.channels:
        return dg.SkipReason('alerts.channels is empty: nobody is told. Name one, like channels = ["webhook"]')
    now = utc_now()
    before: dict[str, Any] = json.loads(context.cursor) if context.cursor else {"since": now.isoformat(), "told": {}}
    found = alerts(platform, datetime.fromisoformat(before["since"]), now)
    told, words = before["told"], list[str]()
    for channel in settings.channels:
        known = set(told.get(channel, []))
        new = [alert for alert in found if alert.key not in known]
        trouble = _sent(platform, channel, new)
        if trouble:
            context.log.error(f"{channel}: {trouble}")
            words.append(f"{channel}: {trouble}; {len(new)} alerts wait for it")
        elif new:
            known |= {alert.key for alert in new}
            words += [f"{channel}: {alert.text}" for alert in new]
        told[channel] = [alert.key for alert in found if alert.key in known]  # the rest is history
    context.update_cursor(json.dumps({"since": before["since"], "told": told}))
    return dg.SkipReason("; ".join(words) or "nothing to tell")


def _sent(platform: Platform, channel: str, alerts: Sequence[Alert]) -> str:
    """Send them in one message; in words why that did not come about, empty where it did."""
    from al_resources.alerting import AlertError
    from al_resources.alerting.channels import open_channel

    try:
        if alerts:
            open_channel(channel, platform.settings.alerts, os.environ).send(alerts)
    except AlertError as error:
        return str(error)
    return ""
