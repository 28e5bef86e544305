"""`al upgrade`: an older home up to date."""

from __future__ import annotations

import click

from al_cli.console import console, json_option, print_json


@click.command()
@click.option("--dry-run", is_flag=True, help="Print what would be done, and do nothing.")
@json_option
def upgrade(dry_run: bool, as_json: bool) -> None:
    """Bring tables and records that an earlier version wrote up to date. Doing it again changes nothing.

    Nothing needs this to go on working: tables gain columns by themselves on one machine. It does the rest at once,
    and on Azure, where the loop's identity may not change tables, it is how they gain them.
    """
    from al_resources.format_versions import CURRENT, upgrade_steps
    from al_resources.platform import Platform

    steps = upgrade_steps(Platform())
    if not dry_run:
        for step in steps:
            step.do()
    if as_json:
        print_json({"format": str(CURRENT), "done": not dry_run, "steps": [step.text for step in steps]})
        return
    for step in steps:
        console.print(f"{'would' if dry_run else 'done:'} {step.text}", markup=False, soft_wrap=True)
    if not steps:
        console.print(f"everything is up to date: format {CURRENT}")
