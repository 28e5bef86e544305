"""`al oracle`: known labels in place of people."""

from __future__ import annotations

import time

import click

from al_cli.console import console, json_option, open_platform, print_json
from al_resources.platform import Platform


@click.command()
@click.option("--watch", is_flag=True, help="Go on answering new rounds until stopped.")
@click.option("--every", default=2.0, show_default=True, help="Seconds between two looks.")
@json_option
def oracle(watch: bool, every: float, as_json: bool) -> None:
    """Answer every staged round from labeling.oracle_labels, as an export like a labeling tool writes it."""
    platform = open_platform()
    if platform.settings.labeling.project != "oracle":
        raise click.ClickException(
            f"labeling.project is {platform.settings.labeling.project!r}; set it to 'oracle' and "
            "labeling.oracle_labels to a JSON file {image id: label}"
        )
    while True:
        answered = answer_waiting(platform)
        if as_json:
            print_json({"answered": answered})
        for path in [] if as_json else answered:
            console.print(f"answered: {path}")
        if not watch:
            return
        time.sleep(every)


def answer_waiting(platform: Platform) -> list[str]:
    """Exports for all staged rounds that have none yet; returns their paths."""
    from al_resources.labeling.projects.oracle import OracleLabeling

    assert isinstance(platform.labeling, OracleLabeling)
    return platform.labeling.answer_all()
