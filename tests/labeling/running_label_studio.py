"""A real Label Studio, and people who answer in it as their browsers would."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from filelock import FileLock

from al_cli.dagster_process import free_port
from al_cli.label_studio_server import LabelStudioServer
from al_cli.processes import Children
from al_resources.labeling.projects.label_studio_client import TOKEN_VARIABLE

ENVIRONMENT = Path(__file__).parents[2] / ".venv-label-studio"
INSTALL_SECONDS = (
    1_800  # for the first test of a fresh checkout: 800 MB from the package index, then the server's start
)
GIVEN_URL = "LABEL_STUDIO_URL"  # a server that runs already, with its token in LABEL_STUDIO_API_KEY


@dataclass(frozen=True)
class RunningLabelStudio:
    url: str
    token: str

    def ask(self, method: str, path: str, **request: Any) -> Any:
        headers = {"authorization": f"Token {self.token}"}
        answer = httpx.request(method, f"{self.url}{path}", headers=headers, timeout=60, **request)
        assert answer.is_success, (method, path, answer.status_code, answer.text[:500])
        return answer.json() if answer.content else None

    def project(self, title: str) -> dict[str, Any]:
        [only] = [one for one in self.ask("GET", "/api/projects/?page_size=1000")["results"] if one["title"] == title]
        return dict(self.ask("GET", f"/api/projects/{only['id']}/"))

    def tasks(self, title: str) -> list[dict[str, Any]]:
        query = {"project": self.project(title)["id"], "fields": "all", "page_size": 1000}
        return list(self.ask("GET", "/api/tasks/", params=query)["tasks"])

    def annotate(self, task: Mapping[str, Any], label: str | None) -> dict[str, Any]:
        """One answer to one task; None: skipped."""
        choice = {"type": "choices", "from_name": "choice", "to_name": "image", "value": {"choices": [label]}}
        said = {"result": [choice] if label else [], "was_cancelled": label is None, "lead_time": 1.5}
        return dict(self.ask("POST", f"/api/tasks/{task['id']}/annotations/", json=said))


def installed_environment() -> Path:
    """Where Label Studio is installed for the tests, on demand; workers take turns."""
    with FileLock(f"{ENVIRONMENT}.lock"):
        LabelStudioServer(ENVIRONMENT, ENVIRONMENT, 0).install(print)
    return ENVIRONMENT


@contextlib.contextmanager
def label_studio(data: Path) -> Iterator[RunningLabelStudio]:
    """The server that the environment names, or one of our own on a free port."""
    if url := os.environ.get(GIVEN_URL):
        yield RunningLabelStudio(url, os.environ[TOKEN_VARIABLE])
        return
    server = LabelStudioServer(installed_environment(), data, free_port(0))
    with Children() as children:
        children.start(server.child(data / "server.log"))
        server.wait_until_ready(children.check)
        yield RunningLabelStudio(server.url, server.token_file.read_text())
