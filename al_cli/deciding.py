"""`al hold`, `al release`, `al rollback`, `al promote`: people decide who serves, and say why."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from al_cli.console import console, json_option, open_platform, print_json

if TYPE_CHECKING:
    from al_resources.endpoint.rollout import RolloutResult

_reason = click.option("--reason", required=True, help="Why; it stays on record with your name and the time.")


@click.command()
@_reason
@json_option
def hold(reason: str, as_json: bool) -> None:
    """Deploy nothing until `al release`: the loop selects and trains on."""
    from al_loop.decisions import this_person
    from al_loop.operating import hold as put_on_hold

    said = put_on_hold(open_platform(), reason=reason, person=this_person())
    if as_json:
        print_json({"said": said})
    else:
        console.print(said, markup=False)


@click.command()
@_reason
@json_option
def release(reason: str, as_json: bool) -> None:
    """Let the loop deploy again."""
    from al_loop.decisions import this_person
    from al_loop.operating import release as let_go

    said = let_go(open_platform(), reason=reason, person=this_person())
    if as_json:
        print_json({"said": said})
    else:
        console.print(said, markup=False)


@click.command()
@click.option("--to", type=click.IntRange(1), help="Version that served before.  [default: the one before]")
@_reason
@json_option
def rollback(to: int | None, reason: str, as_json: bool) -> None:
    """Go back to a version that served before. The one that is left does not come back by itself."""
    from al_loop.decisions import this_person
    from al_loop.operating import rollback as go_back

    result = go_back(open_platform(), to, reason=reason, person=this_person(), log=_silent if as_json else _say)
    _tell(result, as_json)


@click.command()
@click.argument("version", type=click.IntRange(1))
@_reason
@json_option
def promote(version: int, reason: str, as_json: bool) -> None:
    """Let VERSION serve, whatever the gate says."""
    from al_loop.decisions import this_person
    from al_loop.operating import promote as let_serve

    result = let_serve(open_platform(), version, reason=reason, person=this_person(), log=_silent if as_json else _say)
    _tell(result, as_json)


def _tell(result: RolloutResult, as_json: bool) -> None:
    if as_json:
        print_json({"serves": result.model_version, "outcome": result.outcome, "reason": result.reason})
    else:
        console.print(f"v{result.model_version} serves", markup=False)


def _silent(line: str) -> None:
    """JSON stands alone on standard output."""


def _say(line: str) -> None:
    console.print(line, markup=False)
