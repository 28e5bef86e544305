"""Data Explorer for the contract suites: one emulated cluster per folder, empty and set up."""

from __future__ import annotations

import atexit
from collections.abc import Callable
from pathlib import Path
from typing import Any

from al_resources.azure.data_explorer import KustoDatabase, setup_commands
from al_resources.ledgers import Ledgers
from al_resources.ledgers.kusto import KustoLedgers
from al_resources.prediction_store.kusto import KustoPredictionStore
from al_resources.settings.azure_data import AzureDataSettings
from emulators.kusto import KustoEmulator

_DATABASES: dict[Path, KustoDatabase] = {}


def kusto_database(folder: Path) -> KustoDatabase:
    if folder not in _DATABASES:
        emulator = KustoEmulator().__enter__()
        atexit.register(emulator.__exit__)
        _DATABASES[folder] = ready_database(emulator)
    return _DATABASES[folder]


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
