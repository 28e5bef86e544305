"""`al score`: a folder in batch, into the same log as requests."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.progress import Progress

from al_cli.console import console, escape, json_option, open_platform, print_json

if TYPE_CHECKING:
    from al_serving.batch import BatchProgress


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path), required=False)
@click.option("--store", "prefix", help="Score the blobs below this prefix instead, for example `images`.")
@json_option
def score(folder: Path | None, prefix: str | None, as_json: bool) -> None:
    """Score every image below FOLDER with the serving model and log the predictions.

    Files that are no readable images are put on record and skipped; the same picture under two names is scored
    once.
    """
    from al_core.records import new_ids
    from al_loop.scoring import score as score_images

    if (folder is None) == (prefix is None):
        raise click.UsageError("name a FOLDER, or --store PREFIX")
    with Progress(console=console, transient=True, disable=as_json) as bar:
        task = bar.add_task("images", total=None)

        def report(progress: BatchProgress) -> None:
            bar.update(task, completed=progress.done, total=progress.total)

        summary = score_images(
            open_platform(),
            folder=folder,
            prefix=prefix or "",
            key=new_ids(1)[0],
            log=bar.console.print,
            report=report,
        )
    assert summary is not None, "something was named"
    if as_json:
        print_json(asdict(summary))
        return
    console.print(
        f"{summary.scored} images scored by v{summary.model_version}, {len(summary.duplicates)} names of the same "
        f"pictures, {len(summary.refused)} refused"
    )
    for name, reason in summary.refused.items():
        console.print(f"[yellow]{escape(name)}[/]: {escape(reason)}")
