"""Azurite, Microsoft's emulator of Blob and Queue Storage, on loopback: in memory, or in a folder that it keeps."""

from __future__ import annotations

import atexit
import re
import subprocess
import threading
import uuid
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from al_resources.azure.storage import DEVELOPMENT_ACCOUNT
from emulators.node_packages import node, node_modules

START_SECONDS = 60
STOP_SECONDS = 10
LISTENING = re.compile(r"Azurite (\w+) service is successfully listening at (\S+)")


@dataclass
class Azurite:
    """A running emulator; `with Azurite.start() as azurite: azurite.blob_url`."""

    process: subprocess.Popen[str]
    blob_url: str  # of the development account, http://127.0.0.1:<port>/devstoreaccount1
    queue_url: str

    @classmethod
    def start(
        cls, certificate: Path | None = None, folder: Path | None = None, ports: tuple[int, int] = (0, 0)
    ) -> Azurite:
        """Up and answering, by https where there is a certificate (and its key, in one file): then it takes the
        tokens of Entra ID, too, and looks at their times, issuer and audience.

        With a `folder` everything is kept there when it is stopped, else it is gone. `ports`: of blobs and of queues,
        0 for any free one.

        Raises:
            NotInstalled: it cannot be installed.
        """
        script = node_modules() / "azurite" / "dist" / "src" / "azurite.js"
        arguments = ["--silent", "--disableTelemetry"]
        arguments += ["--inMemoryPersistence"] if folder is None else ["--location", str(folder)]
        for service, port in zip(("blob", "queue", "table"), (*ports, 0), strict=True):
            arguments += [f"--{service}Host", "127.0.0.1", f"--{service}Port", str(port)]
        if certificate is not None:
            arguments += ["--cert", str(certificate), "--key", str(certificate), "--oauth", "basic"]
        process = subprocess.Popen(
            [node(), str(script), *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        late = threading.Timer(START_SECONDS, process.kill)
        late.start()
        addresses: dict[str, str] = {}
        said = ""
        assert process.stdout is not None
        for line in process.stdout:
            said += line
            if match := LISTENING.search(line):
                addresses[match[1]] = f"{match[2]}/devstoreaccount1"
            if len(addresses) == 3:
                break
        late.cancel()
        if len(addresses) < 3:
            process.kill()
            raise RuntimeError(f"Azurite did not start: {said[-2000:]}")
        threading.Thread(target=process.stdout.read, daemon=True).start()  # a full pipe would stop it
        return cls(process, addresses["Blob"], addresses["Queue"])

    def stop(self) -> None:
        """End it, without haste: it may have a folder to write to."""
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def __enter__(self) -> Azurite:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def container(self) -> str:
        """A new, empty container; its name."""
        from azure.storage.blob import BlobServiceClient

        name = f"c{uuid.uuid4().hex}"
        with BlobServiceClient(self.blob_url, credential=DEVELOPMENT_ACCOUNT) as service:
            service.create_container(name)
        return name

    def queue(self) -> str:
        """A new, empty queue; its address."""
        from azure.storage.queue import QueueServiceClient

        name = f"q{uuid.uuid4().hex}"
        with QueueServiceClient(self.queue_url, credential=DEVELOPMENT_ACCOUNT) as service:
            service.create_queue(name)
        return f"{self.queue_url}/{name}"


@lru_cache(maxsize=1)
def shared_azurite() -> Azurite:
    """One for the whole test run; tests keep apart by containers and queues of their own."""
    azurite = Azurite.start()
    atexit.register(azurite.stop)
    return azurite
