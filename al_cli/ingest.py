"""`al ingest`: images into the image store."""

from __future__ import annotations

from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.progress import track

from al_cli.console import console, escape, json_option, open_platform, print_json
from al_resources.platform import Platform

if TYPE_CHECKING:
    from al_core.picture_files import PictureFiles
    from al_resources.image_store import ImageStore, StoredImage

WRITERS = 8  # images stored at once: a container answers each in tens of milliseconds
SHOWN = 10  # rejected files, by name
PAGE = 1_000  # files whose outcomes are remembered at once


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@json_option
def ingest(folder: Path, as_json: bool) -> None:
    """Add every image below FOLDER to the image store, by content: the same picture twice is stored once.

    An image is told by its first bytes, whatever its ending. What is none is named with the reason and skipped. The
    names are kept: `al trace photo.jpg` finds the image, and so do exports that name it so.
    """
    from al_core.images import IMAGE_SUFFIXES
    from al_core.picture_files import find_pictures

    found = find_pictures(folder)
    if not found.pictures and not found.rejected:
        there = "; ".join(f"{count} x {kind}" for kind, count in sorted(found.passed_over.items()))
        raise click.ClickException(
            f"{folder} holds no images{f' ({there})' if there else ''}; expected files like "
            f"{', '.join(sorted(IMAGE_SUFFIXES))}"
        )
    facts = ingest_files(open_platform(), found.pictures, quiet=as_json, beside=found)
    if as_json:
        print_json(facts)
        return
    console.print(f"{facts['added']} images added, {facts['known']} were there already, {facts['rejected']} rejected")
    tell_what_is_not_in(facts)


def tell_what_is_not_in(facts: dict[str, Any]) -> None:
    """Print which files are not in the store, and why; `facts`: what `ingest_files` returns."""
    for name, reason in list(facts["reasons"].items())[:SHOWN]:
        console.print(f"[yellow]{escape(name)}[/]: {escape(reason)}", soft_wrap=True)
    if facts["rejected"] > SHOWN:
        console.print(f"... and {facts['rejected'] - SHOWN} more; --json of `al ingest` names all of them")
    if facts["forgotten"]:
        console.print(f"{facts['forgotten']} were erased by `al forget` and are not brought in again")
    for kind, count in sorted(facts["passed_over"].items()):
        example = next(name for name, reason in facts["left"].items() if reason == kind)
        console.print(f"{count} files passed over: {escape(kind)}, like {escape(example)}", soft_wrap=True)


def ingest_files(
    platform: Platform,
    files: list[Path],
    *,
    quiet: bool = False,
    beside: PictureFiles | None = None,
    moved: tuple[Path, Path] | None = None,
) -> dict[str, Any]:
    """Store the files; returns how many were added, known and rejected, and the reasons.

    `beside`: what else lay in their folder; it is put on record with them. `moved`: the folder where they lie now, and
    what it stands for: an archive that they came in.
    """
    from al_core.picture_files import printable
    from al_core.records import REJECTED_IMAGES, table_of, utc_now
    from al_resources.forgotten import forgotten_ids
    from al_resources.image_names import NameLog

    def called(name: str) -> str:
        return name if moved is None else name.replace(str(moved[0]), str(moved[1]), 1)

    added = known = forgotten = 0
    reasons = dict(beside.rejected) if beside is not None else {}
    images, most = platform.images, platform.settings.serving.max_image_pixels
    with ThreadPoolExecutor(WRITERS) as pool, NameLog(platform.ledgers, "ingest") as names:
        pages = (files[start : start + PAGE] for start in range(0, len(files), PAGE))
        store = partial(_store, images, max_pixels=most, forgotten=forgotten_ids(platform.ledgers))
        outcomes = chain.from_iterable(pool.map(store, page) for page in pages)
        shown = track(outcomes, "images", len(files), console=console, disable=quiet, transient=True)
        for file, outcome in zip(files, shown, strict=True):
            if outcome is None:
                forgotten += 1
            elif isinstance(outcome, str):
                reasons[str(file)] = outcome
            else:
                names.add(printable(called(file.absolute().as_posix())), outcome.image_id)
                added, known = (added + 1, known) if outcome.new else (added, known + 1)
    reasons = {printable(called(name)): reason for name, reason in reasons.items()}
    if reasons:
        now = utc_now()
        rejected = [
            {"name": name, "reason": reason, "source": "ingest", "rejected_at": now} for name, reason in reasons.items()
        ]
        platform.ledgers.insert_new("rejected_images", table_of(REJECTED_IMAGES, rejected), on=["name", "reason"])
    left = {} if beside is None else {printable(called(name)): kind for name, kind in beside.left.items()}
    return {
        "added": added,
        "known": known,
        "rejected": len(reasons),
        "forgotten": forgotten,
        "reasons": reasons,
        "passed_over": {} if beside is None else beside.passed_over,
        "left": left,
    }


def _store(
    images: ImageStore, file: Path, *, max_pixels: int, forgotten: Collection[str] = ()
) -> StoredImage | str | None:
    """What was stored, or why it is no image; None for one that was forgotten."""
    from al_core.images import BadImage, content_id, decode_image

    try:
        data = file.read_bytes()
        decode_image(data, name=str(file), max_pixels=max_pixels)
    except BadImage as error:
        return error.reason
    except OSError as error:  # gone or unreadable since it was listed
        return f"cannot be read: {error.strerror or error}"
    return None if content_id(data) in forgotten else images.put(data)
