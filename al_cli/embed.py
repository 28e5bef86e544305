"""`al embed`: what an encoder makes of images, before anybody asks for it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from al_cli.console import console, escape, json_option, open_platform, print_json

SHOWN = 10  # refused files, by name


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path), required=False)
@json_option
def embed(folder: Path | None, as_json: bool) -> None:
    """Embed every image below FOLDER, or of the image store, that the encoder has not seen.

    The encoder is that of the serving model; before there is one, that which the first training begins with. It runs on
    the GPU where there is one. What is embedded is kept: scoring, training and the first round take it from there.
    Stopped, it goes on where it was. FOLDER's images are not added to the store (`al ingest` does that).
    """
    from al_loop.embedding import embed_files, embed_store, embedder_of
    from al_serving.batch import files_of_folder

    platform = open_platform()
    files = None if folder is None else files_of_folder(folder)
    columns = (TextColumn("images"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=as_json) as bar:
        task = bar.add_task("images", total=None)

        def report(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        embedder = embedder_of(platform)
        if files is None:
            summary = embed_store(platform, embedder, report)
        else:
            summary = embed_files(platform, embedder, files, report)
    if as_json:
        print_json(asdict(summary))
        return
    console.print(
        f"{summary.embedded:,} of {summary.images:,} images embedded by {escape(summary.architecture)}, "
        f"{summary.known:,} were before, {len(summary.refused)} refused"
    )
    for name, reason in list(summary.refused.items())[:SHOWN]:
        console.print(f"[yellow]{escape(name)}[/]: {escape(reason)}")
    if len(summary.refused) > SHOWN:
        console.print(f"... and {len(summary.refused) - SHOWN} more; --json names all of them")
