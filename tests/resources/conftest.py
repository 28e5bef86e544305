"""One fixture per port, run once for every adapter."""

from __future__ import annotations

from pathlib import Path

import pytest
from resource_adapters import BLOB_STORES, LEDGER_STORES, PREDICTION_STORES

from al_resources.blob_store import BlobStore
from al_resources.ledgers import Ledgers
from al_resources.prediction_store import PredictionStore


@pytest.fixture(params=LEDGER_STORES)
def ledgers(request: pytest.FixtureRequest, tmp_path: Path) -> Ledgers:
    return LEDGER_STORES[request.param](tmp_path)


@pytest.fixture(params=PREDICTION_STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> PredictionStore:
    return PREDICTION_STORES[request.param](tmp_path, LEDGER_STORES[request.param](tmp_path))


@pytest.fixture(params=BLOB_STORES)
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    return BLOB_STORES[request.param](tmp_path)
