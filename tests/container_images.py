"""What the Dockerfiles below deploy/docker make, without Docker: the steps of their builds, done in a folder."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path

CHECKOUT = Path(__file__).parents[1]
DOCKER = CHECKOUT / "deploy/docker"
INSTALL_SECONDS = 1_800


def lines(file: Path) -> list[str]:
    """Those that say something: neither empty nor a comment."""
    return [line for line in file.read_text().splitlines() if line and not line.startswith("#")]


def set_by(image: str) -> dict[str, str]:
    """The environment that an image sets."""
    told = [line.removeprefix("ENV ") for line in lines(DOCKER / image / "Dockerfile") if line.startswith("ENV ")]
    return dict(word.split("=", 1) for one in told for word in shlex.split(one))


def built(image: str, folder: Path) -> Path:
    """What `/IMAGE` holds in the image: the first stage's COPY and RUN, below an empty `folder`."""
    context, target = folder / "platform", folder / image
    _copy_context(image, context)
    (folder / "bin").mkdir()
    (folder / "bin" / "python").symlink_to(sys.executable)
    stage = (DOCKER / image / "Dockerfile").read_text().rpartition("\nFROM ")[0]
    environment = {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "HOME": str(folder)}
    environment |= {
        name: value for name, value in os.environ.items() if name.upper().startswith(("PIP_", "HTTP", "SSL"))
    }
    arguments = dict(re.findall(r'^ARG (\w+)="([^"]*)"', stage, re.MULTILINE))
    for step in re.findall(r"^RUN (.+)$", stage, re.MULTILINE):
        command = re.sub(rf"(?<![\w/])/{image}\b", str(target), step)
        if not arguments.get("TORCH_INDEX"):  # an index that is named, even as nothing, stands over a machine's own
            command = command.replace('PIP_EXTRA_INDEX_URL="$TORCH_INDEX" ', "")
        subprocess.run(
            ["bash", "-ec", command], cwd=context, env=environment | arguments, check=True, timeout=INSTALL_SECONDS
        )
    return target


def _copy_context(image: str, context: Path) -> None:
    ignored = lines(DOCKER / image / "Dockerfile.dockerignore")
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=CHECKOUT, capture_output=True, text=True, check=True
    )
    for name in listed.stdout.splitlines():
        kept = not any(fnmatch(name, one) or name.startswith(f"{one}/") for one in ignored)
        if kept and (CHECKOUT / name).is_file():
            (context / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(CHECKOUT / name, context / name)


@contextlib.contextmanager
def running(
    image: str, installed: Path, home: Path, command: list[str], told: dict[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """A command of the image with what the image sets and what its host says (`told`), and nothing of this checkout."""
    home.mkdir()
    environment = set_by(image) | {"PATH": f"{installed / 'bin'}:/usr/bin:/bin", "HOME": str(home)} | told
    with (home / "log").open("wb") as log:
        program = [str(installed / "bin" / command[0]), *command[1:]]
        process = subprocess.Popen(program, cwd=home, env=environment, stdout=log, stderr=log)
        try:
            yield process
        finally:
            process.kill()
            process.wait(10)


def wait_until(process: subprocess.Popen[bytes], home: Path, up: Callable[[], bool], seconds: float = 120) -> None:
    """Until it is `up`; the process's log is told where it ends before, or takes longer."""
    deadline = time.monotonic() + seconds
    while not up():
        assert process.poll() is None, (home / "log").read_text()
        assert time.monotonic() < deadline, (home / "log").read_text()
        time.sleep(0.1)
