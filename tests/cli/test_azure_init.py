"""`al azure init` against the emulators: printed first, repeatable, and the platform works on what it made."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner

from al_cli.azure import EVENTS_TEMPLATE
from al_cli.main import cli
from al_core.records import LEDGERS, REJECTED_IMAGES, prediction_table, table_of, utc_now
from al_resources.azure.data_explorer import AGEING, setup_commands
from al_resources.platform import Platform
from al_resources.settings import load_settings
from emulators.azurite import Azurite, shared_azurite

pytest.importorskip("duckdb_kql", reason="the emulated Data Explorer: pip install 'duckdb-kql[all]'")
from emulators.kusto import KustoEmulator

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def azurite() -> Azurite:
    return shared_azurite()


@pytest.fixture
def kusto() -> Iterator[KustoEmulator]:
    with KustoEmulator() as kusto:
        yield kusto


@pytest.fixture
def container(azurite: Azurite, kusto: KustoEmulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Settings of an Azure without anything in it; the name of the container that is to be."""
    name = f"c{uuid.uuid4().hex}"
    (tmp_path / "al.toml").write_text(
        f'profile = "azure"\n[azure]\nkusto_uri = "{kusto.url}"\nkusto_ingestion = "streaming"\n'
        f'blob_account_url = "{azurite.blob_url}"\ncontainer = "{name}"\n'
        f'events_queue_url = "{azurite.queue_url}/{name}"\n'
    )
    monkeypatch.setenv("AL_CONFIG", str(tmp_path / "al.toml"))
    return name


def run(*arguments: str) -> str:
    done = CliRunner().invoke(cli, ["azure", "init", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_a_dry_run_prints_everything_and_does_nothing(container: str, kusto: KustoEmulator) -> None:
    shown = run("--dry-run")
    for command in setup_commands():
        assert command in shown
    assert f"create container {container}" in shown
    assert f"/{container}-poison" in shown
    assert f"queueName={container}" in shown
    assert kusto.tables == {}
    with pytest.raises(OSError, match="al azure init"):
        Platform().blobs.exists("a")


def test_labels_are_kept_for_ever_and_what_ages_as_long_as_the_settings_say(
    container: str, kusto: KustoEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AL_AZURE__KUSTO_RETENTION_DAYS", "90")
    run()
    kept = {name: table.policies["retention"] for name, table in kusto.tables.items()}
    assert {kept.pop(name) for name in AGEING} == {"softdelete = 90d"}
    assert set(kept) == set(LEDGERS) - set(AGEING)
    assert set(kept.values()) == {"softdelete = 36500d"}


def test_what_was_set_up_works_and_doing_it_again_changes_nothing(container: str) -> None:
    first = run()
    assert f"create container {container}" in first.split("\n\n")[0], "printed before it is done"
    assert ": created" in first
    platform = Platform(load_settings())
    platform.blobs.write("a", b"1")
    row = {"name": 'it\'s "odd".png', "reason": "no image", "source": "test", "rejected_at": utc_now()}
    platform.ledgers.insert_new("rejected_images", table_of(REJECTED_IMAGES, [row]), on=["name"])
    again = run()
    assert ": is there already" in again
    assert ": created" not in again
    assert platform.blobs.read("a") == b"1"
    assert platform.ledgers.read("rejected_images").height == 1
    assert platform.events.receive() == []
    assert platform.events.counts() == {"waiting": 0, "poison": 0}


def test_a_database_of_an_older_version_is_brought_up_to_date_and_keeps_its_rows(
    container: str, kusto: KustoEmulator
) -> None:
    """It had no `latency_ms` then; in the cloud, too, rows of before have none."""
    kusto.command(".create-merge table predictions (['prediction_id']:string, ['logged_at']:datetime)")
    old = {"prediction_id": ["old"], "logged_at": ["2026-01-01T00:00:00"]}
    kusto.load("predictions", pa.table(old))
    run()
    log = Platform(load_settings()).predictions
    log.append(
        prediction_table(
            image_ids=["0" * 32], image_uris=[""], image_hashes=[None], model_name="classifier", model_version=1,
            classes=("cat", "dog"), probs=np.array([[0.75, 0.25]]), source="online", latency_ms=[2.5],
        )
    )  # fmt: skip
    assert log.watermark().rows == 2
    assert log.rows_of(["0" * 32], ["latency_ms"])["latency_ms"].to_pylist() == [2.5]


def test_what_azure_refuses_is_one_sentence_with_the_step_and_the_way_out(
    container: str, kusto: KustoEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    from emulators.kusto import Fault

    kusto.faults.append(Fault("/v1/rest/mgmt", 403, "predictions", permanent=True))
    done = CliRunner().invoke(cli, ["azure", "init"])
    assert done.exit_code == 1
    assert "Error: .create-merge table predictions: " in done.output
    assert "docs/azure.md names the roles" in done.output


def test_addresses_that_are_missing_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "al.toml").write_text("")
    monkeypatch.setenv("AL_CONFIG", str(tmp_path / "al.toml"))
    done = CliRunner().invoke(cli, ["azure", "init"])
    assert done.exit_code == 1
    assert "azure.kusto_uri, azure.blob_account_url" in done.output


def test_the_template_takes_the_parameters_that_the_command_gives_it_and_keeps_what_cannot_be_delivered(
    container: str,
) -> None:
    template = (ROOT / EVENTS_TEMPLATE).read_text()
    given = set(re.findall(r"(\w+)=\S+", run("--dry-run").rsplit("--parameters", 1)[1]))
    declared = dict(re.findall(r"^param (\w+) string( = .*)?$", template, re.MULTILINE))
    required = {name for name, default in declared.items() if not default}
    assert required <= given <= set(declared)
    assert "deadLetterWithResourceIdentity" in template
    assert "/blobs/labeling/exports/'" in template


def test_the_emulated_demo_says_how_to_get_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from al_cli import emulators

    monkeypatch.setattr(emulators, "NEEDED", ("duckdb_kql", "a_package_that_is_not_here"))
    monkeypatch.setenv("AL_CONFIG", "")
    done = CliRunner().invoke(cli, ["demo", "--profile", "azure-emulated", "--home", str(tmp_path / "home")])
    assert done.exit_code == 1
    assert "need a_package_that_is_not_here: pip install" in done.output
