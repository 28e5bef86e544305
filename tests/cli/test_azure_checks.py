"""`al doctor` and `al status` on Azure: every trouble is named, soon, with what helps."""

from __future__ import annotations

import json
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner

from al_cli.main import cli
from al_core.records import prediction_table, utc_now
from al_resources.azure import checks as azure_checks
from al_resources.azure.data_explorer import MAPPING
from al_resources.labeling import events
from al_resources.labeling.events import EventCursor, listen
from al_resources.labeling.inbox import INBOX
from al_resources.platform import Platform
from al_resources.settings import load_settings
from emulators.azurite import shared_azurite
from emulators.events import announce, send
from emulators.faults import Fault as StorageFault
from emulators.faults import FaultyDoor

pytest.importorskip("duckdb_kql", reason="the emulated Data Explorer: pip install 'duckdb-kql[all]'")
from emulators.kusto import Fault, KustoEmulator

BROKEN = "[/x] 'q\"; predictions | count.json"  # neither markup nor KQL to anybody


@dataclass
class Azure:
    """Emulated services, set up, and the settings that lead to them."""

    kusto: KustoEmulator
    door: FaultyDoor  # of the blob account
    config: Path

    def change(self, old: str, new: str) -> None:
        text = self.config.read_text()
        assert old in text
        self.config.write_text(text.replace(old, new))


@pytest.fixture
def not_set_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Azure]:
    storage, name = shared_azurite(), f"c{uuid.uuid4().hex}"
    with KustoEmulator(storage=storage) as kusto, FaultyDoor(storage.blob_url) as door:
        config = tmp_path / "al.toml"
        config.write_text(
            f'profile = "azure"\n[labeling]\nsettle_seconds = 0\n[azure]\nkusto_uri = "{kusto.url}"\n'
            f'kusto_ingestion = "queued"\nblob_account_url = "{door.url}"\ncontainer = "{name}"\n'
            f'events_queue_url = "{storage.queue_url}/{name}"\n'
        )
        monkeypatch.setenv("AL_CONFIG", str(config))
        yield Azure(kusto, door, config)


@pytest.fixture
def azure(not_set_up: Azure) -> Azure:
    assert CliRunner().invoke(cli, ["azure", "init"], catch_exceptions=False).exit_code == 0
    return not_set_up


def doctor() -> dict[str, str]:
    """What is wrong, by the name of the check."""
    done = CliRunner().invoke(cli, ["doctor", "--json"], catch_exceptions=False)
    wrong = {check["name"]: check["detail"] for check in json.loads(done.output)["checks"] if not check["ok"]}
    assert done.exit_code == bool(wrong)
    return wrong


def status() -> tuple[int, dict[str, Any], str]:
    """Exit code, facts and text."""
    done = [CliRunner().invoke(cli, ["status", *how], catch_exceptions=False) for how in (["--json"], [])]
    return done[0].exit_code, json.loads(done[0].output), done[1].output


def test_the_doctor_asks_every_address_and_likes_what_was_set_up(azure: Azure) -> None:
    assert doctor() == {}
    done = CliRunner().invoke(cli, ["doctor", "--json"])
    names = [check["name"] for check in json.loads(done.output)["checks"]]
    assert [name for name in names if name.startswith("azure.")] == [
        "azure.blob_account_url", "azure.events_queue_url", "azure.events_queue_url", "azure.kusto_uri",
        "azure.kusto_ingest_uri",
    ]  # fmt: skip


def test_a_missing_role_is_named_with_the_address(azure: Azure) -> None:
    azure.kusto.faults = [Fault("/v2/rest/query", 403, times=9, permanent=True)]
    azure.door.faults = [StorageFault("GET", "comp=list", 403, "AuthorizationPermissionMismatch", times=9)]
    wrong = doctor()
    assert set(wrong) == {"azure.kusto_uri", "azure.blob_account_url"}
    assert azure.kusto.url in wrong["azure.kusto_uri"]
    assert "this needs the role 'Viewer' on the database" in wrong["azure.kusto_uri"]
    assert "this needs the role 'Storage Blob Data Contributor'" in wrong["azure.blob_account_url"]


def test_what_was_not_set_up_is_named_with_the_command_that_does(not_set_up: Azure) -> None:
    wrong = doctor()
    for name in ("azure.blob_account_url", "azure.events_queue_url", "azure.kusto_uri"):
        assert "`al azure init` creates" in wrong[name]


def test_addresses_where_nobody_is_are_named_with_their_setting(azure: Azure, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(azure_checks, "BUSY_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    azure.change(azure.kusto.url, f"http://127.0.0.1:{port}")
    wrong = doctor()
    assert set(wrong) == {"azure.kusto_uri", "azure.kusto_ingest_uri"}
    for name, detail in wrong.items():
        assert f"127.0.0.1:{port}" in detail
        assert f"is {name} right" in detail


def test_a_service_that_takes_the_call_and_says_nothing_is_not_waited_for(
    azure: Azure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(azure_checks, "LIMIT_SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        azure.change(azure.kusto.url, f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert "no answer within 1 s; is azure.kusto_uri right" in doctor()["azure.kusto_uri"]
        code, facts, text = status()
    assert code == 1
    assert {found["outcome"] for found in facts["unavailable"]} == {"out of reach"}
    assert "out of reach http://127.0.0.1:" in text


def test_without_a_login_nobody_can_be_asked_and_the_setting_is_named(
    azure: Azure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")  # where the Azure CLI would be
    azure.change(azure.door.url, "https://images.blob.core.windows.net")
    azure.change("[azure]", '[azure]\ncredential = "cli"')
    assert "nobody is logged in: Azure CLI not found on path; azure.credential" in doctor()["azure.blob_account_url"]


def test_a_secret_that_is_not_there_is_a_line_like_any_other(azure: Azure) -> None:
    azure.change(azure.door.url, "https://images.blob.core.windows.net")
    azure.change("[azure]", '[azure]\nstorage_credential = "key"')
    assert "AZURE_STORAGE_ACCOUNT_KEY, which is not set" in doctor()["azure"]


@pytest.mark.parametrize("fault", [429, 503])
def test_during_an_outage_the_status_says_so_and_what_waits_meanwhile(
    azure: Azure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: int
) -> None:
    monkeypatch.setattr(azure_checks, "BUSY_SECONDS", 0.1)
    spool_a_segment()
    azure.kusto.faults = [Fault("", fault, times=10_000)]
    azure.door.faults = [StorageFault("GET", "comp=list", 503, times=10_000)]
    done = CliRunner().invoke(cli, ["status", "--json"], catch_exceptions=False)
    facts = json.loads(done.output)
    assert done.exit_code == 1
    assert {found["name"] for found in facts["unavailable"]} >= {"azure.kusto_uri", "azure.blob_account_url"}
    assert {found["outcome"] for found in facts["unavailable"]} == {"out of reach"}
    assert facts["spooled_segments"] == 1
    assert any(f"{fault}" in found["detail"] for found in facts["unavailable"])


def test_a_token_that_is_refused_for_good_is_in_the_status(azure: Azure) -> None:
    azure.kusto.tokens = {"somebody else's"}
    code, facts, text = status()
    assert code == 1
    assert "this needs the role 'Viewer' on the database" in text
    assert facts["unavailable"][0]["outcome"] == "refused"


def test_all_that_waits_for_a_person_is_in_the_status(azure: Azure, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "POISON_AFTER", 1)
    platform = Platform(load_settings())
    spool_a_segment()
    azure.kusto.tables["predictions"].mappings.pop(MAPPING)
    platform.predictions.append(one_prediction())
    send(platform.settings.azure.events_queue_url, "no event")
    hear_of(platform, BROKEN, b'{"images": "[/y]"}')
    announce(platform.settings.azure.events_queue_url, platform.settings.azure.container, f"{INBOX}/vanished.json")
    hear_of(platform, "half.json", b'{"images": [', ticks=1)
    until(lambda: bool(platform.predictions.failures()))
    code, facts, text = status()
    assert (code, facts["unavailable"], facts["spooled_segments"]) == (0, [], 1)
    assert facts["events"]["poison"] == 1
    assert "mapping 'columns_by_name' was not found" in facts["failed_ingestions"][0]
    assert [found["path"] for found in facts["quarantined"]] == [f"labeling/exports/{BROKEN}"]
    for line in (
        "spool 1 segments",
        "failed ingestion predictions",
        "1 messages in the poison queue",
        f"quarantined labeling/exports/{BROKEN}",
        "exports 1 gone, 1 quarantined",
        "in the inbox 1 exports wait: labeling/exports/half.json",
        "gone 1 exports, deleted before they were read: labeling/exports/vanished.json",
    ):
        assert line in text


@pytest.mark.parametrize(("hours", "said"), [(3, "180 min ahead of Azure's"), (-3, "180 min behind Azure's")])
def test_a_clock_that_is_off_is_in_the_status_and_stops_nothing(
    azure: Azure, monkeypatch: pytest.MonkeyPatch, hours: int, said: str
) -> None:
    monkeypatch.setattr(azure_checks, "utc_now", lambda: utc_now() + timedelta(hours=hours))
    code, facts, text = status()
    assert (code, [found["name"] for found in facts["unavailable"]]) == (0, ["clock"])
    assert facts["rounds"] == []
    assert f"wrong this machine's clock is {said}; set it by NTP" in text


def hear_of(platform: Platform, name: str, content: bytes, ticks: int = 2) -> None:
    """An export comes, and ticks hear of it."""
    azure, path = platform.settings.azure, f"{INBOX}/{name}"
    platform.blobs.write(path, content)
    announce(azure.events_queue_url, azure.container, path)
    cursor = EventCursor(reconciled_at=utc_now())
    for _ in range(ticks):
        heard = listen(platform.events, platform.inbox, cursor, container=azure.container, limit=20, now=utc_now())
        cursor = heard.cursor


def one_prediction() -> pa.Table:
    return prediction_table(
        image_ids=["0" * 32], image_uris=[""], image_hashes=[None], model_name="classifier", model_version=1,
        classes=("cat", "dog"), probs=np.array([[0.75, 0.25]]), source="online",
    )  # fmt: skip


def spool_a_segment() -> None:
    spool = load_settings().home / "spool" / "0"
    spool.mkdir(parents=True)
    (spool / "0-predictions.arrow").touch()


def until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.05)
