"""`al strategies`: what there is to choose from."""

from __future__ import annotations

import click
from rich.box import SIMPLE
from rich.table import Table

from al_cli.console import console, json_option, print_json


@click.command()
@json_option
def strategies(as_json: bool) -> None:
    """List the query strategies: what each needs, what it costs, where it comes from.

    Choose one with selection.strategy in al.toml, or in the launchpad of the `selection` job. `embedding` needs
    serving.log_embeddings = true, or a frozen encoder (training.frozen).
    """
    from al_core.strategies.registry import STRATEGIES, setting_names

    rows = [
        {
            "name": name,
            "what": (strategy.__doc__ or "").strip().splitlines()[0],
            "needs": sorted(strategy().needs),
            "settings": setting_names(strategy),
            "cost": strategy.cost,
            "reference": strategy.reference,
        }
        for name, strategy in STRATEGIES.items()
    ]
    if as_json:
        print_json(rows)
        return
    table = Table(box=SIMPLE, pad_edge=False, header_style="bold")
    table.add_column("strategy", no_wrap=True)
    table.add_column("needs", no_wrap=True)
    table.add_column("what it wants, and its settings")
    for row in rows:
        settings = f" [cyan]{', '.join(row['settings'])}[/]" if row["settings"] else ""
        table.add_row(str(row["name"]), ", ".join(row["needs"]), f"{row['what']}{settings}")
    console.print(table)
