"""`al classes`: which classes there are, and renaming and merging them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import click

from al_cli.console import console, escape, json_option, open_platform, print_json

if TYPE_CHECKING:
    from collections.abc import Callable

_dry_run = click.option("--dry-run", is_flag=True, help="Say what it would do, and write nothing.")
_yes = click.option("--yes", is_flag=True, help="Do not ask first.")


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def classes(context: click.Context, as_json: bool) -> None:
    """The classes in force, how many images are labeled with each, and what they were called before."""
    if context.invoked_subcommand is not None:
        return
    from al_resources.labeling.class_changes import classes_in_force, labels_of_classes

    platform = open_platform()
    labeling = platform.settings.labeling
    known = (platform.blobs, platform.ledgers, labeling)
    there, counts = classes_in_force(*known), labels_of_classes(*known)
    facts = [
        {
            "class": name,
            "images": count,
            "aliases": sorted(alias for alias, meant in labeling.aliases.items() if there.current(meant) == name),
            "formerly": sorted(old for old, new in there.became.items() if new == name),
            "in_force": name in there.names,
        }
        for name, count in counts.items()
    ]
    if as_json:
        print_json(facts)
        return
    for one in facts:
        console.print(_line(one), soft_wrap=True)
    if not facts:
        console.print("no class yet: labeling.classes names them, or the first labels do")


def _line(one: dict[str, Any]) -> str:
    told = [f"[bold]{escape(one['class'])}[/]: {one['images']} images"]
    told += [f"{what} {escape(', '.join(one[key]))}" for key, what in _BESIDES.items() if one[key]]
    return ", ".join(told) + ("" if one["in_force"] else " [yellow](not in labeling.classes)[/]")


_BESIDES = {"aliases": "also called", "formerly": "formerly"}


@classes.command()
@click.argument("old")
@click.argument("new")
@_dry_run
@_yes
@json_option
def rename(old: str, new: str, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Call the class OLD by the name NEW.

    It stays on record with your name and the time. Labels that stand follow by an export in the inbox; exports that
    still say OLD are read as NEW.
    """
    _change("rename", old, new, dry_run, yes, as_json)


@classes.command()
@click.argument("old")
@click.argument("into")
@_dry_run
@_yes
@json_option
def merge(old: str, into: str, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Make the class OLD a part of the class INTO, for good: nobody can tell them apart afterwards.

    It stays on record with your name and the time. Labels that stand follow by an export in the inbox; exports that
    still say OLD are read as INTO.
    """
    _change("merge", old, into, dry_run, yes, as_json)


def _change(kind: Literal["rename", "merge"], old: str, into: str, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Tell what it does, ask where a person is there, do it."""
    import sys

    from al_loop.decisions import this_person
    from al_resources.labeling.class_changes import (
        answers_of_all_rounds,
        labels_on_the_page,
        make_class_change,
        plan_class_change,
    )

    platform = open_platform()
    labeling = platform.settings.labeling
    planned = plan_class_change(platform.blobs, platform.ledgers, labeling, kind, old, into, this_person())
    change = planned.change
    facts: dict[str, Any] = {
        "change": kind,
        "class": change.name,
        "into": change.into,
        "by": change.annotator,
        "labels": planned.labels,
        "labels_on_the_page": labels_on_the_page(planned, answers_of_all_rounds(platform.blobs)),
        "delivered": None,
    }
    say: Callable[[str], None] = (lambda line: None) if as_json else (lambda line: console.print(line, soft_wrap=True))
    say(
        f"{escape(change.name)} becomes {escape(str(change.into))}: {facts['labels']} labels that stand and "
        f"{facts['labels_on_the_page']} answers on the labeling page follow; the next dataset is made with them, "
        "models that exist keep the classes they have"
    )
    if not dry_run:
        if not (yes or as_json) and sys.stdin.isatty():
            click.confirm(f"{kind.capitalize()} it?", abort=True)
        done = make_class_change(platform.blobs, planned)
        facts |= {"delivered": done.path}
    facts |= {"classes": list(planned.after.names), "dry_run": dry_run}
    if as_json:
        print_json(facts)
    elif dry_run:
        say("nothing was written")
    else:
        say(f"on record, by {escape(change.annotator)}; classes: {escape(', '.join(planned.after.names))}")
        if facts["delivered"]:
            say(f"in the inbox: {escape(facts['delivered'])}; the sensor takes it at its next look")
