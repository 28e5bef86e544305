"""Where the data of the Azure profile lies. Settings only: nothing of Azure is imported."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Credential = Literal["managed_identity", "default", "cli"]


class AzureDataSettings(BaseModel):
    """Data Explorer, Blob Storage and the queue of events. A loopback http address means no authentication."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    credential: Credential = Field(
        "managed_identity", description="managed_identity on Azure, cli (`az login`) or default elsewhere"
    )
    client_id: str = Field("", description="of a user-assigned managed identity; empty: the system's own")
    kusto_uri: str = Field("", description="https://<cluster>.<region>.kusto.windows.net")
    kusto_ingest_uri: str = Field("", description="https://ingest-<cluster>...; empty: derived from kusto_uri")
    kusto_database: str = Field(
        "active_learning", pattern=r"^[A-Za-z0-9_.-]{1,260}$", description="holds the log and the ledgers"
    )
    kusto_ingestion: Literal["managed", "streaming", "queued"] = Field(
        "managed", description="managed: streaming, but queued for batches and where streaming does not work"
    )
    blob_account_url: str = Field("", description="https://<account>.blob.core.windows.net")
    container: str = Field(
        "active-learning",
        pattern=r"^[a-z0-9](-?[a-z0-9]){2,62}$",
        description="of images, staged batches, exports, datasets and models",
    )
    storage_credential: Literal["entra", "key", "sas"] = Field(
        "entra",
        description="entra: the identity above; key, sas: AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN",
    )
    events_queue_url: str = Field(
        "",
        description="https://<account>.queue.core.windows.net/<queue>, where new blobs are announced; "
        "empty: the container is listed",
    )
