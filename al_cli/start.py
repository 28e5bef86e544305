"""`al start`: from a folder of pictures to a loop that runs, in one command."""

from __future__ import annotations

import os
import sys
import webbrowser
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from al_cli.console import JSON_LINES, console, escape
from al_cli.init import ProjectSizes, encoder_options, write_project
from al_cli.processes import signals_end_it, sole_use

if TYPE_CHECKING:
    import socket

    from al_core.picture_files import PictureFiles
    from al_loop.importing import Import
    from al_resources.platform import Platform

CLASSES_SHOWN = 12
JUDGED_BY = 30  # images that measure the first model, where the folder has enough: its interval is then +-.15


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--home",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the project is kept.  [default: NAME-loop here, NAME being the folder's]",
)
@click.option("--class", "classes", multiple=True, help="A class people choose from; repeat for each.")
@click.option(
    "--labeled/--unlabeled",
    default=None,
    help="Whether the folders in FOLDER are classes, and so label their pictures.  [default: if they look it]",
)
@encoder_options
@click.option("--port", type=click.IntRange(0, 65535), help="Of the UI; 0 takes any free one.  [default: 3000 if free]")
@click.option("--open/--no-open", "browse", default=None, help="Open the labeling page.  [default: where a screen is]")
@click.option("--json", "as_json", is_flag=True, help=JSON_LINES)
def start(
    folder: Path,
    home: Path | None,
    classes: tuple[str, ...],
    labeled: bool | None,
    encoder: str,
    weights: Path | None,
    port: int | None,
    browse: bool | None,
    as_json: bool,
) -> None:
    """Make a project of the pictures in FOLDER, and run it: label, and a model is trained, judged and served.

    The first batch is staged at once. Each next one follows as soon as a model has learned from the last; what the loop
    waits for stands on the terminal. Ctrl-C ends it with everything it started; the same command goes on with it, and
    brings in pictures that came since.
    """
    from al_cli.dagster_process import listener_of_ui

    console.quiet = console.quiet or as_json
    folder = folder.resolve()
    home = (home or Path(f"{folder.name}-loop")).resolve()
    if home.is_relative_to(folder):
        raise click.ClickException(
            f"{home} would lie among the pictures, and be taken for some; name a folder outside of {folder} with --home"
        )
    try:
        with signals_end_it(), sole_use(home, "al start"):
            platform = _prepared(folder, home, classes, labeled, encoder, weights)
            with listener_of_ui(port) as listener:
                _run(home, platform, listener, browse, as_json)
    except KeyboardInterrupt:
        console.print("stopped, with everything it started; the same command goes on")


def _prepared(
    folder: Path,
    home: Path,
    classes: tuple[str, ...],
    labeled: bool | None,
    encoder: str,
    weights: Path | None = None,
) -> Platform:
    """The project with its pictures, its first batch staged, and what the folders say of it delivered."""
    from al_cli.ingest import ingest_files, tell_what_is_not_in
    from al_core.picture_files import find_pictures
    from al_resources.platform import Platform

    found = find_pictures(folder)
    if not found.pictures:
        raise click.ClickException(f"{folder} holds no pictures; `al ingest {folder}` says what lies there instead")
    plan = _planned(folder, found, home / "al.toml", classes, labeled)
    settings = write_project(home, plan.classes, encoder, sizes_for(len(found.pictures)), weights=weights)
    platform = Platform(settings)
    facts = ingest_files(platform, found.pictures, beside=found)
    console.print(
        f"{facts['added']} images added, {facts['known']} were there already, {facts['rejected']} rejected; classes: "
        f"{escape(_shown(settings.labeling.classes)) or 'whatever people answer'}; the project is in {home}",
        soft_wrap=True,
    )
    tell_what_is_not_in(facts)
    planned = _read_labels(platform, folder) if plan.labeled else None
    if planned is None or planned.facts["sample"] != "all":  # where all is labeled, nobody is asked
        _stage_first_batch(platform)  # drawn before a label is delivered: what it brings is a random sample
    if planned is not None and planned.brings:
        _deliver_labels(platform, planned)
    return platform


@dataclass(frozen=True)
class Planned:
    """What the folder is taken for."""

    classes: Sequence[str]
    labeled: bool  # whether its folders are classes


def _planned(
    folder: Path, found: PictureFiles, config: Path, classes: tuple[str, ...], labeled: bool | None
) -> Planned:
    """Classes and labels, as said by options, else by the folders, else by the person at the terminal."""
    from al_resources.labeling.exports import BrokenExport

    own = _classes_of(config) if config.is_file() else None
    try:
        there = class_folders(folder, found, own or classes)
    except BrokenExport:
        if labeled:
            raise
        there = Counter()
    if labeled and not there:
        raise click.UsageError(f"--labeled: no folder in {folder} holds pictures; expected one a class")
    if own is not None:  # its classes hold
        return Planned(classes, bool(there) and set(there) <= set(own) if labeled is None else labeled)
    if labeled is None:
        labeled = _looks_labeled(there, classes)
    names = [*classes, *(name for name in there if labeled and name not in classes)]
    return Planned(names or _asked_for(), labeled)


def _classes_of(config: Path) -> Sequence[str]:
    from al_resources.settings import load_settings

    os.environ["AL_CONFIG"] = str(config)
    return load_settings().labeling.classes


def class_folders(folder: Path, found: PictureFiles, classes: Sequence[str] = ()) -> Counter[str]:
    """The folders that may be classes, with how many pictures, as the reader of labels takes them (it may raise)."""
    from al_core.class_folders import plain_class
    from al_resources.labeling.formats.folders import rows_of_class_folders

    pictures = {path.relative_to(folder).as_posix(): "" for path in found.pictures}
    rows = rows_of_class_folders(pictures, classes=classes)
    return Counter(plain_class(str(row.label)) for row in rows if row.label is not None)


def _looks_labeled(there: Counter[str], classes: Sequence[str]) -> bool:
    """Several folders, called like the classes where these are named; otherwise a person is asked."""
    if classes:
        return bool(there) and set(there) <= set(classes)
    if len(there) < 2:
        return False
    shown = _shown([f"{name} ({count})" for name, count in there.most_common()])
    return not sys.stdin.isatty() or click.confirm(f"Are these folders the classes of their pictures: {shown}?", True)


def _asked_for() -> list[str]:
    if not sys.stdin.isatty():
        raise click.UsageError("which classes are there? Name each with --class, like --class cat --class dog")
    said = click.prompt("Which classes do people choose from? Separated by commas", type=str)
    names = [name.strip() for name in said.split(",") if name.strip()]
    if len(names) < 2:
        raise click.UsageError(f"{said!r} is one class; a model that chooses needs two or more")
    return names


def sizes_for(pictures: int) -> ProjectSizes:
    """Batches that a person labels in minutes, and a reserve that a folder of that size can judge a model by.

    A quarter of the reserve measures: so many that the first model's accuracy means something, and never more than half
    of all images judge.
    """
    first = max(40, min(100, pictures // 3))
    budget = max(10, min(50, pictures // 10))
    reserve = min(0.5, max(0.2, round(4 * JUDGED_BY / pictures, 2)))
    return ProjectSizes(
        budget,
        first,
        own_ports=True,
        besides=f"""\
min_new_predictions = {budget}    # a round as soon as there is a batch to choose

[holdout]
reserve = {reserve}               # of all images may judge, and never teach
share = 0.3                 # of the first round judges

[sensors]
export_interval_seconds = 3
round_interval_seconds = 3
""",
    )


def _stage_first_batch(platform: Platform) -> None:
    """So that people can begin before Dagster is up; its run of the round finds it selected, and puts it on record."""
    from al_loop.selecting import Wishes, choose, stage

    begun = any(platform.ledgers.read(name).height for name in ("selections", "labels"))
    if begun or platform.endpoint.state().serving_version is not None:
        return  # from here on the sensor decides
    with console.status("drawing the first batch"):
        chosen, _ = choose(platform, 0, Wishes(), lambda line: None)
        stage(platform, 0, chosen)
    console.print(f"{chosen.height} of them are the first batch, drawn at random")


def _read_labels(platform: Platform, folder: Path) -> Import:
    """What the folders say, as `al import` reads it."""
    from al_loop.importing import plan_import

    with console.status("reading the labels"):
        return plan_import(platform, str(folder))


def _deliver_labels(platform: Platform, planned: Import) -> None:
    from al_loop.importing import deliver

    deliver(platform, planned)
    counts = _shown([f"{name} {count}" for name, count in planned.facts["classes"].items()])
    console.print(f"labels by their folders: {escape(counts)}", soft_wrap=True)
    for reason, count in planned.facts["reasons"].items():
        console.print(f"[yellow]set aside[/] {count} x {escape(reason)}", soft_wrap=True)


def _run(home: Path, platform: Platform, listener: socket.socket, browse: bool | None, as_json: bool) -> None:
    from al_cli.dagster_process import export_sensor
    from al_cli.running_loop import running_loop, seconds

    os.environ["AL_CONFIG"] = str(home / "al.toml")
    with running_loop(home, home / "al.toml", platform, listener, as_json) as loop:
        loop.dagster.start_sensor(export_sensor(platform.settings))
        loop.dagster.start_sensor("next_round_sensor")
        if browse or (browse is None and _has_a_screen()):
            webbrowser.open(loop.link_of_page)
        console.print("Ctrl-C ends it")
        for _ in seconds():
            loop.watch()


def _has_a_screen() -> bool:
    on_display = sys.platform in ("darwin", "win32") or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))
    return sys.stdout.isatty() and on_display


def _shown(names: Sequence[str]) -> str:
    more = f" and {len(names) - CLASSES_SHOWN} more" if len(names) > CLASSES_SHOWN else ""
    return ", ".join(names[:CLASSES_SHOWN]) + more
