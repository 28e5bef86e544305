"""What somebody should know who is not looking, found in the records: failures, refusals, drift, nobody labels."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import polars as pl

from al_core.shown_text import harmless
from al_resources.alerting import Alert

if TYPE_CHECKING:
    from al_resources.platform import Platform

LOOK_BACK = timedelta(days=7)  # what no channel took for so long is history


def alerts(platform: Platform, since: datetime, now: datetime) -> list[Alert]:
    """What happened since then and is worth an alert by `alerts.about`, oldest first; what stands has one key as long
    as it stands. Of the ledgers only what is new is read, by a process that looked before.
    """
    finders = {"failure": _failures, "refusal": _refusals, "drift": _drift, "labels": _nobody_labels}
    after = max(since, now - LOOK_BACK)
    found = [alert for kind in platform.settings.alerts.about for alert in finders[kind](platform, after, now)]
    return sorted(found, key=lambda alert: alert.at)


def _alert(platform: Platform, kind: str, key: str, text: str, at: datetime, path: str = "") -> Alert:
    url = platform.settings.alerts.dagster_url
    link = f"{url.rstrip('/')}/{path}" if url and path else ""
    return Alert(f"{kind}:{key}", kind, platform.settings.model.name, harmless(text), at, link)


def _failures(platform: Platform, since: datetime, now: datetime) -> Iterator[Alert]:
    rows = platform.ledgers.read("failures").filter(pl.col("failed_at").is_between(since, now))
    for row in rows.iter_rows(named=True):
        what = row["job"] if row["round"] is None else f"{row['job']} of round {row['round']}"
        where = f" in {row['step']}" if row["step"] else ""
        text = f"{what} failed{where}: {row['reason']}"
        yield _alert(platform, "failure", row["run_id"], text, row["failed_at"], f"runs/{row['run_id']}")


def _refusals(platform: Platform, since: datetime, now: datetime) -> Iterator[Alert]:
    """Exports that could not be read, and challengers that are worse."""
    exports = platform.ledgers.read("exports", status="quarantined")
    for row in exports.filter(pl.col("recorded_at").is_between(since, now)).iter_rows(named=True):
        text = f"{row['path']} was refused: {row['reason']}; mend it and write it anew"
        key, page = f"{row['path']}@{row['etag']}", "assets/labeled_dataset?view=checks"
        yield _alert(platform, "refusal", key, text, row["recorded_at"], page)
    decided = platform.ledgers.read("decisions", action="keep").filter(pl.col("verdict").is_not_null())
    for row in decided.filter(pl.col("decided_at").is_between(since, now)).iter_rows(named=True):
        if json.loads(row["verdict"]).get("outcome") != "worse":
            continue
        serving = "nobody serves" if row["against_version"] is None else f"v{row['against_version']} serves on"
        text = f"v{row['model_version']} is worse and was not deployed, {serving}: {row['reason']}"
        yield _alert(platform, "refusal", row["decision_id"], text, row["decided_at"], "assets/deployment")


def _drift(platform: Platform, since: datetime, now: datetime) -> Iterator[Alert]:
    """The alarm that stands, once, however many looks raise it."""
    from al_loop.monitoring import drift_on_record

    del since  # what stands is told whenever it began
    state = drift_on_record(platform)
    if not state.alarm or state.look is None:
        return
    began = state.look.alarm_since or now
    page = "assets/prediction_log?view=checks"
    yield _alert(platform, "drift", f"v{state.version}@{began.isoformat()}", state.sentence, began, page)


def _nobody_labels(platform: Platform, since: datetime, now: datetime) -> Iterator[Alert]:
    """A batch waits, and for `alerts.unlabeled_days` no label came; told again after as many days."""
    del since
    merged = platform.ledgers.read("exports", status="merged")["recorded_at"].max()
    selected = platform.ledgers.read("selections")["selected_at"].max()
    if not isinstance(selected, datetime):  # nobody was asked
        return
    last = max(merged, selected) if isinstance(merged, datetime) else selected
    period = timedelta(days=platform.settings.alerts.unlabeled_days)
    times = (now - last) // period
    if times < 1 or not (waiting := platform.unlabeled_candidates()):
        return
    text = f"nothing was labeled since {last:%Y-%m-%d %H:%M} UTC, and {waiting} images wait for it"
    yield _alert(platform, "labels", f"{last.isoformat()}#{times}", text, last + times * period)
