"""Azure on this machine: the emulators of the tests in place of the cloud, for `al demo --profile azure-emulated`."""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from al_cli.azure import steps
from al_cli.dagster_api import DagsterError
from al_cli.processes import stop
from al_resources.settings.azure_data import AzureDataSettings
from al_resources.settings.azure_ml import AzureMLSettings

NEEDED = ("azure", "cryptography", "duckdb_kql", "jsonschema")  # packages of the emulators
CONTAINER, QUEUE = "active-learning", "labeling-exports"


BATCH_ENDPOINT = "digits-batch"
KEPT = "azure"  # the folder of a home in which the emulators keep everything
ENVIRONMENT = "azure.env"  # in a home: what leads another terminal to them
ENDING_SECONDS = 30

# what the scoring containers are told beside the addresses; the demo looks at the log within seconds
OF_SCORING = {"AL_PROFILE": "azure", "AL_SERVING__FLUSH_SECONDS": "0.5", "AL_SERVING__LOG_EMBEDDINGS": "true"}


@dataclass(frozen=True)
class EmulatedAzure:
    """What runs, and where."""

    data: AzureDataSettings
    workspace: AzureMLSettings
    emulators: Emulators

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


class Emulators:
    """The process that they are in, and what it said when it was up."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, addresses: dict[str, Any]) -> None:
        self._process = process
        self._log = log
        self.addresses = addresses

    def check(self) -> None:
        """Raises `DagsterError` where they are gone: nothing of the home can be reached then."""
        if self._process.poll() is not None:
            raise DagsterError(
                f"the emulators ended with exit code {self._process.returncode}; {self._log} says why, and what jobs "
                f"and deployments printed lies beside it"
            )


@contextmanager
def emulators_of(home: Path) -> Iterator[Emulators]:
    """Blob, queue, Data Explorer and a workspace, on what they kept in this home; they end with the block.

    Inside it Azure's own addresses lead this process, and those it starts, to the workspace; `azure.env` of the home
    does that for other terminals.

    Raises:
        click.ClickException: the emulators are not here, or cannot be installed or reached; says how to mend that.
    """
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise click.ClickException(
            f"the emulators need {', '.join(missing)}: pip install 'active-learning-platform[azure,emulators]'"
        )
    with _running(home) as emulators:
        if "missing" in emulators.addresses:
            raise click.ClickException(emulators.addresses["missing"])
        variables = emulators.addresses["variables"]
        lines = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items())
        (home / ENVIRONMENT).write_text(lines)
        with _environment(variables):
            yield emulators


@contextmanager
def emulated_azure(home: Path, model: str) -> Iterator[EmulatedAzure]:
    """`emulators_of` a new home, set up as `al azure init` does it."""
    with emulators_of(home) as emulators:
        addresses = emulators.addresses
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
            batch_endpoint=BATCH_ENDPOINT,
            environment_variables=OF_SCORING | {"AL_MODEL__NAME": model} | scoring,
        )
        for step in steps(data):
            step.do()
        yield EmulatedAzure(data, workspace, emulators)


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
def _running(home: Path) -> Iterator[Emulators]:
    """The emulators in a process of their own."""
    logs = home / "log"
    log = logs / "emulators.log"
    logs.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as errors:
        child = subprocess.Popen(
            [sys.executable, "-m", "emulators.serve", str(home / KEPT), CONTAINER, QUEUE, str(logs)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
        )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        said = child.stdout.readline()
        addresses = json.loads(said) if said else {"missing": f"the emulators did not start; see {log}"}
        yield Emulators(child, log, addresses)
    finally:
        child.stdin.close()  # that ends it
        child.stdout.close()
        with suppress(subprocess.TimeoutExpired):
            child.wait(ENDING_SECONDS)  # they write down what they keep
        stop(child)
