"""`al score`: a folder in batch, into the same log as requests."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import click
from rich.markup import escape
from rich.progress import Progress

from al_cli.console import console, json_option, open_platform, print_json


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path), required=False)
@click.option("--store", "prefix", help="Score the blobs below this prefix instead, for example `images`.")
@json_option
def score(folder: Path | None, prefix: str | None, as_json: bool) -> None:
    """Score every image below FOLDER with the serving model and log the predictions.

    Files that are no readable images are put on record and skipped; the same picture under two names is scored
    once.
    """
    from al_serving.batch import BatchProgress, NoImages, files_of_folder, files_of_store, score_files
    from al_serving.collector import Collector
    from al_serving.scoring import Scorer

    if (folder is None) == (prefix is None):
        raise click.UsageError("name a FOLDER, or --store PREFIX")
    platform = open_platform()
    version = platform.endpoint.state().serving_version
    if version is None:
        raise click.ClickException("no model is deployed yet; `al ingest` adds images without scoring them")
    try:
        files = files_of_folder(folder) if folder is not None else files_of_store(platform.blobs, str(prefix))
    except NoImages as error:
        raise click.ClickException(str(error)) from error
    with (
        closing(Collector.of(platform)) as collector,
        Progress(console=console, transient=True, disable=as_json) as bar,
    ):
        task = bar.add_task("images", total=len(files))

        def report(progress: BatchProgress) -> None:
            bar.update(task, completed=progress.done)

        summary = score_files(
            Scorer.of(platform, platform.registry.fetch(version), collector), files, collector, report
        )
    if as_json:
        print_json(asdict(summary))
        return
    console.print(
        f"{summary.scored} images scored by v{summary.model_version}, {len(summary.duplicates)} names of the same "
        f"pictures, {len(summary.refused)} refused"
    )
    for name, reason in summary.refused.items():
        console.print(f"[yellow]{escape(name)}[/]: {escape(reason)}")
