"""`al azure`: what the platform needs in a subscription."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from al_cli.console import console, json_option, print_json
from al_resources.profiles.azure import NEEDED
from al_resources.settings import load_settings
from al_resources.settings.azure_data import AzureDataSettings

if TYPE_CHECKING:
    from al_resources.azure.data_explorer import KustoDatabase

EVENTS_TEMPLATE = Path("deploy/azure/events.bicep")


@dataclass(frozen=True)
class Step:
    """One thing to set up: what is printed, and what is done, which says what it found."""

    text: str
    do: Callable[[], str]

    @property
    def name(self) -> str:
        """The text without what it lists."""
        return re.split(r" [('{]", self.text)[0]


@click.group()
def azure() -> None:
    """What the platform needs in a subscription."""


@azure.command()
@click.option("--dry-run", is_flag=True, help="Print what would be done, and do nothing.")
@json_option
def init(dry_run: bool, as_json: bool) -> None:
    """Create container, queues, tables and policies that are missing. Doing it again changes nothing.

    Everything is printed first. The event subscription is a Bicep template, to be deployed with the command printed.
    """
    settings = load_settings().azure
    if missing := [name for name in NEEDED if not getattr(settings, name)]:
        raise click.ClickException(f"set {', '.join(f'azure.{name}' for name in missing)}; `al doctor` lists all")
    planned = list(steps(settings))
    if as_json:
        done = [{"step": step.text, "outcome": "planned" if dry_run else _done(step)} for step in planned]
        print_json({"steps": done, "events": events_command(settings) if settings.events_queue_url else None})
        return
    for step in planned:
        console.print(step.text, markup=False, soft_wrap=True)
    if settings.events_queue_url:
        console.print(f"\nEvents, by {EVENTS_TEMPLATE}:\n{events_command(settings)}\n", markup=False, soft_wrap=True)
    if dry_run:
        return
    for step in planned:
        console.print(f"{step.name}: {_done(step)}", markup=False, soft_wrap=True)


def steps(settings: AzureDataSettings) -> Iterator[Step]:
    """All of the set-up, each step repeatable."""
    from al_resources.azure.data_explorer import KustoDatabase, setup_commands
    from al_resources.event_queue.azure import poison_url

    container = f"create container {settings.container} in {settings.blob_account_url}"
    yield Step(container, partial(_create_container, settings))
    if settings.events_queue_url:
        for address in (settings.events_queue_url, poison_url(settings.events_queue_url)):
            yield Step(f"create queue {address}", partial(_create_queue, settings, address))
    database = KustoDatabase(settings)
    for command in setup_commands(settings.kusto_retention_days):
        yield Step(command, partial(_command, database, command))


def events_command(settings: AzureDataSettings) -> str:
    """How to deploy the event subscription, dead-lettering included."""
    from al_resources.azure.storage import account_name

    queue, account = settings.events_queue_url.rsplit("/", 1)[-1], account_name(settings.blob_account_url)
    return (
        f"az deployment group create --resource-group <group of the storage account> --template-file {EVENTS_TEMPLATE} "
        f"--parameters storageAccountName={account} containerName={settings.container} queueName={queue} "
        f'location="$(az storage account show --name {account} --query primaryLocation --output tsv)"'
    )


def _done(step: Step) -> str:
    from azure.core.exceptions import AzureError
    from azure.kusto.data.exceptions import KustoError

    try:
        return step.do()
    except (AzureError, KustoError) as error:
        said = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise click.ClickException(
            f"{step.name}: {said}\nWhat was done before stays; docs/azure.md names the roles this identity needs. "
            "Then run `al azure init` again."
        ) from error


def _create_container(settings: AzureDataSettings) -> str:
    from azure.core.exceptions import ResourceExistsError

    from al_resources.azure.storage import container_client

    try:
        container_client(settings).create_container()
    except ResourceExistsError:
        return "is there already"
    return "created"


def _create_queue(settings: AzureDataSettings, address: str) -> str:
    from azure.core.exceptions import ResourceExistsError

    from al_resources.azure.storage import queue_client

    try:
        queue_client(settings, address).create_queue()
    except ResourceExistsError:
        return "is there already, with metadata of its own"
    return "is there"


def _command(database: KustoDatabase, command: str) -> str:
    database.command(command)
    return "done"
