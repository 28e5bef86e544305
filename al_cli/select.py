"""`al select`: what would be chosen now, and why."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.box import SIMPLE
from rich.table import Table

from al_cli.console import console, escape, json_option, open_platform, print_json

if TYPE_CHECKING:
    from al_resources.azure.data_explorer import Query
    from al_resources.platform import Platform


@click.command()
@click.option("--strategy", help="Instead of selection.strategy; see `al strategies`.")
@click.option("--budget", type=click.IntRange(1), help="Instead of selection.budget.")
@click.option("--seed", type=click.IntRange(0), help="Instead of the next round's.")
@click.option("--dry-run", is_flag=True, help="Required: rounds are opened by the schedule or in the UI, not here.")
@click.option(
    "--sheet", type=click.Path(dir_okay=False, path_type=Path), default="contact_sheet.png", show_default=True
)
@click.option(
    "--show-kql", is_flag=True, help="Print what was asked of the log in Data Explorer instead, a long log in windows."
)
@json_option
def select(
    strategy: str | None,
    budget: int | None,
    seed: int | None,
    dry_run: bool,
    sheet: Path,
    show_kql: bool,
    as_json: bool,
) -> None:
    """Show which images the next round would choose and why, as a table and a contact sheet. Nothing is written
    to the ledgers.
    """
    from al_assets.views import contact_sheet_png
    from al_loop.selecting import Wishes, preview

    if not dry_run:
        raise click.UsageError("add --dry-run; to open a round, use selection_schedule or materialize in the UI")
    platform = open_platform()
    asked = listened_to(platform) if show_kql else []
    chosen, facts = preview(platform, Wishes(strategy=strategy, budget=budget, seed=seed))
    if show_kql:
        click.echo("\n\n".join(query.shown for query in asked if "predictions" in query.text))
        return
    if chosen.height:
        sheet.write_bytes(contact_sheet_png(platform, chosen))
    columns = ["rank", "image_id", "reason", "strategy", "score", "cluster", "propensity"]
    if as_json:
        print_json({"facts": facts, "images": chosen.select(columns).to_dicts()})
        return
    table = Table(box=SIMPLE, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, no_wrap=True, max_width=12)
    for row in chosen.select(columns).iter_rows():
        table.add_row(*map(_cell, row))
    console.print(table)
    for name, value in facts.items():
        console.print(f"{name}: {escape(str(value))}")
    console.print(f"contact sheet: {sheet}")


def listened_to(platform: Platform) -> list[Query]:
    """What is asked of Data Explorer from now on."""
    from al_resources.prediction_store.kusto import KustoPredictionStore
    from al_resources.prediction_store.referring import engine_of

    store = engine_of(platform.predictions)
    if not isinstance(store, KustoPredictionStore):
        raise click.UsageError(
            "--show-kql: the log of this profile lies in Delta, no KQL is asked; see profile = azure"
        )
    asked: list[Query] = []
    store.database.listener = asked.append
    return asked


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else escape(str(value))
