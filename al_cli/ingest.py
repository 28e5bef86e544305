"""`al ingest`: images into the image store."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.progress import track

from al_cli.console import console, json_option, open_platform, print_json
from al_resources.platform import Platform

if TYPE_CHECKING:
    from al_resources.image_store import ImageStore, StoredImage

WRITERS = 8  # images stored at once: a container answers each in tens of milliseconds
PAGE = 1_000  # files whose outcomes are remembered at once


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
    from al_core.records import REJECTED_IMAGES, table_of, utc_now

    added = known = 0
    rejected = []
    images, most = platform.images, platform.settings.serving.max_image_pixels
    with ThreadPoolExecutor(WRITERS) as pool:
        pages = (files[start : start + PAGE] for start in range(0, len(files), PAGE))
        outcomes = chain.from_iterable(pool.map(partial(_store, images, max_pixels=most), page) for page in pages)
        shown = track(outcomes, "images", len(files), console=console, disable=quiet, transient=True)
        for file, outcome in zip(files, shown, strict=True):
            if isinstance(outcome, str):
                row = {"name": str(file), "reason": outcome, "source": "ingest", "rejected_at": utc_now()}
                rejected.append(row)
            else:
                added, known = (added + 1, known) if outcome.new else (added, known + 1)
    if rejected:
        rows = table_of(REJECTED_IMAGES, rejected)
        platform.ledgers.insert_new("rejected_images", rows, on=["name", "reason"])
    return {"added": added, "known": known, "rejected": len(rejected)}


def _store(images: ImageStore, file: Path, *, max_pixels: int) -> StoredImage | str:
    """What was stored, or why it is no image."""
    from al_core.images import BadImage, decode_image

    data = file.read_bytes()
    try:
        decode_image(data, name=str(file), max_pixels=max_pixels)
    except BadImage as error:
        return error.reason
    return images.put(data)
