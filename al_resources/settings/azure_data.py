"""Where the data of the Azure profile lies. Settings only: nothing of Azure is imported."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

RETENTION_DAYS = 730
AUTHORITY = "https://login.microsoftonline.com/"


def is_loopback(address: str) -> bool:
    """Whether an address is plain http on this very machine: an emulator, which knows no authentication."""
    return urlsplit(address).scheme == "http" and _is_here(address)


def _is_here(address: str) -> bool:
    return urlsplit(address).hostname in ("127.0.0.1", "localhost", "::1")


def _address(address: str) -> str:
    """Tokens and data travel encrypted; what follows a `?` opens the storage and has no place in a file."""
    parts = urlsplit(address)
    if address and not (is_loopback(address) or (parts.scheme == "https" and parts.hostname)):
        raise ValueError("expected https://<host>, or http://127.0.0.1:<port> of an emulator on this machine")
    if parts.query or parts.fragment:
        raise ValueError(
            "expected an address without '?' and '#'; a SAS goes into AZURE_STORAGE_SAS_TOKEN, with "
            "azure.storage_credential = 'sas'"
        )
    return address.rstrip("/")


def _service(address: str) -> str:
    if urlsplit(address).path and not _is_here(address):  # an emulator's account is part of the path
        raise ValueError("expected nothing behind the host: database and container are settings of their own")
    return address


def _queue(address: str) -> str:
    named = [part for part in urlsplit(address).path.split("/") if part]
    if address and len(named) != (2 if _is_here(address) else 1):
        raise ValueError("expected the queue's name at its end: https://<account>.queue.core.windows.net/<queue>")
    return address


Service = Annotated[str, AfterValidator(_address), AfterValidator(_service)]
Queue = Annotated[str, AfterValidator(_address), AfterValidator(_queue)]
Credential = Literal["managed_identity", "default", "cli"]


class AzureDataSettings(BaseModel):
    """Data Explorer, Blob Storage and the queue of events. A loopback http address means no authentication."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    credential: Credential = Field(
        "managed_identity", description="managed_identity on Azure, cli (`az login`) or default elsewhere"
    )
    client_id: str = Field("", description="of a user-assigned managed identity; empty: the system's own")
    authority: str = Field(
        AUTHORITY, pattern=r"^https://[\w.-]+/?$", description="where tokens come from; another cloud has its own"
    )
    kusto_uri: Service = Field("", description="https://<cluster>.<region>.kusto.windows.net")
    kusto_ingest_uri: Service = Field("", description="https://ingest-<cluster>...; empty: derived from kusto_uri")
    kusto_database: str = Field(
        "active_learning", pattern=r"^[A-Za-z0-9_.-]{1,260}$", description="holds the log and the ledgers"
    )
    kusto_ingestion: Literal["managed", "streaming", "queued"] = Field(
        "managed", description="managed: streaming, but queued for batches and where streaming does not work"
    )
    kusto_retention_days: int = Field(
        RETENTION_DAYS,
        ge=1,
        le=36_500,
        description="predictions, embeddings and rejected images older than this are forgotten, other ledgers never",
    )
    kusto_window_rows: int = Field(
        5_000_000,
        ge=1,
        description="rows of the log that one query takes together to find the newest of each image (about 250 bytes "
        "each of the 5 GiB that an operator may hold); a longer log is asked in windows",
    )
    blob_account_url: Service = Field("", description="https://<account>.blob.core.windows.net")
    container: str = Field(
        "active-learning",
        pattern=r"^[a-z0-9](-?[a-z0-9]){2,62}$",
        description="of images, staged batches, exports, datasets and models",
    )
    storage_credential: Literal["entra", "key", "sas"] = Field(
        "entra",
        description="entra: the identity above; key, sas: AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN",
    )
    events_queue_url: Queue = Field(
        "",
        description="https://<account>.queue.core.windows.net/<queue>, where new blobs are announced; "
        "empty: the container is listed",
    )
