"""Azure on this machine: the emulators of the tests in place of the cloud, for `al demo --profile azure-emulated`."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import click

from al_cli.azure import steps
from al_cli.dagster_process import stop
from al_resources.azure_data_settings import AzureDataSettings

EMULATORS = Path(__file__).parents[1] / "tests" / "emulators"
CONTAINER, QUEUE = "active-learning", "labeling-exports"


@dataclass(frozen=True)
class EmulatedAzure:
    """What runs, and the one thing Azurite leaves out: announcing a blob that was created, by its path."""

    settings: AzureDataSettings
    announce: Callable[[str], None]

    @property
    def toml(self) -> str:
        """The section of al.toml that leads here."""
        values = self.settings.model_dump(exclude_unset=True)
        return "[azure]\n" + "".join(f'{name} = "{value}"\n' for name, value in values.items())


@contextmanager
def emulated_azure(log: Path) -> Iterator[EmulatedAzure]:
    """Blob, queue and Data Explorer, set up as `al azure init` does it; gone when the block ends.

    Raises:
        click.ClickException: the emulators are not here, or cannot be installed; says how to get them.
    """
    if not EMULATORS.is_dir():
        raise click.ClickException(
            "the emulators belong to the repository and not to the package: run this in a checkout of it"
        )
    with _running(log) as addresses:
        if "missing" in addresses:
            raise click.ClickException(addresses["missing"])
        settings = AzureDataSettings(
            kusto_uri=addresses["kusto"],
            blob_account_url=addresses["blob"],
            container=CONTAINER,
            events_queue_url=f"{addresses['queue']}/{QUEUE}",
        )
        for step in steps(settings):
            step.do()
        sys.path.append(str(EMULATORS))
        announce = importlib.import_module("events").announce
        yield EmulatedAzure(settings, lambda path: announce(settings.events_queue_url, CONTAINER, path))


@contextmanager
def _running(log: Path) -> Iterator[dict[str, str]]:
    """The emulators in a process of their own, and what it says of itself."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as errors:
        child = subprocess.Popen(
            [sys.executable, str(EMULATORS / "serve.py")],
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
