"""`al ui`: the Dagster UI on an instance, with the loop kept alive."""

from __future__ import annotations

import getpass
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click
import httpx
import numpy as np

from al_cli.console import console
from al_cli.dagster_process import dagster_dev, export_sensor, free_port, process, write_dagster_home
from al_cli.oracle import answer_waiting
from al_resources.platform import Platform
from al_resources.settings import CONFIG_VARIABLE, load_settings


@click.command()
@click.option(
    "--home",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=".",
    show_default=True,
    help="Folder with al.toml and dagster.yaml: what `al demo` or `al init` made.",
)
@click.option("--port", default=3000, show_default=True, help="Of the UI; another one where it is taken.")
@click.option("--traffic", default=20, show_default=True, help="Images scored per second while an oracle labels.")
def ui(home: Path, port: int, traffic: int) -> None:
    """Open the Dagster UI on an instance, history included, and run its scoring service.

    Where an oracle labels (as in the demo) the loop is kept alive: images are sent to the scoring service, the
    schedule ticks by the clock, the oracle answers, the sensor trains and deploys. Ctrl-C ends it.
    """
    home = home.resolve()
    config = home / "al.toml"
    if not config.is_file():
        raise click.ClickException(f"{config} is missing; `al init {home}` writes one, `al demo` shows the loop")
    os.environ[CONFIG_VARIABLE] = str(config)
    platform = Platform(load_settings())
    write_dagster_home(home, platform.settings)
    try:
        with ExitStack() as stack:
            stack.enter_context(process(["al_cli.main", "serve"], home / "log" / "serve.log", AL_CONFIG=str(config)))
            with console.status("starting Dagster"):
                dagster = stack.enter_context(dagster_dev(home, config, free_port(port)))
            console.print(f"labeling page: {stack.enter_context(labeling_page(home, config))}", soft_wrap=True)
            console.print(f"Dagster UI: [link]{dagster.url}[/]   scoring service: {platform.settings.serving.url}")
            if platform.settings.labeling.project == "oracle":
                dagster.start_sensor(export_sensor(platform.settings))
                dagster.start_schedule("selection_schedule")
                console.print("the oracle labels and traffic flows; Ctrl-C ends it")
                keep_alive(platform, traffic)
            else:
                console.print("Ctrl-C ends it")
                while True:
                    time.sleep(3600)
    except KeyboardInterrupt:
        console.print("stopped")


@contextmanager
def labeling_page(home: Path, config: Path) -> Iterator[str]:
    """The page on which people label, in a process of its own; gives the link for whoever started this."""
    from al_labeling.guard import Guard, page_secret

    page = load_settings().labeling_page
    secret = page_secret(page, home)
    port = free_port(page.port)
    arguments = ["al_cli.main", "label", "--port", str(port)]
    with process(arguments, home / "log" / "label.log", AL_CONFIG=str(config)):
        yield Guard(page, secret).link(page.public_url or f"http://{page.host}:{port}", getpass.getuser())


def keep_alive(platform: Platform, per_second: int) -> None:
    """Traffic from the image store, and answers to what waits for people, for ever."""
    generator = np.random.default_rng()
    with httpx.Client(timeout=30) as client:
        while True:
            begun = time.monotonic()
            answer_waiting(platform)
            for _, uri in platform.images.sample(per_second, generator):
                send(client, f"{platform.settings.serving.url}/score", platform.images.read(uri))
            time.sleep(max(0.0, 1.0 - (time.monotonic() - begun)))


def send(client: httpx.Client, url: str, image: bytes) -> None:
    """One scoring request; a service that is not ready yet is no reason to stop."""
    try:
        client.post(url, content=image)
    except httpx.TransportError as error:
        console.print(f"[yellow]the scoring service did not answer: {error}[/]")
