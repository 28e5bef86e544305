"""`al ingest`: images into the image store."""

from __future__ import annotations

from pathlib import Path

import click
from rich.progress import track

from al_cli.console import console, json_option, open_platform, print_json
from al_resources.platform import Platform


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@json_option
def ingest(folder: Path, as_json: bool) -> None:
    """Add every image below FOLDER to the image store, by content: the same picture twice is stored once.

    Files that are no readable images are recorded with the reason and skipped.
    """
    from al_core.images import IMAGE_SUFFIXES

    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise click.ClickException(
            f"{folder} holds no images; expected files ending in {', '.join(sorted(IMAGE_SUFFIXES))}"
        )
    facts = ingest_files(open_platform(), files, quiet=as_json)
    if as_json:
        print_json(facts)
    else:
        console.print(
            f"{facts['added']} images added, {facts['known']} were there already, {facts['rejected']} rejected"
        )


def ingest_files(platform: Platform, files: list[Path], *, quiet: bool = False) -> dict[str, int]:
    """Store the files; returns how many were added, known and rejected."""
    from al_core.images import BadImage, decode_image
    from al_core.records import REJECTED_IMAGES, table_of, utc_now

    added = known = 0
    rejected = []
    for file in track(files, "images", console=console, disable=quiet, transient=True):
        data = file.read_bytes()
        try:
            decode_image(data, name=str(file), max_pixels=platform.settings.serving.max_image_pixels)
        except BadImage as error:
            rejected.append({"name": str(file), "reason": error.reason, "source": "ingest", "rejected_at": utc_now()})
            continue
        stored = platform.images.put(data)
        added, known = (added + 1, known) if stored.new else (added, known + 1)
    if rejected:
        rows = table_of(REJECTED_IMAGES, rejected)
        platform.ledgers.insert_new("rejected_images", rows, on=["name", "reason"])
    return {"added": added, "known": known, "rejected": len(rejected)}
