"""Somebody who is not looking is told: by a webhook, Slack or mail that really receive, once a channel and event."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from email import message_from_string
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from al_core.records import DECISIONS, EXPORTS, FAILURES, SELECTIONS, GateVerdict, new_ids, table_of, utc_now
from al_loop.alerts import alerts
from al_resources.platform import Platform
from al_resources.settings import AlertSettings, Settings, SettingsError, load_settings
from sensors.alerts import alert_sensor, build_alert_sensor

DAY = timedelta(days=1)


class Receiver(ThreadingHTTPServer):
    """Takes what is posted, or answers with the status it was told to."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Taking)
        self.taken: list[tuple[dict[str, Any], str | None]] = []
        self.status = 200

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hook/secret-part"


class _Taking(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.server.status == 200:
            self.server.taken.append((body, self.headers["authorization"]))
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        """Nobody reads it."""


class MailServer(socketserver.ThreadingTCPServer):
    """As much of SMTP as a mail takes."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _TakingMail)
        self.mails: list[str] = []


class _TakingMail(socketserver.StreamRequestHandler):
    server: MailServer

    def handle(self) -> None:
        self._say("220 here")
        while command := self.rfile.readline().decode().strip():
            if command.upper() == "DATA":
                self._say("354 go on")
                lines = iter(lambda: self.rfile.readline().decode(), ".\r\n")
                self.server.mails.append("".join(lines))
            quits = command.upper() == "QUIT"
            self._say("221 bye" if quits else "250 ok")
            if quits:
                return

    def _say(self, line: str) -> None:
        self.wfile.write(f"{line}\r\n".encode())


@contextmanager
def serving(server: Any) -> Iterator[Any]:
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with serving(Receiver()) as server:
        yield server


def with_alerts(folder: Path, **alerting: Any) -> Platform:
    return Platform(Settings(home=folder / "home", alerts=AlertSettings(**alerting)))


def a_run_fails(platform: Platform, reason: str = "the disk is full", run_id: str = "1234abcd") -> None:
    row = {"run_id": run_id, "job": "training_deployment", "round": 3, "step": "model_checkpoint", "reason": reason}
    platform.ledgers.insert_new("failures", table_of(FAILURES, [row | {"failed_at": utc_now()}]), on=["run_id"])


class Sensor:
    """The sensor with its cursor, as the daemon keeps it."""

    def __init__(self, platform: Platform, instance: dg.DagsterInstance) -> None:
        self.platform, self.instance = platform, instance
        self.cursor: str | None = None
        self.tick()  # what was before its first look is not told

    def tick(self) -> str:
        with dg.build_sensor_context(self.instance, cursor=self.cursor) as context:
            said = alert_sensor(context, self.platform)
            self.cursor = context.cursor
        return said.skip_message or ""


@pytest.fixture(scope="module")
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as instance:
        yield instance


def test_nobody_is_told_unless_somebody_asked_for_it(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    assert build_alert_sensor(Settings(home=tmp_path)).default_status is dg.DefaultSensorStatus.STOPPED
    on = Settings(home=tmp_path, alerts=AlertSettings(channels=("webhook",)))
    assert build_alert_sensor(on).default_status is dg.DefaultSensorStatus.RUNNING
    assert "alerts.channels is empty" in Sensor(with_alerts(tmp_path), instance).tick()


def test_a_failure_is_posted_once_with_the_token_and_a_link(
    tmp_path: Path, instance: dg.DagsterInstance, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALERT_WEBHOOK_URL", receiver.url)
    monkeypatch.setenv("ALERT_WEBHOOK_TOKEN", "let-me-in")
    platform = with_alerts(tmp_path, channels=("webhook",), dagster_url="https://dagster.example.org/")
    a_run_fails(platform, run_id="before")
    sensor = Sensor(platform, instance)
    a_run_fails(platform, "the disk is \x1b[31mfull")
    assert "the disk is" in sensor.tick()
    assert sensor.tick() == "nothing to tell"
    [(body, authorization)] = receiver.taken
    assert authorization == "Bearer let-me-in"
    [alert] = body["alerts"]
    assert alert["kind"] == "failure"
    assert alert["text"] == r"training_deployment of round 3 failed in model_checkpoint: the disk is \x1b[31mfull"
    assert alert["link"] == "https://dagster.example.org/runs/1234abcd"


def test_what_a_channel_did_not_take_is_sent_again_over_that_one_alone(
    tmp_path: Path, instance: dg.DagsterInstance, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALERT_WEBHOOK_URL", receiver.url)
    monkeypatch.delenv("ALERT_SLACK_URL", raising=False)
    platform = with_alerts(tmp_path, channels=("webhook", "slack"))
    sensor = Sensor(platform, instance)
    a_run_fails(platform, "a < b & c")
    receiver.status = 503
    said = sensor.tick()
    assert "webhook: 127.0.0.1 did not take it: HTTP 503; 1 alerts wait for it" in said
    assert "slack: ALERT_SLACK_URL is not set" in said
    assert "secret-part" not in said
    receiver.status = 200
    sensor.tick()
    monkeypatch.setenv("ALERT_SLACK_URL", receiver.url)
    sensor.tick()
    sensor.tick()
    by_webhook, by_slack = (body for body, _ in receiver.taken)
    assert len(by_webhook["alerts"]) == 1
    assert by_slack["text"].endswith("a &lt; b &amp; c")
    assert by_slack["text"].startswith("*classifier* failure: ")


def test_a_failure_arrives_by_mail(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    with serving(MailServer()) as server:
        platform = with_alerts(
            tmp_path,
            channels=("mail",),
            mail_host="127.0.0.1",
            mail_port=server.server_address[1],
            mail_security="none",
            mail_from="loop@example.org",
            mail_to=("ann@example.org", "ben@example.org"),
        )
        sensor = Sensor(platform, instance)
        a_run_fails(platform)
        sensor.tick()
        [mail] = map(message_from_string, server.mails)
    assert (mail["Subject"], mail["To"]) == ("classifier: failure", "ann@example.org, ben@example.org")
    assert b"failed in model_checkpoint: the disk is full" in mail.get_payload(decode=True)


def test_a_mail_server_that_cannot_secure_the_connection_gets_no_mail(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    addresses = {"mail_from": "loop@example.org", "mail_to": ("ann@example.org",)}
    with serving(MailServer()) as server:
        port = server.server_address[1]
        platform = with_alerts(tmp_path, channels=("mail",), mail_host="127.0.0.1", mail_port=port, **addresses)
        sensor = Sensor(platform, instance)
        a_run_fails(platform)
        assert "STARTTLS" in sensor.tick()
        assert not server.mails


def test_refused_exports_and_worse_challengers_are_told(platform: Platform) -> None:
    begun = utc_now()
    export = {"export_id": "e", "path": "labeling/exports/a.json", "etag": "1", "status": "quarantined"}
    rows = table_of(EXPORTS, [export | {"reason": "no JSON", "labels": 0, "new_labels": 0, "recorded_at": utc_now()}])
    platform.ledgers.insert_new("exports", rows, on=["path", "etag"])
    for version, outcome in ((2, "open"), (3, "worse")):
        verdict = GateVerdict(
            passed=False, outcome=outcome, reason=f"{outcome} by 5 points", champion_version=1, difference=None,
            tolerance=0.01, images=100, holdout="h",
        )  # type: ignore[arg-type]  # fmt: skip
        decision = {
            "decision_id": new_ids(1)[0], "action": "keep", "model_version": version, "against_version": 1,
            "reason": verdict.reason, "person": "the loop", "verdict": verdict.model_dump_json(),
            "decided_at": utc_now(),
        }  # fmt: skip
        platform.ledgers.insert_new("decisions", table_of(DECISIONS, [decision]), on=["decision_id"])
    told = [alert.text for alert in alerts(platform, begun, utc_now())]
    assert told == [
        "labeling/exports/a.json was refused: no JSON; mend it and write it anew",
        "v3 is worse and was not deployed, v1 serves on: worse by 5 points",
    ]


def test_that_nobody_labels_is_told_after_some_days_and_again_after_as_many(platform: Platform) -> None:
    now = utc_now()
    chosen = {"round": 0, "image_id": "0" * 32, "image_uri": "x", "rank": 0, "reason": "seed", "selected_at": now}
    platform.ledgers.insert_new("selections", table_of(SELECTIONS, [chosen]), on=["round", "image_id"])
    keys = [[alert.key for alert in alerts(platform, now, now + days * DAY)] for days in (2, 3, 5, 6)]
    assert [len(found) for found in keys] == [0, 1, 1, 1]
    assert keys[1] == keys[2] != keys[3]
    [alert] = alerts(platform, now, now + 3 * DAY)
    assert "1 images wait for it" in alert.text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('channels = ["mail"]', "needs alerts.mail_host"),
        ('channels = ["pager"]', "'webhook', 'slack' or 'mail'"),
        ('mail_to = ["ann"]', "'ann' is no address"),
    ],
)
def test_settings_that_reach_nobody_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str
) -> None:
    (tmp_path / "al.toml").write_text(f"[alerts]\n{text}\n")
    monkeypatch.setenv("AL_CONFIG", str(tmp_path / "al.toml"))
    with pytest.raises(SettingsError, match=said):
        load_settings()
