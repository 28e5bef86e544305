"""`al trace`: where things come from and what became of them."""

from __future__ import annotations

from typing import Any

import click
from rich.tree import Tree

from al_cli.console import console, json_option, open_platform, print_json


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
    """
    from al_resources.lineage import NotFound
    from al_resources.lineage import trace as follow

    try:
        found = follow(open_platform(), reference)
    except NotFound as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        print_json(found)
    else:
        console.print(_tree(Tree(f"[bold]{reference}[/]"), found))


def _tree(tree: Tree, value: Any) -> Tree:
    if isinstance(value, dict):
        for key, inner in value.items():
            _branch(tree, str(key), inner)
    else:
        for number, inner in enumerate(value):
            _branch(tree, str(number), inner)
    return tree


def _branch(tree: Tree, name: str, value: Any) -> None:
    flat = isinstance(value, list) and all(not isinstance(item, (dict, list)) for item in value)
    if isinstance(value, (dict, list)) and value and not flat:
        _tree(tree.add(f"[bold]{name}[/]"), value)
    elif value not in (None, [], {}):
        text = ", ".join(str(item) for item in value) if flat else str(value)
        tree.add(f"{name}: [cyan]{text}[/]")
