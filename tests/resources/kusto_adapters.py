"""Data Explorer for the contract suites: one emulated cluster per folder, empty and set up."""

from __future__ import annotations

import atexit
from collections.abc import Callable
from pathlib import Path
from typing import Any

from emulators.kusto import KustoEmulator

from al_resources.azure_data_settings import AzureDataSettings
from al_resources.kusto import KustoDatabase, setup_commands
from al_resources.kusto_ledgers import KustoLedgers
from al_resources.ledgers import Ledgers
from al_resources.prediction_store.kusto import KustoPredictionStore

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
