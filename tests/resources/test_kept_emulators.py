"""Emulators that keep what they hold: those that are started on the same folder go on with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("duckdb_kql", reason="the emulated Data Explorer: pip install 'duckdb-kql[all]'")

from kusto_adapters import database_of, ready_database
from resource_adapters import image, prediction_rows

from al_core.records import LABELS, table_of
from al_resources.azure.storage import container_client, queue_client
from al_resources.ledgers.kusto import KustoLedgers
from al_resources.prediction_store.kusto import KustoPredictionStore
from al_resources.settings.azure_data import AzureDataSettings
from emulators import serve
from emulators.azure_ml import ROOT, AzureML
from emulators.azurite import Azurite
from emulators.events import EventGrid
from emulators.kusto import KustoEmulator


def test_tables_rows_and_what_may_be_ingested_are_found_again_at_the_same_address(tmp_path: Path) -> None:
    row = table_of(LABELS, [{"image_id": image(1), "label": "cat"}])
    with KustoEmulator(folder=tmp_path) as first:
        database = ready_database(first)
        KustoLedgers(database).insert_new("labels", row, ["image_id"])
        KustoPredictionStore(database).append(prediction_rows([{"image_id": image(1)}]))
        port = int(first.url.rsplit(":", 1)[1])
    with KustoEmulator(folder=tmp_path, port=port) as again:
        assert again.url == first.url
        assert again.tables == first.tables
        database = database_of(again)
        assert KustoLedgers(database).insert_new("labels", row, ["image_id"]) == 0
        log = KustoPredictionStore(database)
        log.append(prediction_rows([{"image_id": image(2)}]))
        assert log.watermark().rows == 2


def test_blobs_and_messages_are_found_again_and_exports_are_announced_at_least_once(tmp_path: Path) -> None:
    ports = serve.kept_ports(tmp_path)
    assert serve.kept_ports(tmp_path) == ports

    def started() -> tuple[Azurite, AzureDataSettings]:
        storage = Azurite.start(folder=tmp_path / "azurite", ports=(ports[0], ports[1]))
        queue = f"{storage.queue_url}/labeling-exports"
        return storage, AzureDataSettings(blob_account_url=storage.blob_url, events_queue_url=queue)

    storage, settings = started()
    with storage, container_client(settings) as container, queue_client(settings, settings.events_queue_url) as queue:
        container.create_container()
        queue.create_queue()
        container.upload_blob("labeling/exports/0000.json", b"{}")
        container.upload_blob("images/a.png", b"1")
        assert announced(settings, wanted=1) == 1, "what lies elsewhere is not announced"
    storage, settings = started()
    with storage, container_client(settings) as container:
        assert container.download_blob("images/a.png").readall() == b"1"
        assert announced(settings, wanted=2) == 2, "once more: whoever reads them knows which export it took"


def announced(settings: AzureDataSettings, wanted: int) -> int:
    """How many messages wait, after Event Grid has had time to send so many."""
    with EventGrid(settings, "labeling/exports/") as grid, queue_client(settings, settings.events_queue_url) as queue:
        while (found := queue.get_queue_properties().approximate_message_count) < wanted:
            assert grid._thread.is_alive()
        grid._ended.wait(3 * EventGrid.LOOK_SECONDS)  # and no more of them
        return int(max(found, queue.get_queue_properties().approximate_message_count))


def test_a_workspace_is_found_again_and_what_was_under_way_has_failed(tmp_path: Path) -> None:
    def resource(below: str, **properties: Any) -> tuple[str, dict[str, Any]]:
        path = f"{ROOT}/{below}"
        return path.lower(), {"id": path, "name": path.rsplit("/", 1)[-1], "properties": properties}

    first = AzureML(tmp_path)
    first.resources |= dict(
        [
            resource("models/digits/versions/1", modelUri="azureml://datastores/x/paths/models/1", flavors={}),
            resource("onlineEndpoints/digits", provisioningState="Succeeded", traffic={"blue": 100}),
            resource("onlineEndpoints/digits/deployments/blue", provisioningState="Succeeded"),
            resource("onlineEndpoints/digits/deployments/green", provisioningState="Creating"),
            resource("jobs/train-1", status="Completed", jobType="Command"),
            resource("jobs/train-2", status="Running", jobType="Command"),
        ]
    )
    first.batch.jobs = {"batch-1": "Completed", "batch-2": "Running"}
    first.printed("train-1", ["epoch 1"])
    first.close()
    again = AzureML(tmp_path)
    started: list[tuple[str, str]] = []
    again._start_server = lambda endpoint, name, properties: started.append((endpoint, name))  # type: ignore[method-assign]
    again.go_on()
    assert started == [("digits", "blue")]
    assert again.key == first.key
    assert again.log_of("train-1") == ["epoch 1"]
    assert again.batch.jobs == {"batch-1": "Completed", "batch-2": "Failed"}
    states = {below: again.get(below)["properties"] for below in ("jobs/train-1", "jobs/train-2")}  # type: ignore[index]
    assert {below: properties["status"] for below, properties in states.items()} == {
        "jobs/train-1": "Completed",
        "jobs/train-2": "Failed",
    }
    green = again.get("onlineEndpoints/digits/deployments/green")
    assert green is not None
    assert green["properties"]["provisioningState"] == "Failed"
