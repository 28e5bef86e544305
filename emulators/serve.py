"""Storage, Data Explorer and an Azure ML workspace, emulated, for as long as somebody holds standard input open.

`python -m emulators.serve CONTAINER` prints one line of JSON: where they are, or why they cannot be had. The
workspace's datastore is that container. Azure's addresses lead to the workspace for whoever sets `variables`.
"""

from __future__ import annotations

import json
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from emulators.azurite import Azurite
from emulators.kusto import KustoEmulator
from emulators.node_packages import NotInstalled


def main(container: str) -> int:
    try:
        with ExitStack() as running:
            print(json.dumps(start(running, container)), flush=True)
            sys.stdin.read()  # ends with whoever started this, however that ends
    except NotInstalled as reason:
        print(json.dumps({"missing": str(reason)}))
        return 1
    except ModuleNotFoundError as error:
        print(json.dumps({"missing": f"{error.name} is not installed: pip install '.[azure,dev]'"}))
        return 1
    return 0


def start(running: ExitStack, container: str) -> dict[str, Any]:
    """All of it, until `running` is closed; returns where it is."""
    from al_resources.settings.azure_data import AzureDataSettings
    from emulators.azure_ml import GROUP, SUBSCRIPTION, WORKSPACE, azure_ml
    from emulators.inference_server import installed

    installed()
    storage = running.enter_context(Azurite.start())
    database = running.enter_context(KustoEmulator(storage=storage))
    scratch = Path(running.enter_context(tempfile.TemporaryDirectory(prefix="azure-ml-")))
    workspace, variables = running.enter_context(azure_ml(scratch))
    workspace.reset(scratch / "container")
    workspace.mount_container(AzureDataSettings(blob_account_url=storage.blob_url, container=container))
    workspace.inference_servers = True
    return {
        "kusto": database.url,
        "blob": storage.blob_url,
        "queue": storage.queue_url,
        "workspace": {"subscription": SUBSCRIPTION, "resource_group": GROUP, "workspace": WORKSPACE},
        "variables": variables,
    }


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
