"""A data labeling project of Azure ML: people label there what is staged here, and exports come into the inbox.

The project's data asset is the folder `labeling/input` of the platform's container, with incremental refresh on:
Azure looks there for new images by itself. What people export in the studio lands below `Labeling/export` of the
workspace's default datastore and is copied into the inbox, each content once. With `azure_ml.request_exports`
exports are asked for as well, whenever there are new labels: a preview of Azure, for which it has no SDK.

A state that must survive the process, which export was asked for and when, is a blob beside the staged rounds.
Source: Azure's REST API specification, machinelearningservices 2023-04-01-preview, LabelingJobs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from al_core.records import utc_now
from al_resources.azure.workspace import Arm, WorkspaceError, path_in_datastore
from al_resources.blobs import BlobInfo
from al_resources.labeling import LabelingError, LabelingStatus
from al_resources.labeling.merge import INBOX
from al_resources.settings.azure_ml import AzureMLSettings

if TYPE_CHECKING:
    from al_resources.blobs import BlobStore

API = {"api-version": "2023-04-01-preview"}
STUDIO_EXPORTS = "Labeling/export"  # COCO files of the studio's Export button; the rest of the path is Azure's
OURS = f"{INBOX}/azure_ml"
ASKED = "labeling/azure_ml_export.json"
RELABELED = timedelta(days=1)  # an answer that was changed changes no count: look now and then all the same
ONE_LABEL_PER_IMAGE = ("Image", "Classification")


class _Asked(BaseModel):
    """The latest export that was asked for."""

    location: str = ""  # where its result will be; empty: it is here
    completed: int = 0  # labels there were when it was asked for
    asked_at: datetime | None = None


class AzureMLLabeling:
    """`LabelingProject` in a workspace; `container` is the one behind the platform's blob store."""

    def __init__(self, blobs: BlobStore, arm: Arm, settings: AzureMLSettings, *, container: str) -> None:
        self._blobs = blobs
        self._arm = arm
        self._settings = settings
        self._container = container
        self._name = settings.labeling_job
        self._project = f"labelingJobs/{self._name}"

    def announce(self, round_: int) -> None:
        """Nothing to tell: Azure finds the images. A project that would not, or asks for other labels, is refused."""
        properties = self._properties()
        media = properties.get("labelingJobMediaProperties") or {}
        kind = media.get("mediaType"), media.get("annotationType")
        several = any(
            category.get("multiSelect") == "Enabled" for category in (properties.get("labelCategories") or {}).values()
        )
        if kind != ONE_LABEL_PER_IMAGE or several:
            found = "several labels per image" if several else f"{kind[0]} {kind[1]}"
            raise LabelingError(
                f"labeling project {self._name!r} asks for {found}, and a classifier is trained on one label per "
                "image; create a project of the type 'Image Classification Multi-class'"
            )
        if (properties.get("dataConfiguration") or {}).get("incrementalDataRefresh") != "Enabled":
            raise LabelingError(
                f"labeling project {self._name!r} does not look for new images, so round {round_} would never be "
                "seen there; enable 'incremental refresh' in the project's details"
            )

    def status(self, round_: int) -> LabelingStatus:
        """Progress of the whole project: Azure counts no rounds."""
        counts = self._progress()
        return LabelingStatus(
            total=counts.get("totalDatapointCount") or 0,
            labeled=counts.get("completedDatapointCount") or 0,
            skipped=counts.get("skippedDatapointCount") or 0,
            project=self._name,
            refreshed_at=counts.get("incrementalDataLastRefreshDateTime"),
        )

    def collect(self) -> list[str]:
        """Copy new exports into the inbox; where that is wanted, ask for the next one or look for the one asked for."""
        arrived = self._fetch(blob for blob in self._blobs.list(STUDIO_EXPORTS) if _is_readable(blob.path))
        if self._settings.request_exports:
            arrived += self._requested(utc_now())
        return arrived

    # ------------------------------------------------------------------ exports asked for

    def _requested(self, now: datetime) -> list[str]:
        asked = self._read_asked()
        if asked.location:
            return self._look_for(asked)
        waited = None if asked.asked_at is None else now - asked.asked_at
        often = timedelta(minutes=self._settings.export_minutes)
        if waited is not None and timedelta() <= waited < often:
            return []
        completed = self._progress().get("completedDatapointCount") or 0
        if not completed or (completed == asked.completed and waited is not None and waited < RELABELED):
            return []
        location = self._call(
            self._arm.begin,
            "POST",
            f"{self._project}/exportLabels",
            what=f"asking for an export of labeling project {self._name!r}",
            params=API,
            body={"format": self._settings.export_format},
        )
        self._write_asked(_Asked(location=location, completed=completed, asked_at=now))
        return []

    def _look_for(self, asked: _Asked) -> list[str]:
        what = f"the export of labeling project {self._name!r}"
        try:
            summary = self._call(self._arm.outcome, asked.location, what=what)
        except LabelingError:  # it failed: ask for another one, when it is time again
            self._write_asked(_Asked(completed=-1, asked_at=asked.asked_at))
            raise
        if summary is None:
            return []
        arrived = self._fetch(self._exported(summary))
        self._write_asked(asked.model_copy(update={"location": ""}))
        return arrived

    def _exported(self, summary: dict[str, Any]) -> Iterator[BlobInfo]:
        """The files that an export's summary leads to."""
        if asset := summary.get("labeledAssetName"):
            return self._files_of_asset(asset)
        container, path = summary.get("containerName"), str(summary.get("snapshotPath") or "").strip("/")
        if container != self._container or not path:
            raise LabelingError(
                f"labeling project {self._name!r} exported to {path!r} of container {container!r}, and this platform "
                f"reads {self._container!r}; make that container azure.container, or release exports by hand"
            )
        return self._files_at(path)

    def _files_of_asset(self, asset: str) -> Iterator[BlobInfo]:
        """The JSONL files of the newest version of a data asset: a folder, or what its MLTable names."""
        found = self._call(
            self._arm.call,
            "GET",
            f"data/{asset.split(':', maxsplit=1)[0]}/versions",
            what=f"looking for the exported data asset {asset!r}",
            params={**API, "$orderBy": "createdtime desc", "$top": "1"},
        )["value"]
        if not found:
            raise LabelingError(f"the exported data asset {asset!r} has no version")
        folder = self._path(found[0]["properties"]["dataUri"])
        table = f"{folder}/MLTable"
        return self._files_of_table(folder, table) if self._blobs.exists(table) else self._files_at(folder)

    def _files_of_table(self, folder: str, table: str) -> Iterator[BlobInfo]:
        import yaml

        try:
            named = [
                str(place) for entry in yaml.safe_load(self._blobs.read(table))["paths"] for place in entry.values()
            ]
        except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
            raise LabelingError(f"{self._blobs.url(table)} is no MLTable with paths: {error}") from error
        for place in named:
            inside = self._path(place) if "://" in place else f"{folder}/{place.removeprefix('./')}"
            yield from self._files_at(inside)

    def _path(self, uri: str) -> str:
        try:
            datastore, path = path_in_datastore(uri)
        except ValueError as error:
            raise LabelingError(f"the export of labeling project {self._name!r}: {error}") from error
        if datastore != self._settings.datastore:
            raise LabelingError(
                f"labeling project {self._name!r} exported to datastore {datastore!r}, and this platform reads "
                f"azure_ml.datastore = {self._settings.datastore!r}"
            )
        return path

    def _files_at(self, path: str) -> Iterator[BlobInfo]:
        """The export at `path`: the file itself, or the files of that folder."""
        found = [self._blobs.info(path)] if self._blobs.exists(path) else list(self._blobs.list(path))
        exports = [blob for blob in found if _is_readable(blob.path)]
        if not exports:
            raise LabelingError(f"{self._blobs.url(path)} holds no export: looked for .json and .jsonl")
        return iter(exports)

    # ------------------------------------------------------------------ into the inbox

    def _fetch(self, exports: Iterator[BlobInfo]) -> list[str]:
        """Copy what is not in the inbox yet. The name there tells the content: replaced files come again."""
        there = {blob.path for blob in self._blobs.list(OURS)}
        arrived = []
        for export in exports:
            digest = hashlib.blake2b(f"{export.path}@{export.etag}".encode(), digest_size=6).hexdigest()
            target = f"{OURS}/{digest}-{PurePosixPath(export.path).name}"
            if target not in there:
                self._blobs.copy(export.path, target)
                arrived.append(target)
        return arrived

    def _read_asked(self) -> _Asked:
        try:
            return _Asked.model_validate_json(self._blobs.read(ASKED))
        except (FileNotFoundError, ValidationError):
            return _Asked()  # at worst one export too many is asked for, and brings nothing new

    def _write_asked(self, asked: _Asked) -> None:
        self._blobs.write(ASKED, asked.model_dump_json().encode())

    # ------------------------------------------------------------------ the project

    def _properties(self) -> dict[str, Any]:
        found = self._call(
            self._arm.call,
            "GET",
            self._project,
            what=f"looking at labeling project {self._name!r} (azure_ml.labeling_job)",
            params=API,
        )
        return found.get("properties") or {}

    def _progress(self) -> dict[str, Any]:
        return self._properties().get("progressMetrics") or {}

    def _call(self, request: Any, *arguments: Any, **options: Any) -> Any:
        try:
            return request(*arguments, **options)
        except WorkspaceError as error:
            raise LabelingError(str(error)) from error


def _is_readable(path: str) -> bool:
    """COCO and JSONL are; a CSV is not: its columns are not documented."""
    return path.endswith((".json", ".jsonl"))
