"""The processes of a loop on one machine, and the line that says what it waits for: for `al ui` and `al start`."""

from __future__ import annotations

import getpass
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from al_cli.console import console, escape, print_json_line
from al_cli.processes import Child, Children

if TYPE_CHECKING:
    import socket

    from al_cli.dagster_process import Dagster
    from al_resources.platform import Platform

LOOK_SECONDS = 3.0  # between two looks at what it waits for


@dataclass
class RunningLoop:
    """Scoring service, labeling page and Dagster on a home."""

    home: Path
    platform: Platform
    children: Children
    dagster: Dagster
    answers_here: bool  # whether the scoring service is ours
    link_of_page: str
    as_json: bool = False
    _said: str = ""
    _looked: float = -LOOK_SECONDS

    def watch(self) -> None:
        """Start again what died, and say what the loop waits for whenever it is something else."""
        for line in self.children.check():
            console.print(line, style="yellow", markup=False)
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return
        whom, sentence = self._standing()
        self._looked = time.monotonic()
        if sentence == self._said:
            return
        self._said = sentence
        if self.as_json:
            print_json_line({"at": time.strftime("%H:%M:%S"), "waits_for": whom or None, "sentence": sentence})
            return
        line = f"[bold]waits for {whom}[/]: {escape(sentence)}" if whom else f"[yellow]{escape(sentence)}[/]"
        console.print(f"[dim]{time.strftime('%H:%M:%S')}[/] {line}", soft_wrap=True)

    def _standing(self) -> tuple[str, str]:
        """Whom it waits for, and the sentence; nobody where that cannot be told, and why."""
        from al_loop.waiting import standing

        try:
            waiting = standing(self.platform, self.dagster.at_work("training_deployment"))
        except OSError as error:  # a store that is being written to, or away for a moment
            return "", f"how the loop stands cannot be told: {error}"
        return waiting.whom, waiting.sentence


@contextmanager
def running_loop(
    home: Path, config: Path, platform: Platform, listener: socket.socket, as_json: bool = False
) -> Iterator[RunningLoop]:
    """Start everything, print the links, and stop everything at the end."""
    from al_cli.dagster_process import scoring_service, start_dagster, write_dagster_home

    write_dagster_home(home, platform.settings)
    with Children() as children:
        answers_here = answers_on_this_machine(platform)
        if answers_here:
            children.start(scoring_service(home, config))
        page, link_of_page = labeling_page(home, config)
        children.start(page)
        console.print(f"labeling page: {link_of_page}", soft_wrap=True)
        with console.status("starting Dagster"):
            dagster = start_dagster(children, home, config, listener)
        service = platform.settings.serving.url if answers_here else "the workspace's endpoint"
        console.print(f"Dagster UI: [link]{dagster.link}[/]   scoring service: {service}", soft_wrap=True)
        console.print("a link lets in who has it: give it to nobody")
        if as_json:
            scoring = platform.settings.serving.url if answers_here else None
            print_json_line({"labeling_page": link_of_page, "dagster": dagster.link, "scoring_service": scoring})
        try:
            yield RunningLoop(home, platform, children, dagster, answers_here, link_of_page, as_json)
        finally:
            dagster.close()


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


def seconds() -> Iterator[None]:
    """One turn a second, or as fast as the turns are."""
    while True:
        begun = time.monotonic()
        yield
        time.sleep(max(0.0, 1.0 - (time.monotonic() - begun)))
