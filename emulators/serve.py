"""Storage, Data Explorer and an Azure ML workspace, emulated, for as long as somebody holds standard input open.

`python -m emulators.serve FOLDER CONTAINER QUEUE LOGS` prints one line of JSON: where they are, or why they cannot be
had. The workspace's datastore is that container, and what appears below the inbox of labels is announced in the queue.
Azure's addresses lead to the workspace for whoever sets `variables`. Everything is kept in FOLDER: started on it again,
they have the same addresses, the same data, and the deployments that stood answer again.
"""

from __future__ import annotations

import json
import socket
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from emulators.azurite import Azurite
from emulators.kusto import KustoEmulator
from emulators.node_packages import NotInstalled

HERE = "127.0.0.1"
SERVICES = ("blob", "queue", "kusto")


class Taken(Exception):
    """An address that was used before cannot be had again."""


def main(folder: str, container: str, queue: str, logs: str) -> int:
    try:
        with ExitStack() as running:
            print(json.dumps(start(running, Path(folder), container, queue, Path(logs))), flush=True)
            sys.stdin.read()  # ends with whoever started this, however that ends
    except (NotInstalled, Taken) as reason:
        print(json.dumps({"missing": str(reason)}))
        return 1
    except ModuleNotFoundError as error:
        print(json.dumps({"missing": f"{error.name} is not installed: pip install '.[azure,emulators,dev]'"}))
        return 1
    return 0


def start(running: ExitStack, folder: Path, container: str, queue: str, logs: Path) -> dict[str, Any]:
    """All of it, until `running` is closed; returns where it is."""
    from al_resources.labeling.inbox import INBOX
    from al_resources.settings.azure_data import AzureDataSettings
    from emulators.azure_ml import GROUP, SUBSCRIPTION, WORKSPACE, azure_ml
    from emulators.events import EventGrid
    from emulators.inference_server import installed

    installed()
    blob_port, queue_port, kusto_port = kept_ports(folder)
    storage = running.enter_context(Azurite.start(folder=folder / "azurite", ports=(blob_port, queue_port)))
    database = running.enter_context(KustoEmulator(storage=storage, folder=folder / "kusto", port=kusto_port))
    data = AzureDataSettings(
        blob_account_url=storage.blob_url, container=container, events_queue_url=f"{storage.queue_url}/{queue}"
    )
    running.enter_context(EventGrid(data, f"{INBOX}/"))
    workspace, variables = running.enter_context(azure_ml(folder, kept=True))
    workspace.mount_container(data)
    workspace.inference_servers = workspace.batch.processes = True
    workspace.log_folder = logs
    workspace.go_on()
    return {
        "kusto": database.url,
        "blob": storage.blob_url,
        "queue": storage.queue_url,
        "workspace": {"subscription": SUBSCRIPTION, "resource_group": GROUP, "workspace": WORKSPACE},
        "variables": variables,
    }


def kept_ports(folder: Path) -> list[int]:
    """The ports of `SERVICES`: free ones, and afterwards always the same, for settings and deployments name them.

    Raises:
        Taken: somebody else has one by now.
    """
    file = folder / "ports.json"
    if file.is_file():
        ports = json.loads(file.read_text())
        for service in SERVICES:
            try:
                socket.create_server((HERE, ports[service])).close()
            except OSError as error:
                raise Taken(
                    f"port {ports[service]}, which the settings of this home name for {service}, is taken; end what "
                    "listens there"
                ) from error
        return [ports[service] for service in SERVICES]
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        free = [held.enter_context(socket.create_server((HERE, 0))).getsockname()[1] for _ in SERVICES]
    file.write_text(json.dumps(dict(zip(SERVICES, free, strict=True))))
    return free


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
