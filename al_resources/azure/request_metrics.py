"""How many requests of a deployment failed, as Azure Monitor counts them: by what callers saw and what the model said.

A managed endpoint never hands a container's own status on: whatever is not 200 reaches the caller as 424, with the
container's status in the dimension `modelStatusCode`; 408 is no answer in time, 429 more requests than the deployment
takes, and 500 Azure's own trouble (learn.microsoft.com, how-to-troubleshoot-online-endpoints, HTTP status codes).
A count belongs to a minute and arrives some minutes after it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from al_resources.azure.workspace import Arm

API = "2018-01-01"
METRIC = "RequestsPerMinute"
MOST_SERIES = 1000  # a series per pair of statuses; without a number Azure stops after ten
MODEL_ERROR = 424
TIMEOUT, OVERLOAD = 408, 429
# What the scoring script refuses (`al_serving.payloads`): the sender's doing, whichever version answers.
REFUSALS = {400, 404, 405, 413, 415, 422}


@dataclass(frozen=True)
class RequestCounts:
    """Requests by (status that the caller saw, status of the container; 0 where it has none)."""

    by_status: dict[tuple[int, int], int]

    @property
    def failed(self) -> dict[tuple[int, int], int]:
        """Those that say something against the deployment."""
        return {statuses: count for statuses, count in self.by_status.items() if _is_failure(*statuses)}

    def problem(self) -> str | None:
        """What failed, in words; None where nothing did."""
        failed = self.failed
        if not failed:
            return None
        kinds = ", ".join(f"{count} x {_words(*statuses)}" for statuses, count in sorted(failed.items()))
        total = sum(failed.values())
        return f"{total} request{'s' if total > 1 else ''} failed: {kinds}"


def request_counts(arm: Arm, endpoint: str, deployment: str, since: datetime, until: datetime) -> RequestCounts:
    """What Azure Monitor counted between two times (UTC). Raises `WorkspaceError`."""
    answer = arm.call(
        "GET",
        f"onlineEndpoints/{endpoint}/providers/Microsoft.Insights/metrics",
        what=f"asking how many requests of {deployment} failed",
        role="Monitoring Reader",
        params={
            "api-version": API,
            "metricnames": METRIC,
            "aggregation": "Average",
            "interval": "PT1M",
            "timespan": f"{since:%Y-%m-%dT%H:%M:%SZ}/{until:%Y-%m-%dT%H:%M:%SZ}",
            "$filter": f"deployment eq '{deployment}' and statusCode eq '*' and modelStatusCode eq '*'",
            "top": str(MOST_SERIES),
        },
    )
    counts: Counter[tuple[int, int]] = Counter()
    for statuses, count in _series(answer):
        counts[statuses] += count
    return RequestCounts({statuses: count for statuses, count in counts.items() if count})


def _series(answer: dict[str, Any]) -> Iterator[tuple[tuple[int, int], int]]:
    for metric in answer["value"]:
        for series in metric["timeseries"]:
            named = {each["name"]["value"].lower(): each["value"] for each in series.get("metadatavalues", [])}
            statuses = _number(named.get("statuscode")), _number(named.get("modelstatuscode"))
            yield statuses, math.ceil(sum(point.get("average") or 0.0 for point in series["data"]))


def _number(status: str | None) -> int:
    return int(status) if status and status.isdecimal() else 0


def _is_failure(seen: int, by_model: int) -> bool:
    if seen == MODEL_ERROR:
        return by_model not in REFUSALS
    return seen in (TIMEOUT, OVERLOAD) or seen >= 500


def _words(seen: int, by_model: int) -> str:
    if seen == MODEL_ERROR:
        return f"{seen} (the container answered {by_model or 'nothing'})"
    said = {TIMEOUT: "no answer in time", OVERLOAD: "more than it takes at once"}.get(seen, "Azure's own trouble")
    return f"{seen} ({said})"
