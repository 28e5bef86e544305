"""`al trace`: where things come from and what became of them."""

from __future__ import annotations

from typing import Any

import click
from rich.tree import Tree

from al_cli.console import console, escape, json_option, open_platform, print_json


@click.command()
@click.argument("reference", default="latest")
@json_option
def trace(reference: str, as_json: bool) -> None:
    """Follow the lineage of REFERENCE.

    \b
    REFERENCE is one of
      latest         the last deployment (the default)
      0198c...-...   a deployment, by its id
      v7             a model version
      3fa85f6457...  an image, by its id or the beginning of it
      photo.jpg      an image, by a path or name under which it came
    """
    from al_loop.trace import trace as follow

    found = follow(open_platform(), reference)
    if as_json:
        print_json(found)
    else:
        console.print(_tree(Tree(f"[bold]{escape(reference)}[/]"), found))


def _tree(tree: Tree, value: Any) -> Tree:
    if isinstance(value, dict):
        for key, inner in value.items():
            _branch(tree, str(key), inner)
    else:
        for number, inner in enumerate(value):
            _branch(tree, str(number), inner)
    return tree


def _branch(tree: Tree, name: str, value: Any) -> None:
    if value in (None, [], {}):
        return
    if _is_flat(value):
        tree.add(f"{escape(name)}: [cyan]{escape(_in_a_line(value))}[/]")
    else:
        _tree(tree.add(f"[bold]{escape(name)}[/]"), value)


def _is_flat(value: Any) -> bool:
    """Whether a value fits into a line: no nesting, and few fields."""
    if isinstance(value, dict):
        return len(value) <= 5 and not any(isinstance(inner, (dict, list)) for inner in value.values())
    return not isinstance(value, list) or not any(isinstance(inner, (dict, list)) for inner in value)


def _in_a_line(value: Any) -> str:
    if isinstance(value, dict):
        return "  ".join(f"{key} {inner}" for key, inner in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
