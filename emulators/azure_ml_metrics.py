"""Azure Monitor's answers about an online endpoint: `RequestsPerMinute`, split by its dimensions, a minute a point.

As documented: a request outside the published dimensions is refused, `'*'` splits, a value restricts, at most `top`
series (10 by itself), names of dimensions come back in lower case, and a minute without requests has no average.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

CLAUSE = re.compile(r"(\w+) eq '([\w*-]+)'")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class CountedRequest(NamedTuple):
    """Who answered a request, what the caller saw, what the container said (0: nothing), in which minute of Unix."""

    deployment: str
    status: int
    model_status: int
    minute: int

    @property
    def dimensions(self) -> dict[str, str]:
        """As Azure Monitor knows them."""
        return {
            "deployment": self.deployment,
            "statuscode": str(self.status),
            "statuscodeclass": f"{self.status // 100}xx",
            "modelstatuscode": str(self.model_status or ""),
        }


def metrics_answer(counted: Counter[CountedRequest], query: Mapping[str, str]) -> dict[str, Any]:
    """What was counted, for one request to `.../providers/Microsoft.Insights/metrics`."""
    assert query["metricnames"] == "RequestsPerMinute", query["metricnames"]
    assert query["interval"] == "PT1M", query["interval"]
    wanted = {name.lower(): value for name, value in map(_clause, query["$filter"].split(" and "))}
    since, until = (int((_time(each) - EPOCH).total_seconds() // 60) for each in query["timespan"].split("/"))
    series: dict[tuple[str, ...], Counter[int]] = defaultdict(Counter)
    split = [name for name, value in wanted.items() if value == "*"]
    for request, count in counted.items():
        has = request.dimensions
        if since <= request.minute <= until and all(value in ("*", has[name]) for name, value in wanted.items()):
            series[tuple(has[name] for name in split)][request.minute] += count
    shown = list(series.items())[: int(query.get("top", "10"))]
    return {
        "value": [
            {
                "name": {"value": "RequestsPerMinute"},
                "timeseries": [_series(split, values, minutes, until) for values, minutes in shown],
            }
        ]
    }


def _series(split: list[str], values: tuple[str, ...], minutes: Counter[int], until: int) -> dict[str, Any]:
    def point(minute: int) -> dict[str, Any]:
        at = {"timeStamp": f"{EPOCH + timedelta(minutes=minute):%Y-%m-%dT%H:%M:%SZ}"}
        return {**at, "average": float(minutes[minute])} if minutes[minute] else at

    named = [
        {"name": {"value": name, "localizedValue": name}, "value": value}
        for name, value in zip(split, values, strict=True)
    ]
    return {"metadatavalues": named, "data": [point(minute) for minute in range(min(minutes), until + 1)]}


def _clause(clause: str) -> tuple[str, str]:
    found = CLAUSE.fullmatch(clause.strip())
    assert found is not None, clause
    return found[1], found[2]


def _time(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
