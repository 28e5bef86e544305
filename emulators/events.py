"""What Event Grid would say: Azurite announces nothing by itself."""

from __future__ import annotations

import base64
import json
import uuid
from datetime import UTC, datetime
from typing import Any, Literal

from al_resources.azure.storage import queue_client
from al_resources.settings.azure_data import AzureDataSettings

Schema = Literal["event_grid", "cloud_events"]


def blob_event(
    container: str,
    path: str,
    *,
    schema: Schema = "event_grid",
    kind: str = "Microsoft.Storage.BlobCreated",
    api: str = "PutBlob",
    length: int = 1,
    etag: str = "0x8D4BCC2E4835CD0",
    at: datetime | None = None,
) -> str:
    """One event as JSON, of now if not said otherwise.

    Source: learn.microsoft.com/azure/event-grid/event-schema-blob-storage
    """
    topic = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Storage/storageAccounts/devstoreaccount1"
    subject = f"/blobServices/default/containers/{container}/blobs/{path}"
    moment = (at or datetime.now(UTC)).isoformat().replace("+00:00", "Z")
    data = {
        "api": api,
        "requestId": str(uuid.uuid4()),
        "eTag": etag,
        "contentType": "application/json",
        "contentLength": length,
        "blobType": "BlockBlob",
        "url": f"https://devstoreaccount1.blob.core.windows.net/{container}/{path}",
        "sequencer": "0000000000000000000000000000A8900000000000081d0d",
    }
    common: dict[str, Any] = {"id": str(uuid.uuid4()), "subject": subject, "data": data}
    if schema == "cloud_events":
        return json.dumps(common | {"specversion": "1.0", "source": topic, "type": kind, "time": moment})
    beside = {"topic": topic, "eventType": kind, "eventTime": moment, "dataVersion": "", "metadataVersion": "1"}
    return json.dumps(common | beside)


def encoded(text: str) -> str:
    """As Event Grid puts it into a storage queue."""
    return base64.b64encode(text.encode()).decode()


def send(queue_url: str, *messages: str) -> None:
    """Put messages into a queue of the emulator."""
    with queue_client(AzureDataSettings(), queue_url) as queue:
        for message in messages:
            queue.send_message(message)


def announce(queue_url: str, container: str, path: str) -> None:
    """That a blob was created."""
    send(queue_url, encoded(blob_event(container, path)))
