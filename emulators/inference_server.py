"""Azure ML's own inference server, which runs the scoring script in every managed online deployment.

It pins packages that the SDK needs newer, so it has an environment of its own, made when it is first needed. What
the script imports besides it finds in the project's environment, behind its own packages.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import httpx
from filelock import FileLock
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from al_resources.azure.workspace import INFERENCE_SERVER, SCORING_PACKAGES, SCORING_SCRIPT
from emulators.node_packages import INSTALL_SECONDS, run_installer

HERE = Path(__file__).parent
ENVIRONMENT = HERE / ".venv-inference"
START_SECONDS = 120


@contextlib.contextmanager
def inference_server(code: Path, model: Path, variables: dict[str, str], log: Path | None = None) -> Iterator[str]:
    """The scoring script of a code snapshot behind the server, gives its address. Raises `NotInstalled`.

    What it prints is in `log`, by default beside the code.
    """
    command = installed()
    port, health_port = _free_port(), _free_port()
    log = log or code.parent / "inference-server.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [
                command,
                *("--entry_script", str(code / SCORING_SCRIPT)),
                *("--port", str(port)),
                *("--health_port", str(health_port)),
            ],
            cwd=code,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(code.parent),
                "PYTHONPATH": str(code),
                "OMP_NUM_THREADS": "1",
                "AZUREML_MODEL_DIR": str(model),
                **variables,
            },
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _answers(address):
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        process.wait(60)


@lru_cache(maxsize=1)
def installed() -> Path:
    """The server's command. Raises `NotInstalled`."""
    ready = ENVIRONMENT / ".ready"  # written last: an installation that was killed is done again
    azure = [f"{name}=={importlib.metadata.version(name)}" for name in SCORING_PACKAGES if name.startswith("azure")]
    wanted = "\n".join([INFERENCE_SERVER, *azure])
    with FileLock(HERE / ".node_modules.lock", timeout=INSTALL_SECONDS):
        if not ready.is_file() or ready.read_text() != wanted:
            what = f"{INFERENCE_SERVER}, in {ENVIRONMENT},"
            run_installer(what, sys.executable, "-m", "venv", "--clear", ENVIRONMENT)
            run_installer(what, _executable("python"), "-m", "pip", "install", "--quiet", *wanted.splitlines())
            (packages,) = ENVIRONMENT.glob("lib/python*/site-packages")
            (packages / "project.pth").write_text(f"{_linked_packages()}\n")
            ready.write_text(wanted)
    return _executable("azmlinfsrv")


def _linked_packages() -> Path:
    """A folder with links to what the script imports and what that needs: torch and its like are not copied.

    Without Azure's packages: they share what they need with the server, so pip has installed them beside it.
    """
    folder = ENVIRONMENT / "project"
    folder.mkdir()
    waiting, seen = [name for name in SCORING_PACKAGES if not name.startswith("azure")], set()
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in seen:
            continue
        seen.add(name)
        found = importlib.metadata.distribution(name)
        for top in {file.parts[0] for file in found.files or []} - {"..", "__pycache__"}:
            if not (folder / top).is_symlink():  # several packages share a namespace
                (folder / top).symlink_to(Path(str(found.locate_file(top))))
        needed = [Requirement(text) for text in found.requires or []]
        waiting += [one.name for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})]
    return folder


def _executable(name: str) -> Path:
    return ENVIRONMENT / "bin" / name


def _answers(address: str) -> bool:
    try:
        return httpx.get(address, timeout=5, trust_env=False).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]
