"""The platform's container as jobs and deployments of the emulated workspace see it: as a folder.

As in Azure, what a job reads is fetched before it begins, and what it writes into a mounted output travels while
it runs.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from al_resources.azure.storage import container_client
from al_resources.settings.azure_data import AzureDataSettings

CONNECTIONS = 8
PUSH_SECONDS = 0.2


class ContainerMount:
    """A container in Azurite, and the folder that stands for it."""

    def __init__(self, settings: AzureDataSettings, folder: Path) -> None:
        self._client = container_client(settings)
        self.folder = folder
        self._fetched: dict[str, str] = {}  # blob -> its etag
        self._sent: dict[Path, tuple[int, int]] = {}  # file -> its size and time of change
        self._lock = threading.Lock()

    def fetch(self, prefix: str) -> None:
        """Bring every blob below `prefix` that is new or changed."""
        with self._lock, ThreadPoolExecutor(CONNECTIONS) as connections:
            found = [(blob.name, blob.etag) for blob in self._client.list_blobs(name_starts_with=prefix.rstrip("/"))]
            news = [(name, etag) for name, etag in found if self._fetched.get(name) != etag]
            list(connections.map(self._fetch, (name for name, _ in news)))
            self._fetched.update(news)

    def _fetch(self, name: str) -> None:
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(self._client.download_blob(name).readall())

    def send(self, place: Path) -> None:
        """Store every file below `place` that is new or changed."""
        with self._lock:
            for file in sorted(file for file in place.rglob("*") if file.is_file()):
                state = file.stat()
                seen = (state.st_size, state.st_mtime_ns)
                if self._sent.get(file) != seen:
                    name = file.relative_to(self.folder).as_posix()
                    self._client.upload_blob(name, file.read_bytes(), overwrite=True)
                    self._sent[file] = seen

    @contextlib.contextmanager
    def mounted(self, places: list[Path]) -> Iterator[None]:
        """While the block runs, what is written below `places` travels; at its end the last of it."""
        over = threading.Event()

        def keep_sending() -> None:
            while not over.wait(PUSH_SECONDS):
                for place in places:
                    self.send(place)

        thread = threading.Thread(target=keep_sending, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            for place in places:
                self.send(place)
