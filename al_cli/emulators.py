"""Azure on this machine: the emulators of the tests in place of the cloud, for `al demo --profile azure-emulated`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import click

from al_cli.azure import steps
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
def emulated_azure() -> Iterator[EmulatedAzure]:
    """Blob, queue and Data Explorer, set up as `al azure init` does it; gone when the block ends.

    Raises:
        click.ClickException: the emulators are not here, or cannot be installed; says how to get them.
    """
    if not EMULATORS.is_dir():
        raise click.ClickException(
            "the emulators belong to the repository and not to the package: run this in a checkout of it"
        )
    sys.path.append(str(EMULATORS))
    azurite, kusto, events = (importlib.import_module(name) for name in ("azurite", "kusto", "events"))
    with ExitStack() as stack:
        try:
            storage = stack.enter_context(azurite.Azurite.start())
            database = stack.enter_context(kusto.KustoEmulator())
        except importlib.import_module("node_packages").NotInstalled as error:
            raise click.ClickException(str(error)) from error
        except ModuleNotFoundError as error:
            raise click.ClickException(
                f"{error.name} is missing: pip install -e '.[azure,dev]' in {EMULATORS.parents[1]}"
            ) from error
        settings = AzureDataSettings(
            kusto_uri=database.url,
            kusto_ingestion="streaming",
            blob_account_url=storage.blob_url,
            container=CONTAINER,
            events_queue_url=f"{storage.queue_url}/{QUEUE}",
        )
        for step in steps(settings):
            step.do()
        yield EmulatedAzure(settings, lambda path: events.announce(settings.events_queue_url, CONTAINER, path))
