"""What an emulated workspace keeps in its folder, so that it can be started again.

Files of uploads and of jobs lie there anyway; this is the rest: resources, keys, what became of jobs, their logs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from emulators.azure_ml import AzureML

FILE = "workspace.json"
UNDER_WAY = ("Creating", "Updating", "Deleting")


def keep(workspace: AzureML, folder: Path) -> None:
    """Write it down as it stands."""
    told = {
        "resources": dict(workspace.resources),  # copies: jobs write while this is written down
        "blob_metadata": dict(workspace.blob_metadata),
        "key": workspace.key,
        "batches": dict(workspace.batch.jobs),
        "logs": dict(workspace._logs),
    }
    new = folder / f"{FILE}.new"
    new.write_text(json.dumps(told))
    new.replace(folder / FILE)


def find_again(workspace: AzureML, folder: Path) -> None:
    """Read what was written down, if anything was. What was under way then has failed, as if a machine had gone."""
    from emulators.azure_ml_jobs import OVER

    if not (folder / FILE).is_file():
        return
    told = json.loads((folder / FILE).read_text())
    for path, resource in told["resources"].items():
        properties = resource["properties"]
        if properties.get("provisioningState") in UNDER_WAY:
            properties["provisioningState"] = "Failed"
        if "/jobs/" in path and properties["status"] not in OVER:
            properties["status"] = "Failed"
    workspace.resources = told["resources"]
    workspace.blob_metadata = told["blob_metadata"]
    workspace.key = told["key"]
    workspace.batch.jobs = {name: status if status in OVER else "Failed" for name, status in told["batches"].items()}
    workspace._logs = told["logs"]


def deployments(workspace: AzureML) -> list[tuple[str, str, dict[str, Any]]]:
    """(endpoint, deployment, its properties) of every online deployment that stands."""
    found = []
    for path, resource in workspace.resources.items():
        parts = path.rsplit("/", 4)
        stands = resource["properties"]["provisioningState"] == "Succeeded" if "deployments" in parts else False
        if parts[1:2] == ["onlineendpoints"] and stands:
            endpoint, name = resource["id"].rsplit("/", 3)[1::2]
            found.append((endpoint, name, resource["properties"]))
    return found
