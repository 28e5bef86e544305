"""Data labeling projects of the emulated workspace: people answer, press Export, and exports are asked for by REST.

Written after the REST API's published definitions (azure-rest-api-specs, specification/machinelearningservices,
2023-04-01-preview, LabelingJobs) and the documented formats of exports. Where Azure puts an export below
`Labeling/export` is not documented; a folder of the emulator's own stands for it.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse, Response

if TYPE_CHECKING:
    from emulators.azure_ml import AzureML

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff")


@dataclass
class Project:
    """A labeling project on a folder of the default datastore."""

    folder: str
    classes: tuple[str, ...]
    annotation: str = "Classification"
    multi_select: bool = False
    refresh: bool = True
    labels: dict[str, str] = field(default_factory=dict)  # path of the image -> label
    skipped: set[str] = field(default_factory=set)
    fails: str = ""  # why exports fail


class Labeling:
    """The projects of a workspace, by name."""

    def __init__(self, workspace: AzureML) -> None:
        self._workspace = workspace
        self.projects: dict[str, Project] = {}

    def create(self, name: str, **options: Any) -> Project:
        self.projects[name] = Project(**{"folder": "labeling/input", "classes": (), **options})
        return self.projects[name]

    def images_of(self, project: Project) -> list[str]:
        root = self._workspace.container
        files = sorted((root / project.folder).rglob("*"))
        return [file.relative_to(root).as_posix() for file in files if file.suffix in IMAGES]

    def answer(self, method: str, parts: list[str], content: Any) -> Response:
        project = self.projects.get(parts[1])
        if project is None:
            return _error(404, "ResourceNotFound", f"labelingJobs/{parts[1]} was not found")
        if method == "GET" and len(parts) == 2:
            return JSONResponse({"name": parts[1], "properties": self._shown(project)})
        if method == "POST" and parts[2:] == ["exportLabels"]:
            return self._export(parts[1], project, content["format"])
        return _error(404, "ResourceNotFound", f"{method} {'/'.join(parts)} is not emulated")

    def press_export(self, name: str) -> str:
        """A person exports COCO in the studio; returns the path."""
        return self._write_coco(self.projects[name])

    def _shown(self, project: Project) -> dict[str, Any]:
        return {
            "jobType": "Labeling",
            "dataConfiguration": {"incrementalDataRefresh": "Enabled" if project.refresh else "Disabled"},
            "labelingJobMediaProperties": {"mediaType": "Image", "annotationType": project.annotation},
            "labelCategories": {
                "question": {
                    "classes": {name: {"displayName": name} for name in project.classes},
                    "multiSelect": "Enabled" if project.multi_select else "Disabled",
                }
            },
            "progressMetrics": {
                "totalDatapointCount": len(self.images_of(project)),
                "completedDatapointCount": len(project.labels),
                "skippedDatapointCount": len(project.skipped),
                "incrementalDataLastRefreshDateTime": "2026-01-01T10:00:00Z",
            },
        }

    def _export(self, name: str, project: Project, form: str) -> Response:
        summary: dict[str, Any] = {}

        def finish() -> None:
            if project.fails:
                return
            summary.update(format=form, labelingJobId=name, exportedRowCount=len(project.labels))
            if form == "Coco":
                summary.update(containerName=self._workspace.CONTAINER, snapshotPath=self._write_coco(project))
            else:
                summary["labeledAssetName"] = self._register_dataset(name, project)

        return self._workspace._begin(None, 202, finish, project.fails or None, summary)

    def _write_coco(self, project: Project) -> str:
        names = sorted(set(project.labels.values()))
        content = {
            "images": [
                {
                    "id": number,
                    "width": 0.0,
                    "height": 8000.0,
                    "file_name": path.removeprefix("labeling/"),
                    "coco_url": f"AmlDatastore://workspaceblobstore/{path}",
                    "absolute_url": f"https://alstore.blob.core.windows.net/platform/{path}",
                    "date_captured": "2026-01-01T00:00:00.0000000Z",
                }
                for number, path in enumerate(project.labels, start=1)
            ],
            "annotations": [
                {"id": number, "category_id": 1 + names.index(label), "image_id": number, "area": 0.0}
                for number, label in enumerate(project.labels.values(), start=1)
            ],
            "categories": [{"id": number, "name": name} for number, name in enumerate(names, start=1)],
        }
        path = f"Labeling/export/coco/{uuid.uuid4()}/labels.json"
        self._write(path, json.dumps(content))
        return path

    def _register_dataset(self, name: str, project: Project) -> str:
        """A data asset: a folder with an MLTable that names the lines."""
        folder = f"Labeling/datasets/{uuid.uuid4()}"
        store = f"azureml://subscriptions/s/resourcegroups/g/workspaces/w/datastores/workspaceblobstore/paths/{folder}"
        lines = [
            {
                "image_url": f"AmlDatastore://workspaceblobstore/{path}",
                "label": label,
                "label_confidence": 1.0,
            }
            for path, label in project.labels.items()
        ]
        self._write(f"{folder}/lines/labeled.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
        self._write(f"{folder}/MLTable", "paths:\n  - file: ./lines/labeled.jsonl\ntransformations: []\n")
        asset = f"{name}_labels"
        self._workspace.register("data", asset, {"dataType": "mltable", "dataUri": store})
        return asset

    def _write(self, path: str, text: str) -> None:
        file: Path = self._workspace.container / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def _error(status: int, code: str, message: str) -> Response:
    return JSONResponse({"error": {"code": code, "message": message}}, status)
