"""`al hold`, `al release`, `al rollback`, `al promote`: people decide who serves, and say why."""

from __future__ import annotations

import click

from al_cli.console import console, open_platform

_reason = click.option("--reason", required=True, help="Why; it stays on record with your name and the time.")


@click.command()
@_reason
def hold(reason: str) -> None:
    """Deploy nothing until `al release`: the loop selects and trains on."""
    from al_loop.decisions import this_person
    from al_loop.operating import hold as put_on_hold

    console.print(put_on_hold(open_platform(), reason=reason, person=this_person()), markup=False)


@click.command()
@_reason
def release(reason: str) -> None:
    """Let the loop deploy again."""
    from al_loop.decisions import this_person
    from al_loop.operating import release as let_go

    console.print(let_go(open_platform(), reason=reason, person=this_person()), markup=False)


@click.command()
@click.option("--to", type=click.IntRange(1), help="Version that served before.  [default: the one before]")
@_reason
def rollback(to: int | None, reason: str) -> None:
    """Go back to a version that served before. The one that is left does not come back by itself."""
    from al_loop.decisions import this_person
    from al_loop.operating import rollback as go_back

    result = go_back(open_platform(), to, reason=reason, person=this_person(), log=_say)
    console.print(f"v{result.model_version} serves", markup=False)


@click.command()
@click.argument("version", type=click.IntRange(1))
@_reason
def promote(version: int, reason: str) -> None:
    """Let VERSION serve, whatever the gate says."""
    from al_loop.decisions import this_person
    from al_loop.operating import promote as let_serve

    result = let_serve(open_platform(), version, reason=reason, person=this_person(), log=_say)
    console.print(f"v{result.model_version} serves", markup=False)


def _say(line: str) -> None:
    console.print(line, markup=False)
