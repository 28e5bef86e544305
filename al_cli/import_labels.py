"""`al import`: labels that exist already, from whatever tool."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click
from rich.markup import escape

from al_cli.console import console, json_option, open_platform, print_json

if TYPE_CHECKING:
    from al_resources.platform import Platform


@click.command("import")
@click.argument("sources", nargs=-1, required=True)
@click.option("--dry-run", is_flag=True, help="Say what would come of it, and write nothing.")
@click.option("--complete", is_flag=True, help="Take back what its annotators answered before and is not in it.")
@click.option("--again", is_flag=True, help="Let its labels count as if they were given now, although it came before.")
@click.option(
    "--random-sample",
    is_flag=True,
    help="Declare that chance decided which images were labeled: the reserved ones among them judge models.",
)
@click.option("--ingest", "with_pictures", is_flag=True, help="Store the pictures of a folder or archive first.")
@json_option
def import_labels(
    sources: tuple[str, ...],
    dry_run: bool,
    complete: bool,
    again: bool,
    random_sample: bool,
    with_pictures: bool,
    as_json: bool,
) -> None:
    """Bring labels in from files, folders or addresses, in any format that a labeling tool writes.

    A folder of pictures, one folder a class, is read as labels, too. What is said goes into the inbox: the sensor
    merges it, trains and deploys. A project may begin like this, before any round.

    Labels that no round asked for teach. They judge, too, as far as they are reserved, where every image in the store
    is labeled when the first dataset is made, or where --random-sample says that they were drawn at random.
    """
    from al_cli.ingest import tell_what_is_not_in
    from al_loop.importing import deliver, plan_import

    platform = open_platform()
    told = []
    for source in sources:
        stored = _store_pictures(platform, source, quiet=as_json) if with_pictures and not dry_run else None
        planned = plan_import(
            platform,
            source,
            complete=complete,
            again=again,
            coming=with_pictures and dry_run,
            random_sample=random_sample,
        )
        path = deliver(platform, planned) if planned.brings and not dry_run else None
        told.append(planned.facts | {"delivered": path, "stored": stored})
    if as_json:
        print_json(told)
        return
    for facts in told:
        if facts["stored"] is not None:
            tell_what_is_not_in(facts["stored"])
        _print(facts, dry_run)


def _store_pictures(platform: Platform, source: str, *, quiet: bool) -> dict[str, Any] | None:
    """Put the pictures of a folder or archive into the store; what became of them, and None for any other file."""
    from al_cli.ingest import ingest_files
    from al_core.picture_files import find_pictures

    place = Path(source).expanduser()
    if place.is_dir():
        found = find_pictures(place)
        return ingest_files(platform, found.pictures, quiet=quiet, beside=found)
    if not place.is_file():
        return None
    with TemporaryDirectory() as folder:
        unpack_pictures(place, Path(folder))
        found = find_pictures(Path(folder))
        if not found.pictures and not found.rejected:
            return None
        return ingest_files(platform, found.pictures, quiet=quiet, beside=found, moved=(Path(folder), place.absolute()))


def unpack_pictures(archive: Path, folder: Path) -> None:
    """Write the pictures of an archive below a folder, under their paths; none leaves it."""
    from al_resources.labeling.formats.archive import pictures_in

    for path, data in pictures_in(archive.read_bytes()):
        file = folder.joinpath(*(part for part in PurePosixPath(path).parts if part not in ("/", "..")))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)


def _print(facts: dict[str, Any], dry_run: bool) -> None:
    console.print(
        f"[bold]{escape(facts['source'])}[/] {escape(facts['format'])}: {facts['matched']} answers matched, "
        f"{facts['new']} new, {facts['changed']} changed, {facts['taken_back']} taken back, "
        f"{facts['unchanged']} as they are, {facts['set_aside']} set aside",
        soft_wrap=True,
    )
    classes = ", ".join(f"{name} {count}" for name, count in facts["classes"].items())
    console.print(f"classes: {escape(classes) or 'none'}", soft_wrap=True)
    for reason, count in facts["reasons"].items():
        console.print(f"[yellow]set aside[/] {count} x {escape(reason)}", soft_wrap=True)
    for text in [*facts["remarks"], *facts["differing"][:5]]:
        console.print(f"[yellow]note[/] {escape(text)}", soft_wrap=True)
    if facts["unlabeled"]:
        console.print(f"{facts['unlabeled']} images without an answer")
    for line in _about_judging(facts):
        console.print(line, soft_wrap=True)
    if facts["delivered"]:
        console.print(
            f"in the inbox: {escape(facts['delivered'])}; the sensor takes it at its next look", soft_wrap=True
        )
    else:
        console.print("nothing was written" if dry_run else "nothing to deliver: all of it counts already")


def _about_judging(facts: dict[str, Any]) -> list[str]:
    """What the labels are for: to teach, and to judge as far as their images are a random sample."""
    told = []
    if facts["sample"] == "random":
        told.append(
            f"declared a random sample: {facts['judging']} of these labels are reserved and judge, others teach"
        )
    elif facts["sample"] == "all":
        told.append(
            f"every image in the store is labeled by it: {facts['judging']} are reserved and judge models on images "
            "like these, the others teach; for other images they are no random sample"
        )
    elif facts["matched"] > facts["of_chosen_images"] and facts["new"]:
        told.append(
            "labels of images that no round drew are no random sample: models learn from them, and random rounds "
            "bring what judges them; if chance decided what was labeled, say so with --random-sample"
        )
    if facts["taught_before"]:
        told.append(
            f"{facts['taught_before']} of the images are in a dataset already and go on doing there what they do"
        )
    return told
