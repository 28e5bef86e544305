"""The door to a storage account: who logs in, and the clients of its container and its queues.

Entra ID first. A key or a SAS is read from the environment only, where `azure.storage_credential` says so; a plain
http address on loopback is an emulator with its development account.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from al_resources.azure.identity import azure_credential
from al_resources.settings import SettingsError
from al_resources.settings.azure_data import is_loopback

if TYPE_CHECKING:
    from azure.storage.blob import ContainerClient
    from azure.storage.queue import QueueClient
    from requests import Session

    from al_resources.settings.azure_data import AzureDataSettings

# The account of every storage emulator, published and no secret:
# learn.microsoft.com/azure/storage/common/storage-use-azurite
DEVELOPMENT_ACCOUNT = {
    "account_name": "devstoreaccount1",
    "account_key": "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==",
}
KEY_VARIABLE = "AZURE_STORAGE_ACCOUNT_KEY"
SAS_VARIABLE = "AZURE_STORAGE_SAS_TOKEN"
# Put Blob's limit. Larger ones would travel in blocks, and the SDK names these by their place: of two that write
# the same blob at the same time, one would commit the other's blocks.
ONE_REQUEST = 5_000 * 1024 * 1024
CONNECTIONS = 64  # kept open to a container; the collector writes 32 images at once
# about a minute of throttling, overload, lost connections
PATIENCE: dict[str, Any] = {"initial_backoff": 1, "increment_base": 2, "retry_total": 5, "random_jitter_range": 1}

# for who asks only whether somebody is there: two seconds, and no wait for an answer that does not come
HURRY: dict[str, Any] = {"initial_backoff": 0.2, "increment_base": 0.5, "retry_total": 2, "random_jitter_range": 0}
HURRIED_SECONDS = 4


def container_client(settings: AzureDataSettings, *, hurried: bool = False) -> ContainerClient:
    """The container `azure.container`, whether or not it exists.

    Raises:
        SettingsError: the key or SAS that the settings ask for is not in the environment.
    """
    from azure.storage.blob import BlobServiceClient, ExponentialRetry

    address = settings.blob_account_url
    service = BlobServiceClient(
        address,
        credential=storage_credential(settings, address),
        max_single_put_size=ONE_REQUEST,
        session=_session(),
        **_patience(ExponentialRetry, hurried),
    )
    return service.get_container_client(settings.container)


def _session() -> Session:
    """As the SDK's own (it does the retries), but it keeps as many connections as images are written at once.

    The usual ten would have two of three writers connect anew, TLS included, for every image.
    """
    from requests import Session
    from requests.adapters import HTTPAdapter
    from urllib3 import Retry

    session = Session()
    no_retries = Retry(total=False, redirect=False, raise_on_status=False)
    for scheme in ("https://", "http://"):
        session.mount(scheme, HTTPAdapter(max_retries=no_retries, pool_maxsize=CONNECTIONS))
    return session


def queue_client(settings: AzureDataSettings, address: str, *, hurried: bool = False) -> QueueClient:
    """The queue at `address`. Raises `SettingsError`, see `container_client`."""
    from azure.storage.queue import ExponentialRetry, QueueClient

    return QueueClient.from_queue_url(
        address, credential=storage_credential(settings, address), **_patience(ExponentialRetry, hurried)
    )


def _patience(retry: Callable[..., object], hurried: bool) -> dict[str, Any]:
    if not hurried:
        return {"retry_policy": retry(**PATIENCE)}
    return {"retry_policy": retry(**HURRY), "connection_timeout": HURRIED_SECONDS, "read_timeout": HURRIED_SECONDS}


def account_name(address: str) -> str:
    """The storage account of an address: its first label, or the first of its path where that is an emulator's."""
    parts = urlsplit(address)
    return parts.path.strip("/").split("/")[0] if is_loopback(address) else str(parts.hostname).split(".")[0]


def storage_credential(settings: AzureDataSettings, address: str) -> Any:
    """What the clients of the account at `address` log in with. Raises `SettingsError`."""
    if is_loopback(address):
        return DEVELOPMENT_ACCOUNT
    if settings.storage_credential == "key":
        return {"account_name": account_name(address), "account_key": _from_environment(KEY_VARIABLE)}
    if settings.storage_credential == "sas":
        from azure.core.credentials import AzureSasCredential

        return AzureSasCredential(sas_token(settings, address).lstrip("?"))
    return azure_credential(settings)


def sas_token(settings: AzureDataSettings, address: str) -> str:
    """`?sv=...` for the end of an address; nothing where another credential is used. Raises `SettingsError`."""
    if settings.storage_credential != "sas" or is_loopback(address):
        return ""
    return "?" + _from_environment(SAS_VARIABLE).lstrip("?")


def _from_environment(variable: str) -> str:
    value = os.environ.get(variable, "")
    if not value:
        raise SettingsError(
            f"azure.storage_credential asks for {variable}, which is not set; set it, "
            "or azure.storage_credential = 'entra' to log in with the identity that azure.credential names"
        )
    return value
