"""A Label Studio of one's own on this machine: installed apart from the platform, on loopback, telling nobody anything.

It caps numpy, pyarrow and others, so it lives in an environment of its own and is spoken to by HTTP only.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from al_core.errors import ActiveLearningError

if TYPE_CHECKING:
    from al_cli.processes import Child

VERSION = "1.23.2"  # the one that the adapter is tested with
PATIENCE = 300.0  # seconds: the first start creates the database
USER = "al@localhost.localdomain"
PRIVATE = {  # nothing is reported, nobody can sign up, and no file of this machine is served
    "COLLECT_ANALYTICS": "false",
    "LABEL_STUDIO_DISABLE_SIGNUP_WITHOUT_LINK": "true",
    "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
    "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED": "false",
    "LATEST_VERSION_CHECK": "false",
    "FRONTEND_SENTRY_DSN": "",
    "SENTRY_DSN": "",
    "SENTRY_RATE": "0",
    "FRONTEND_SENTRY_RATE": "0",
}


class NoLabelStudio(ActiveLearningError):
    """Label Studio cannot be installed or started here; the message says why."""


@dataclass(frozen=True)
class LabelStudioServer:
    """Where it lives. `environment`: a virtual environment; `data`: its database and pictures, and its secrets."""

    environment: Path
    data: Path
    port: int

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def token_file(self) -> Path:
        """What `LABEL_STUDIO_API_KEY` has to say; only its owner reads it."""
        return self.data / "token"

    @property
    def password_file(self) -> Path:
        """The password of `USER`; only its owner reads it."""
        return self.data / "password"

    def install(self, say: Callable[[str], None]) -> None:
        """Make the environment, if it is not there in this version. Raises `NoLabelStudio`."""
        done = self.environment / f".label-studio-{VERSION}"
        if done.exists():
            return
        say(f"installing Label Studio {VERSION} into {self.environment}: 800 MB, some minutes, once ...")
        python = self.environment / "bin" / "python"
        try:
            if not python.exists():
                subprocess.run([sys.executable, "-m", "venv", str(self.environment)], check=True, capture_output=True)
            wanted = [str(python), "-m", "pip", "install", "--quiet", f"label-studio=={VERSION}"]
            subprocess.run(wanted, check=True, capture_output=True, text=True)
        except (subprocess.CalledProcessError, OSError) as error:
            said = str(getattr(error, "stderr", "") or error)[-1000:]
            raise NoLabelStudio(
                f"Label Studio {VERSION} cannot be installed into {self.environment}: {said}"
            ) from error
        done.touch()

    def child(self, log: Path) -> Child:
        """The process, yet to be started. It ends with the one that starts it."""
        from al_cli.processes import Child

        self.data.mkdir(parents=True, exist_ok=True)
        self.data.chmod(0o700)
        told = {
            "LABEL_STUDIO_USERNAME": USER,
            "LABEL_STUDIO_PASSWORD": _kept_secret(self.password_file),
            "LABEL_STUDIO_USER_TOKEN": _kept_secret(self.token_file),
        }
        options = ["--no-browser", "--internal-host", "127.0.0.1", "--port", str(self.port)]
        start = [str(self.environment / "bin" / "label-studio"), "start", *options, "--data-dir", str(self.data)]
        return Child("Label Studio", ["al_cli.label_studio_server", *start], log, PRIVATE | told)

    def wait_until_ready(self, check: Callable[[], object]) -> None:
        """Until it answers; `check` is called meanwhile and may raise. Raises `NoLabelStudio`."""
        import httpx

        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            check()
            with suppress(httpx.HTTPError):
                if httpx.get(f"{self.url}/health", timeout=10).status_code == httpx.codes.OK:
                    return
            time.sleep(0.3)
        raise NoLabelStudio(f"Label Studio did not answer at {self.url} within {PATIENCE:.0f} s; see its log")


def _kept_secret(file: Path) -> str:
    """What the file says, made up at the first time: 40 characters, as Label Studio's own tokens have."""
    with suppress(FileExistsError), os.fdopen(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as new:
        new.write(secrets.token_hex(20))
    return file.read_text()


def main() -> None:
    """Run the command that is named until it ends, or this process is told to: then it is told, too."""
    server = subprocess.Popen(sys.argv[1:])
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        code = server.wait()
    finally:
        server.terminate()
    raise SystemExit(code)


if __name__ == "__main__":
    main()
