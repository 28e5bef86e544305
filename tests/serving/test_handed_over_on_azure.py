"""The whole way of answers that Data Explorer does not take: a blob, `al status`, `prediction_log`, the log."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from click.testing import CliRunner
from serving_stores import prediction

pytest.importorskip("duckdb_kql", reason="the emulated Data Explorer: pip install 'duckdb-kql[all]'")
pytest.importorskip("azure.kusto.data")

from al_assets.prediction_log import prediction_log
from al_cli.main import cli
from al_resources.azure import data_explorer
from al_resources.platform import Platform
from al_resources.prediction_store.referring import engine_of
from al_resources.settings import load_settings
from al_serving.collector import Collector
from al_serving.handed_over import FOLDER
from emulators.azurite import shared_azurite
from emulators.kusto import Fault, KustoEmulator

pytestmark = pytest.mark.slow
ANSWERS = 5


@pytest.fixture
def emulator() -> Iterator[KustoEmulator]:
    with KustoEmulator(storage=shared_azurite()) as running:
        yield running


@pytest.fixture
def platform(emulator: KustoEmulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Platform:
    """Settings of the Azure profile that lead to Azurite and to the emulated cluster, set up."""
    azurite = shared_azurite()
    (tmp_path / "al.toml").write_text(
        f'profile = "azure"\nhome = "home"\n[azure]\n'
        f'kusto_uri = "{emulator.url}"\nkusto_ingest_uri = "{emulator.url}"\n'
        f'kusto_ingestion = "streaming"\nblob_account_url = "{azurite.blob_url}"\ncontainer = "{azurite.container()}"\n'
    )
    monkeypatch.setenv("AL_CONFIG", str(tmp_path / "al.toml"))
    monkeypatch.setattr(data_explorer, "GIVE_UP_SECONDS", 0.2)
    made = Platform(load_settings())
    for command in data_explorer.setup_commands():
        engine_of(made.predictions).database.command(command)  # type: ignore[attr-defined]
    return made


def test_answers_outlive_their_container_are_counted_and_reach_the_log_once(
    emulator: KustoEmulator, platform: Platform
) -> None:
    away = Fault("/v1/rest/ingest/", status=503, times=10_000)
    emulator.faults.append(away)
    collector = Collector.of(platform)
    collector.offer([prediction(number) for number in range(ANSWERS)])
    collector.close(timeout=1)
    shutil.rmtree(platform.settings.home / "spool")  # the container's disk is gone
    segments = [blob.path for blob in platform.blobs.list(FOLDER)]
    assert segments
    assert emulator.rows("predictions") == 0
    away.times = 0
    status = json.loads(CliRunner().invoke(cli, ["status", "--json"]).stdout)
    assert status["segments_in_blob_store"] == len(segments)
    for delivered in (len(segments), 0):
        done = dg.materialize([prediction_log.of()], resources={"platform": platform})
        (made,) = done.asset_materializations_for_node("prediction_log")
        told = made.metadata.get("segments from the blob store")
        assert (0 if told is None else told.value) == delivered
    assert emulator.rows("predictions") == ANSWERS
    found = platform.predictions.rows_of([prediction(number).image_id for number in range(ANSWERS)])
    assert all(platform.images.read(uri) for uri in found["image_uri"].to_pylist())
    assert json.loads(CliRunner().invoke(cli, ["status", "--json"]).stdout)["segments_in_blob_store"] == 0
