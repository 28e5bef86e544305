"""The Dagster home that `al init` and `al ui` write for the Azure profile."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
import yaml
from azure.identity import DefaultAzureCredential
from azure.storage.blob import BlobServiceClient
from click.testing import CliRunner

from al_cli.dagster_process import write_dagster_home
from al_cli.main import cli
from al_resources.azure.storage import DEVELOPMENT_ACCOUNT
from emulators.azurite import Azurite
from emulators.tls_proxy import proxy_to, write_certificates

HOST = "devstoreaccount1.blob.core.windows.net"
CONTAINER = "active-learning"


@pytest.fixture
def account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BlobServiceClient]:
    """A storage account under its real address, with TLS: the nearest thing to one in Azure."""
    authority, server = write_certificates(tmp_path / "tls", [HOST])
    with Azurite.start(server) as azurite:
        port = int(azurite.blob_url.split(":")[2].split("/")[0])
        with proxy_to(port) as proxy:
            monkeypatch.setenv("HTTPS_PROXY", proxy)
            monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority))
            with BlobServiceClient(f"https://{HOST}", credential=DEVELOPMENT_ACCOUNT["account_key"]) as service:
                service.create_container(CONTAINER)
                yield service


def initialised(folder: Path, *lines: str) -> Path:
    """What `al init` makes where al.toml says so."""
    folder.mkdir()
    (folder / "al.toml").write_text("\n".join(['profile = "azure"', "[azure]", *lines]))
    done = CliRunner(env={"AL_CONFIG": None}).invoke(cli, ["init", str(folder)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return folder


@dg.op
def talkative() -> None:
    print("what the step printed")


@dg.job
def talk() -> None:
    talkative()


def test_the_logs_of_runs_outlive_the_machine(
    account: BlobServiceClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", DEVELOPMENT_ACCOUNT["account_key"])
    address = [f'blob_account_url = "https://{HOST}"', 'storage_credential = "key"']
    here = initialised(tmp_path / "here", *address)
    with dg.DagsterInstance.from_config(str(here)) as instance:
        run = talk.execute_in_process(instance=instance)
        (logs,) = [event.logs_captured_data for event in run.all_events if event.event_type_value == "LOGS_CAPTURED"]
        key = [run.run_id, "compute_logs", logs.file_key]
    kept = {blob.name for blob in account.get_container_client(CONTAINER).list_blobs()}
    assert {f"dagster/storage/{'/'.join(key)}.{kind}" for kind in ("out", "err")} == kept
    with dg.DagsterInstance.from_config(str(initialised(tmp_path / "elsewhere", *address))) as other:
        found = other.compute_log_manager.get_log_data(key)
        assert found.stdout == b"what the step printed\n"
        assert other.compute_log_manager.get_log_metadata(key).stdout_download_url.startswith(f"https://{HOST}/")


def test_dagster_logs_in_as_the_platform_does(tmp_path: Path) -> None:
    home = initialised(
        tmp_path / "home",
        'blob_account_url = "https://images.blob.core.usgovcloudapi.net/"',
        'container = "loop"',
        'client_id = "1234"',
        'authority = "https://login.microsoftonline.us"',
    )
    with dg.DagsterInstance.from_config(str(home)) as instance:
        manager = instance.compute_log_manager
        assert manager._container_client.url == "https://images.blob.core.usgovcloudapi.net/loop"
        assert isinstance(manager._blob_client.credential, DefaultAzureCredential)
    said = yaml.safe_load((home / "dagster.yaml").read_text())["compute_logs"]["config"]
    assert said["default_azure_credential"] == {
        "managed_identity_client_id": "1234",
        "authority": "https://login.microsoftonline.us",
    }


@pytest.mark.parametrize(
    "lines",
    [
        ['blob_account_url = "http://127.0.0.1:10000/devstoreaccount1"'],
        ['blob_account_url = "https://images.blob.core.windows.net"', 'storage_credential = "sas"'],
    ],
    ids=["an emulator", "a SAS"],
)
def test_where_dagster_cannot_keep_logs_in_the_container_they_stay_where_the_run_was(
    tmp_path: Path, lines: list[str]
) -> None:
    assert "compute_logs" not in yaml.safe_load((initialised(tmp_path / "home", *lines) / "dagster.yaml").read_text())


def test_a_home_is_guarded_against_what_dagster_is_known_to_do(tmp_path: Path) -> None:
    """Slots that a cancelled run keeps, a root logger that locks the event log, ticks that fill the disk."""
    write_dagster_home(tmp_path)
    home = yaml.safe_load((tmp_path / "dagster.yaml").read_text())
    assert home["concurrency"]["pools"] == {"granularity": "run", "default_limit": 1}
    assert home["run_monitoring"]["enabled"]
    assert home["run_monitoring"]["free_slots_after_run_end_seconds"] > 0
    assert home["run_retries"]["enabled"]
    assert "root" not in home.get("python_logs", {}).get("managed_python_loggers", [])
    assert home["retention"]["sensor"]["purge_after_days"]["skipped"] <= 7
    assert not home["telemetry"]["enabled"]
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        assert instance.run_monitoring_enabled
        assert instance.run_launcher.supports_check_run_worker_health
