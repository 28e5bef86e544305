"""Data Explorer for the contract suites: one emulated cluster per folder, empty and set up."""

from __future__ import annotations

import atexit
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from al_resources.azure_data_settings import AzureDataSettings
from al_resources.kusto import KustoDatabase, setup_commands
from al_resources.kusto_ledgers import KustoLedgers
from al_resources.ledgers import Ledgers
from al_resources.prediction_store.kusto import KustoPredictionStore

sys.path.append(str(Path(__file__).parents[1] / "emulators"))
from azurite import Azurite, shared_azurite
from kusto import Fault, KustoEmulator
from node_packages import NotInstalled

__all__ = ["Fault", "KustoEmulator", "database_of", "emulated_storage", "ready_database"]

_DATABASES: dict[Path, KustoDatabase] = {}


def kusto_database(folder: Path) -> KustoDatabase:
    if folder not in _DATABASES:
        emulator = KustoEmulator().__enter__()
        atexit.register(emulator.__exit__)
        _DATABASES[folder] = ready_database(emulator)
    return _DATABASES[folder]


def emulated_storage() -> Azurite:
    """Blobs and queues for queued ingestion; without node the test is left out."""
    try:
        return shared_azurite()
    except NotInstalled as reason:
        pytest.skip(str(reason))


def database_of(emulator: KustoEmulator, credential: Callable[[], Any] | None = None, **settings: str) -> KustoDatabase:
    addresses = {"kusto_uri": emulator.url, "kusto_ingest_uri": emulator.url, "kusto_ingestion": "streaming"}
    return KustoDatabase(AzureDataSettings.model_validate(addresses | settings), credential)


def ready_database(emulator: KustoEmulator, **settings: str) -> KustoDatabase:
    database = database_of(emulator, **settings)
    for command in setup_commands():
        database.command(command)
    return database


def kusto_ledgers(folder: Path) -> Ledgers:
    return KustoLedgers(kusto_database(folder))


def kusto_predictions(folder: Path, ledgers: Ledgers) -> KustoPredictionStore:
    return KustoPredictionStore(kusto_database(folder))
