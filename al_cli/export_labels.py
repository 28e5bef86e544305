"""`al export`: the labels as a file for other tools."""

from __future__ import annotations

from pathlib import Path

import click

from al_cli.console import console, json_option, open_platform, print_json

FORMATS = ("jsonl", "coco", "csv", "label-studio", "cvat", "mltable", "folders", "ultralytics")


@click.command("export")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path), required=False)
@click.option("--format", "format_", type=click.Choice(FORMATS), default="jsonl", show_default=True)
@click.option("--force", is_flag=True, help="Replace FILE where it is there already.")
@json_option
def export_labels(file: Path | None, format_: str, force: bool, as_json: bool) -> None:
    """Write all labels to FILE, by default labels.jsonl or the like; `al import` reads it again without loss.

    jsonl and csv keep everything, skips included. folders and ultralytics are zips with the pictures in them.
    """
    from al_loop.exporting import export
    from al_resources.labeling.writers import FILES

    suffix = FILES[format_][0] if format_ in FILES else ".zip"
    target = file or Path(f"labels{suffix}")
    if target.exists() and not force:
        raise click.ClickException(f"{target} is there already; name another file, or --force")
    data, count = export(open_platform(), format_)
    unfinished = target.with_name(f"{target.name}.part")
    unfinished.write_bytes(data)
    unfinished.replace(target)
    if as_json:
        print_json({"file": str(target), "format": format_, "answers": count})
    else:
        console.print(f"{count} answers in {target}")
