"""`al encoders`: who can turn pictures into embeddings here, and how fast."""

from __future__ import annotations

from dataclasses import asdict

import click
from rich.box import SIMPLE
from rich.table import Table

from al_cli.console import console, escape, json_option, print_json


@click.command()
@click.argument("names", nargs=-1, metavar="[ARCHITECTURE]...")
@json_option
def encoders(names: tuple[str, ...], as_json: bool) -> None:
    """List encoders with their size, width, and pictures per second on this machine.

    Without names those to begin with. Choose one with training.architecture in al.toml; with training.frozen = true
    only its head is learned, which is fast and what few labels want. Speed is measured without weights: nothing is
    downloaded here but a model's configuration.
    """
    from al_core.encoders.survey import SUGGESTED, survey
    from al_core.learning.networks import resolve_device

    device = resolve_device("auto")
    rows = [survey(name, device) for name in names or SUGGESTED]
    if as_json:
        print_json([asdict(row) for row in rows])
        return
    table = Table(box=SIMPLE, pad_edge=False, header_style="bold")
    table.add_column("training.architecture")
    for heading in ("pixels", "width", "MB", "per second"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        name = f"{escape(row.architecture)}\n[dim]{escape(row.problem or row.what)}[/]"
        figures = ("-",) * 4
        if not row.problem:
            figures = (f"{row.pixels}", f"{row.width}", f"{row.megabytes:.0f}", f"{row.per_second:.1f}")
        table.add_row(name, *figures)
    console.print(table, f"Pictures per second on the {device.type}, without decoding.")
