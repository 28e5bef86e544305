"""`al ui`: the Dagster UI on an instance, with the loop kept alive."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from al_cli.console import JSON_LINES, console, escape
from al_cli.processes import EMULATED, MARKER, signals_end_it, sole_use
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
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address that the UI listens on. In a container 0.0.0.0, its port published on loopback: who asks under "
    "another name than localhost, or without the link's token, is refused all the same.",
)
@click.option("--traffic", default=20, show_default=True, help="Images scored per second in a demo's home.")
@click.option("--json", "as_json", is_flag=True, help=JSON_LINES)
def ui(home: Path, port: int | None, host: str, traffic: int, as_json: bool) -> None:
    """Open the Dagster UI on an instance, history included, and run its scoring service.

    The link that is printed carries a token: it lets you in, and nobody else. Where an oracle labels (as in the
    demo) the loop is kept alive: images are sent to the scoring service, the schedule ticks by the clock, the
    oracle answers, the sensor trains and deploys. The home of a demo on emulators of Azure has these started again
    on what they kept, and there you label. What dies is started again. Ctrl-C, SIGTERM and SIGHUP end it, with
    everything it started.
    """
    console.quiet = console.quiet or as_json
    home = home.resolve()
    config = home / "al.toml"
    if not config.is_file():
        raise click.ClickException(f"{config} is missing; `al init {home}` writes one, `al demo` shows the loop")
    console.print(f"starting the scoring service and Dagster on {home} (logs: {home / 'log'}) ...")
    from al_cli.dagster_process import listener_of_ui

    os.environ[CONFIG_VARIABLE] = str(config)
    try:
        with signals_end_it(), sole_use(home, "al ui"), _azure(home), listener_of_ui(port, host) as listener:
            _run(home, config, listener, traffic, as_json)
    except KeyboardInterrupt:
        console.print("stopped, with everything it started")


@contextmanager
def _azure(home: Path) -> Iterator[None]:
    """The emulators, started again on what they kept, where the home is of a demo on them."""
    if not _is_emulated(home):
        yield
        return
    from al_cli.emulators import ENVIRONMENT, emulators_of

    console.print("starting the emulators on what they kept: storage, Data Explorer, the workspace's endpoint")
    with emulators_of(home):
        console.print(f"other terminals reach them after `. {home / ENVIRONMENT}`", markup=False, soft_wrap=True)
        yield


def _is_emulated(home: Path) -> bool:
    return (home / MARKER).is_file() and (home / MARKER).read_text() == EMULATED


def _run(home: Path, config: Path, listener: socket.socket, traffic: int, as_json: bool) -> None:
    from al_cli.dagster_process import export_sensor
    from al_cli.running_loop import running_loop, seconds
    from al_resources.platform import Platform
    from al_resources.settings import load_settings

    platform = Platform(load_settings())
    with running_loop(home, config, platform, listener, as_json) as loop:
        oracle = platform.settings.labeling.project == "oracle"
        emulated = _is_emulated(home)  # its workspace answers, and whoever looks at it labels
        flows = loop.answers_here or emulated
        if oracle or emulated:
            loop.dagster.start_sensor(export_sensor(platform.settings))
            loop.dagster.start_schedule("selection_schedule")
            told = [*(["the oracle labels"] if oracle else ["you label"]), *(["traffic flows"] if flows else [])]
            console.print(" and ".join(told))
        console.print("Ctrl-C ends it")
        for _ in seconds():
            loop.watch()
            if oracle or emulated:
                keep_alive(platform, traffic if flows else 0)


def keep_alive(platform: Platform, images: int) -> None:
    """Some traffic from the image store, and answers to what waits for people."""
    import httpx
    import numpy as np

    from al_cli.oracle import answer_waiting
    from al_cli.traffic import scoring_address

    if platform.settings.labeling.project == "oracle":
        answer_waiting(platform)
    if not images:
        return
    url, caller = scoring_address(platform)
    with httpx.Client(timeout=30, **caller) as client:
        for _, uri in platform.images.sample(images, np.random.default_rng()):
            send(client, url, platform.images.read(uri))


def send(client: httpx.Client, url: str, image: bytes) -> None:
    """One scoring request; a service that is not ready yet is no reason to stop."""
    import httpx

    try:
        client.post(url, content=image)
    except httpx.TransportError as error:
        console.print(f"[yellow]the scoring service did not answer: {escape(str(error))}[/]")
