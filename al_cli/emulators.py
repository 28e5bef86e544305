"""Azure on this machine: the emulators of the tests in place of the cloud, for `al demo --profile azure-emulated`."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from al_cli.azure import steps
from al_cli.processes import stop
from al_resources.settings.azure_data import AzureDataSettings
from al_resources.settings.azure_ml import AzureMLSettings

NEEDED = ("azure", "cryptography", "duckdb_kql", "jsonschema")  # packages of the emulators
CONTAINER, QUEUE = "active-learning", "labeling-exports"


# what the scoring containers are told beside the addresses; the demo looks at the log within seconds
OF_SCORING = {"AL_PROFILE": "azure", "AL_SERVING__FLUSH_SECONDS": "0.5", "AL_SERVING__LOG_EMBEDDINGS": "true"}


@dataclass(frozen=True)
class EmulatedAzure:
    """What runs, and the one thing Azurite leaves out: announcing a blob that was created, by its path."""

    data: AzureDataSettings
    workspace: AzureMLSettings
    announce: Callable[[str], None]

    @property
    def toml(self) -> str:
        """The sections of al.toml that lead here."""
        return _section("azure", self.data) + "\n" + _section("azure_ml", self.workspace)


def _section(name: str, settings: AzureDataSettings | AzureMLSettings) -> str:
    values = settings.model_dump(exclude_unset=True)
    inner = {key: value for key, value in values.items() if isinstance(value, dict)}
    lines = [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items() if key not in inner)]
    for key, table in inner.items():
        lines += [f"\n[{name}.{key}]", *(f"{variable} = {json.dumps(value)}" for variable, value in table.items())]
    return "\n".join(lines) + "\n"


@contextmanager
def emulated_azure(log: Path, model: str) -> Iterator[EmulatedAzure]:
    """Blob, queue, Data Explorer and a workspace, set up as `al azure init` does it; gone when the block ends.

    Inside it Azure's own addresses lead this process, and those it starts, to the workspace.

    Raises:
        click.ClickException: the emulators are not here, or cannot be installed; says how to get them.
    """
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise click.ClickException(
            f"the emulators need {', '.join(missing)}: pip install 'active-learning-platform[azure,emulators]'"
        )
    from emulators.events import announce

    with _running(log) as addresses:
        if "missing" in addresses:
            raise click.ClickException(addresses["missing"])
        data = AzureDataSettings(
            credential="default",
            kusto_uri=addresses["kusto"],
            blob_account_url=addresses["blob"],
            container=CONTAINER,
            events_queue_url=f"{addresses['queue']}/{QUEUE}",
        )
        scoring = {f"AL_AZURE__{name.upper()}": value for name, value in data.model_dump(exclude_unset=True).items()}
        workspace = AzureMLSettings(
            **addresses["workspace"],
            poll_seconds=0.5,
            environment_variables=OF_SCORING | {"AL_MODEL__NAME": model} | scoring,
        )
        for step in steps(data):
            step.do()
        with _environment(addresses["variables"]):
            yield EmulatedAzure(data, workspace, lambda path: announce(data.events_queue_url, CONTAINER, path))


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _running(log: Path) -> Iterator[dict[str, Any]]:
    """The emulators in a process of their own, and what it says of itself."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as errors:
        child = subprocess.Popen(
            [sys.executable, "-m", "emulators.serve", CONTAINER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
        )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        said = child.stdout.readline()
        yield json.loads(said) if said else {"missing": f"the emulators did not start; see {log}"}
    finally:
        child.stdin.close()  # that ends it
        child.stdout.close()
        with suppress(subprocess.TimeoutExpired):
            child.wait(10)
        stop(child)
