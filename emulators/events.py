"""What Event Grid would say: Azurite announces nothing by itself."""

from __future__ import annotations

import base64
import json
import threading
import uuid
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from al_resources.azure.storage import container_client, queue_client
from al_resources.settings.azure_data import AzureDataSettings

if TYPE_CHECKING:
    from azure.storage.blob import ContainerClient

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


class EventGrid:
    """A system topic of the storage account, with one subscription: announces what appears below a prefix.

    As Event Grid it delivers at least once: what lay there when it began is announced again.
    """

    LOOK_SECONDS = 0.3

    def __init__(self, settings: AzureDataSettings, prefix: str) -> None:
        self._settings = settings
        self._prefix = prefix
        self._announced: dict[str, str] = {}  # path -> etag
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> EventGrid:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _work(self) -> None:
        from azure.core.exceptions import ResourceNotFoundError

        with container_client(self._settings) as container:
            while not self._ended.wait(self.LOOK_SECONDS):
                with suppress(ResourceNotFoundError):  # container or queue are not made yet
                    self._look(container)

    def _look(self, container: ContainerClient) -> None:
        for blob in list(container.list_blobs(name_starts_with=self._prefix)):
            if self._announced.get(blob.name) != blob.etag:
                event = blob_event(self._settings.container, blob.name, length=blob.size, etag=blob.etag.strip('"'))
                send(self._settings.events_queue_url, encoded(event))
                self._announced[blob.name] = blob.etag
