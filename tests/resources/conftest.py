"""One fixture per port, run once for every adapter."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from resource_adapters import BLOB_STORES, EMBEDDING_STORES, LEDGER_STORES, PREDICTION_STORES

from al_resources.blobs import BlobStore
from al_resources.embedding_store import EmbeddingStore
from al_resources.ledgers import Ledgers
from al_resources.prediction_store import PredictionStore

if TYPE_CHECKING:  # Azure's SDK takes seconds to import: only where it is tested
    from azure_workspace import Workspace

    from emulators.azure_ml import AzureML


@pytest.fixture(params=LEDGER_STORES)
def ledgers(request: pytest.FixtureRequest, tmp_path: Path) -> Ledgers:
    return LEDGER_STORES[request.param](tmp_path)


@pytest.fixture(params=PREDICTION_STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> PredictionStore:
    return PREDICTION_STORES[request.param](tmp_path, LEDGER_STORES[request.param](tmp_path))


@pytest.fixture(params=EMBEDDING_STORES)
def embeddings(request: pytest.FixtureRequest, tmp_path: Path) -> EmbeddingStore:
    return EMBEDDING_STORES[request.param](tmp_path)


@pytest.fixture(params=BLOB_STORES)
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    return BLOB_STORES[request.param](tmp_path)


@pytest.fixture(scope="session")
def azure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[AzureML, dict[str, str]]]:
    """The emulated Azure ML, started once."""
    from emulators.azure_ml import azure_ml

    with azure_ml(tmp_path_factory.mktemp("azure")) as running:
        yield running


@pytest.fixture
def whole_code() -> None:
    """Asked for by tests whose containers run the uploaded code and nothing else."""


@pytest.fixture
def workspace(
    azure: tuple[AzureML, dict[str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> Workspace:
    """A platform whose models, jobs and endpoint are in an empty workspace of the emulated Azure ML.

    Sent along is what holds the scoring script; all packages, a file a request, only for those that ask (`whole_code`).
    """
    from azure_workspace import Workspace

    emulator, variables = azure
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    if "whole_code" not in request.fixturenames:
        monkeypatch.setattr("al_resources.azure.workspace.CODE", ("al_serving",))
    return Workspace.new(emulator, tmp_path)
