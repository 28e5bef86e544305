"""The blob store in a container of Azure Blob Storage.

On Azure's own client and not on fsspec's: adlfs takes an error for "not there", cuts names at `?versionid=`, collects
a listing before its first entry, and follows a connection string of the environment wherever that leads.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import contextmanager, suppress
from datetime import UTC
from typing import TYPE_CHECKING
from urllib.parse import quote

from al_core.errors import Unavailable
from al_resources.azure.storage import container_client, sas_token
from al_resources.blobs import BlobInfo, checked_path, is_fit, warn_of_unfit

if TYPE_CHECKING:
    from azure.storage.blob import BlobClient, BlobProperties

    from al_resources.settings.azure_data import AzureDataSettings

COPY_SECONDS = 600
COPY_LOOK_SECONDS = 0.5
FOLDER_MARKS = ("hdi_isfolder", "is_directory")  # metadata of folders: hierarchical namespaces, adlfs


class AzureBlobStore:
    """`BlobStore` on a container, which has to exist: `al azure init` creates it.

    Throttling, overload and lost connections are waited out for about a minute; everything else Azure refuses
    comes as its `HttpResponseError`.
    """

    def __init__(self, settings: AzureDataSettings) -> None:
        """Raises `SettingsError` where the key or SAS asked for is not in the environment."""
        self._settings = settings
        self._address = f"{settings.blob_account_url}/{settings.container}"
        self._container = container_client(settings)

    def read(self, path: str) -> bytes:
        """The blob's bytes. Raises `FileNotFoundError`."""
        with self._missing(path):
            return self._blob(path).download_blob().readall()

    def write(self, path: str, data: bytes, *, if_absent: bool = False) -> bool:
        """Write in one request; False: the blob was there already (`if_absent`), and stays as it was."""
        from azure.core.exceptions import ResourceExistsError

        # A create whose answer got lost is sent again and finds its own blob: by this it knows it.
        mark = uuid.uuid4().hex
        try:
            with self._missing(path):
                self._blob(path).upload_blob(data, overwrite=not if_absent, metadata={"writer": mark})
        except ResourceExistsError:
            found = self._properties(path)
            return found is not None and found.metadata.get("writer") == mark
        return True

    def exists(self, path: str) -> bool:
        """Whether the blob is there; an error is an error, not a no."""
        return self._properties(path) is not None

    def info(self, path: str) -> BlobInfo:
        """Raises `FileNotFoundError`."""
        found = self._properties(path)
        if found is None:
            raise FileNotFoundError(f"there is no blob {path!r}")
        return _info(path, found)

    def list(
        self, prefix: str, *, but: Set[str] = frozenset(), unfit: Callable[[str, str], None] = warn_of_unfit
    ) -> Iterator[BlobInfo]:
        """All blobs below a folder, page by page, in the order of their paths; a page tells all of each."""
        del but
        below = f"{checked_path(prefix)}/" if prefix else None
        with self._missing(prefix):
            for blob in self._container.list_blobs(name_starts_with=below, include=["metadata"]):
                if not _is_folder(blob) and is_fit(blob.name, unfit):
                    yield _info(blob.name, blob)

    def folders(self, prefix: str) -> Sequence[str]:
        """The names of the folders right below a folder, in order."""
        from azure.storage.blob import BlobPrefix

        below = f"{checked_path(prefix)}/" if prefix else ""
        with self._missing(prefix):
            found = self._container.walk_blobs(name_starts_with=below or None, delimiter="/")
            names = (one.name for one in found if isinstance(one, BlobPrefix))
            return sorted(name.removeprefix(below).rstrip("/") for name in names)

    def delete(self, path: str) -> None:
        """Remove a blob; one that is missing is no error."""
        with suppress(FileNotFoundError), self._missing(path):
            self._blob(path).delete_blob()

    def copy(self, source: str, target: str) -> None:
        """Copy within the container. Raises `FileNotFoundError`, and `OSError` where the service gives it up."""
        copied = self._blob(target)
        origin = self.url(source) + sas_token(self._settings, self._address)
        with self._missing(source):
            status = copied.start_copy_from_url(origin)["copy_status"]
        deadline = time.monotonic() + COPY_SECONDS
        while status == "pending" and time.monotonic() < deadline:
            time.sleep(COPY_LOOK_SECONDS)
            status = str(copied.get_blob_properties().copy.status)
        if status != "success":
            raise Unavailable(f"copying {source!r} to {target!r} did not come to its end: {status}")

    def url(self, path: str) -> str:
        """The address to show to people and to store as `image_uri`."""
        return f"{self._address}/{quote(checked_path(path))}"

    def _blob(self, path: str) -> BlobClient:
        return self._container.get_blob_client(checked_path(path))

    def _properties(self, path: str) -> BlobProperties | None:
        """Of a blob that is there and no folder; else None."""
        try:
            with self._missing(path):
                found = self._blob(path).get_blob_properties()
        except FileNotFoundError:
            return None
        return None if _is_folder(found) else found

    @contextmanager
    def _missing(self, path: str) -> Iterator[None]:
        """A missing blob is a `FileNotFoundError`; a missing container is a set-up that was forgotten."""
        from azure.core.exceptions import ResourceNotFoundError

        try:
            yield
        except ResourceNotFoundError as error:
            if getattr(error, "error_code", None) == "ContainerNotFound":
                raise Unavailable(f"there is no container {self._address}; `al azure init` creates it") from error
            raise FileNotFoundError(f"there is no blob {path!r}") from error


def _info(path: str, found: BlobProperties) -> BlobInfo:
    return BlobInfo(path, str(found.etag).strip('"'), found.size, found.last_modified.astimezone(UTC))


def _is_folder(found: BlobProperties) -> bool:
    """Folders of a hierarchical namespace are blobs as well, and say so in their metadata."""
    metadata = found.metadata or {}
    return any(name.lower() in FOLDER_MARKS and value.lower() == "true" for name, value in metadata.items())
