"""Data Explorer for the contract suites: one emulated cluster per folder, empty and set up.

Setting one up is most of a short example's time, so that of a folder which is gone is emptied and used again.
"""

from __future__ import annotations

import atexit
from collections.abc import Callable
from pathlib import Path
from typing import Any

from al_resources.azure.data_explorer import KustoDatabase, setup_commands
from al_resources.embedding_store.kusto import KustoEmbeddingStore
from al_resources.ledgers import Ledgers
from al_resources.ledgers.kusto import KustoLedgers
from al_resources.prediction_store.kusto import KustoPredictionStore
from al_resources.settings.azure_data import AzureDataSettings
from emulators.kusto import KustoEmulator

_CLUSTERS: dict[Path, KustoEmulator] = {}
_DATABASES: dict[Path, KustoDatabase] = {}


def kusto_database(folder: Path) -> KustoDatabase:
    if folder not in _DATABASES:
        _DATABASES[folder] = _emptied(folder) or _new(folder)
    return _DATABASES[folder]


def _emptied(folder: Path) -> KustoDatabase | None:
    gone = next((old for old in _CLUSTERS if not old.exists()), None)
    if gone is None:
        return None
    del _DATABASES[gone]
    emulator = _CLUSTERS[folder] = _CLUSTERS.pop(gone)
    emulator.empty()
    return database_of(emulator)


def _new(folder: Path) -> KustoDatabase:
    emulator = _CLUSTERS[folder] = KustoEmulator().__enter__()
    atexit.register(emulator.__exit__)
    return ready_database(emulator)


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


def kusto_embeddings(folder: Path) -> KustoEmbeddingStore:
    return KustoEmbeddingStore(kusto_database(folder))


def kusto_predictions(folder: Path, ledgers: Ledgers) -> KustoPredictionStore:
    return KustoPredictionStore(kusto_database(folder))
