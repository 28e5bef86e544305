"""Azure Storage for the contract suites: a container of its own per folder, in one Azurite for all."""

from __future__ import annotations

from pathlib import Path

from al_resources.blobs import BlobStore
from al_resources.blobs.azure import AzureBlobStore
from al_resources.settings.azure_data import AzureDataSettings
from emulators.azurite import Azurite, shared_azurite


def running_azurite() -> Azurite:
    """The one of this test run."""
    return shared_azurite()


def azure_blobs(_: Path) -> BlobStore:
    azurite = running_azurite()
    return AzureBlobStore(AzureDataSettings(blob_account_url=azurite.blob_url, container=azurite.container()))
