"""`al ui`: the Dagster UI on an instance, with the loop kept alive."""

from __future__ import annotations

import getpass
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from al_cli.console import console, escape
from al_cli.processes import Child, Children, signals_end_it, sole_use
from al_resources.settings import CONFIG_VARIABLE

if TYPE_CHECKING:
    import socket

    import httpx

    from al_resources.platform import Platform


@click.command()
@click.option(
    "--home",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=".",
    show_default=True,
    help="Folder with al.toml and dagster.yaml: what `al demo` or `al init` made.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help="Of the UI; 0 takes any free one.  [default: 3000, or another where that is taken]",
)
@click.option("--traffic", default=20, show_default=True, help="Images scored per second while an oracle labels.")
def ui(home: Path, port: int | None, traffic: int) -> None:
    """Open the Dagster UI on an instance, history included, and run its scoring service.

    The link that is printed carries a token: it lets you in, and nobody else. Where an oracle labels (as in the
    demo) the loop is kept alive: images are sent to the scoring service, the schedule ticks by the clock, the
    oracle answers, the sensor trains and deploys. What dies is started again. Ctrl-C, SIGTERM and SIGHUP end it,
    with everything it started.
    """
    home = home.resolve()
    config = home / "al.toml"
    if not config.is_file():
        raise click.ClickException(f"{config} is missing; `al init {home}` writes one, `al demo` shows the loop")
    console.print(f"starting the scoring service and Dagster on {home} (logs: {home / 'log'}) ...")
    from al_cli.dagster_process import listener_of_ui

    os.environ[CONFIG_VARIABLE] = str(config)
    try:
        with signals_end_it(), sole_use(home, "al ui"), listener_of_ui(port) as listener:
            _run(home, config, listener, traffic)
    except KeyboardInterrupt:
        console.print("stopped, with everything it started")


def _run(home: Path, config: Path, listener: socket.socket, traffic: int) -> None:
    from al_cli.dagster_process import export_sensor, scoring_service, start_dagster, write_dagster_home
    from al_resources.platform import Platform
    from al_resources.settings import load_settings

    platform = Platform(load_settings())
    write_dagster_home(home, platform.settings)
    with Children() as children:
        serves_here = answers_on_this_machine(platform)
        if serves_here:
            children.start(scoring_service(home, config))
        page, link_of_page = labeling_page(home, config)
        children.start(page)
        with console.status("starting Dagster"):
            dagster = start_dagster(children, home, config, listener)
        console.print(f"labeling page: {link_of_page}", soft_wrap=True)
        service = platform.settings.serving.url if serves_here else "the workspace's endpoint"
        console.print(f"Dagster UI: [link]{dagster.link}[/]   scoring service: {service}", soft_wrap=True)
        console.print("a link lets in who has it: give it to nobody")
        oracle = platform.settings.labeling.project == "oracle"
        if oracle:
            dagster.start_sensor(export_sensor(platform.settings))
            dagster.start_schedule("selection_schedule")
            console.print("the oracle labels and traffic flows" if serves_here else "the oracle labels")
        console.print("Ctrl-C ends it")
        for _ in _seconds():
            for line in children.check():
                console.print(line, style="yellow", markup=False)
            if oracle:
                keep_alive(platform, traffic if serves_here else 0)


def answers_on_this_machine(platform: Platform) -> bool:
    """Whether the scoring service is ours to start; a workspace's endpoint answers by itself."""
    from al_resources.endpoint.local import LocalEndpoint

    return isinstance(platform.endpoint, LocalEndpoint)


def labeling_page(home: Path, config: Path) -> tuple[Child, str]:
    """The page on which people label, and the link for whoever starts it."""
    from al_cli.dagster_process import free_port
    from al_labeling.guard import Guard, page_secret
    from al_resources.settings import load_settings

    settings = load_settings()
    page = settings.labeling_page
    secret = page_secret(page, settings.home)  # the one that the page itself finds
    port = free_port(page.port)
    arguments = ["al_cli.main", "label", "--port", str(port)]
    child = Child("the labeling page", arguments, home / "log" / "label.log", {"AL_CONFIG": str(config)})
    return child, Guard(page, secret).link(page.public_url or f"http://{page.host}:{port}", getpass.getuser())


def _seconds() -> Iterator[None]:
    """One turn a second, or as fast as the turns are."""
    while True:
        begun = time.monotonic()
        yield
        time.sleep(max(0.0, 1.0 - (time.monotonic() - begun)))


def keep_alive(platform: Platform, images: int) -> None:
    """Some traffic from the image store, and answers to what waits for people."""
    import httpx
    import numpy as np

    from al_cli.oracle import answer_waiting
    from al_resources.endpoint.asking import caller_of

    answer_waiting(platform)
    with httpx.Client(timeout=30, **caller_of(platform.settings.serving)) as client:
        for _, uri in platform.images.sample(images, np.random.default_rng()):
            send(client, f"{platform.settings.serving.url}/score", platform.images.read(uri))


def send(client: httpx.Client, url: str, image: bytes) -> None:
    """One scoring request; a service that is not ready yet is no reason to stop."""
    import httpx

    try:
        client.post(url, content=image)
    except httpx.TransportError as error:
        console.print(f"[yellow]the scoring service did not answer: {escape(str(error))}[/]")
