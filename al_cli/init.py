"""`al init`: the three files a project of one's own begins with."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any
from unicodedata import category

import click

from al_cli.console import console, escape, json_option, print_json
from al_core.learning.settings import SMALL_CNN
from al_resources.settings import CONFIG_VARIABLE, load_settings

if TYPE_CHECKING:
    from al_resources.settings import Settings

AL_TOML = """\
# Everything that can be set, with its value in force: `al doctor`
home = "data"               # images, tables, models; relative to this file

[model]
name = "classifier"

[labeling]
classes = [{classes}]              # empty: whatever people answer

[selection]
strategy = {strategy}
budget = {budget:<18} # images per round
initial_budget = {initial_budget:<10} # images of the first round, drawn at random
control_share = 0.1         # of every round is drawn at random: unbiased truth
{besides}
[training]
{training}
{behind}"""
AUTO_RELEASE = "auto_release = true         # a round is released when every picture is answered"
FROM_NOTHING = """\
architecture = "small_cnn"  # or one that has learned from millions of pictures: `al encoders`"""
PRETRAINED = """\
architecture = {architecture}
weights = {weights}{why}
frozen = true               # only the head is learned: in seconds, from few labels"""
EMBEDDINGS = "log_embeddings = true       # what the service made of an image is not made again"


@dataclass(frozen=True)
class ProjectSizes:
    """What of a project depends on how many pictures there are."""

    budget: int = 50
    initial_budget: int = 200
    own_ports: bool = False  # ports that nobody else has now: several projects may run on one machine
    besides: str = ""  # more of the section [selection], and sections behind it


def encoder_options(command: Callable[..., None]) -> Callable[..., None]:
    """`--encoder` and `--weights`, the same for every command that makes a project."""
    encoder = click.option(
        "--encoder",
        default=SMALL_CNN,
        metavar="ARCHITECTURE",
        help="Who turns pictures into embeddings, with its published weights: see `al encoders`.",
    )
    weights = click.option(
        "--weights",
        type=click.Path(exists=True, resolve_path=True, path_type=Path),
        help="A file (safetensors) or folder with the encoder's weights.  [default: from the hub, with the first use]",
    )
    return encoder(weights(command))


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path), default=".")
@click.option("--class", "classes", multiple=True, help="A class people choose from; repeat for each.")
@encoder_options
@click.option("--storage", type=click.Choice(["sqlite", "postgres"]), default="sqlite", show_default=True,
              help="Where Dagster keeps runs and events: below FOLDER, or in the PostgreSQL database that the "
                   "environment's DAGSTER_POSTGRES_URL names.")  # fmt: skip
@json_option
def init(
    folder: Path, classes: tuple[str, ...], encoder: str, weights: Path | None, storage: str, as_json: bool
) -> None:
    """Write al.toml, dagster.yaml and workspace.yaml into FOLDER. Files that are there already are left alone.

    `al start` does it, too, and everything that comes after it.
    """
    console.quiet = console.quiet or as_json
    if storage == "postgres":
        _check_postgres(folder / "dagster.yaml")
    file = folder / "al.toml"
    is_new = not file.exists()
    settings = write_project(folder, classes, encoder, weights=weights, postgres=storage == "postgres")
    if as_json:
        print_json({"file": str(file), "written": is_new, "classes": list(settings.labeling.classes)})
        return
    console.print(
        f"{file} is ready. Next:\n"
        f"  al --config {quote(str(file))} ingest YOUR_IMAGES\n"
        f"  al ui --home {quote(str(folder))}          then switch on next_round_sensor and labeling_export_sensor",
        soft_wrap=True,
        markup=False,
    )


def write_project(
    folder: Path,
    classes: Sequence[str],
    encoder: str = SMALL_CNN,
    sizes: ProjectSizes = ProjectSizes(),
    *,
    weights: Path | None = None,
    postgres: bool = False,
) -> Settings:
    """The files of a project in `folder`, as far as they are not there yet, and the settings that are in force then.

    Raises:
        UsageError: weights for no encoder of others, or what is no name of a class.
        NoEncoder: the encoder cannot be used here.
        SettingsError: the settings that are there cannot be used.
    """
    from al_cli.dagster_process import write_dagster_home
    from al_resources.format_versions import write_version
    from al_resources.labeling.inbox import INBOX
    from al_resources.platform import Platform

    file, named = folder / "al.toml", _class_names(classes)
    is_new = not file.exists()
    if weights is not None and encoder == SMALL_CNN:
        raise click.UsageError(f"--weights {weights}: of which encoder? Name it with --encoder, see `al encoders`")
    if is_new:
        if encoder != SMALL_CNN:
            _say_what_it_costs(encoder, weights)
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(_toml(named, encoder, weights, sizes), encoding="utf-8")
    os.environ[CONFIG_VARIABLE] = str(file)
    settings = load_settings()
    write_dagster_home(folder, settings, postgres=postgres)
    if settings.profile == "local":
        write_version(Platform(settings).blobs)
        (settings.home / "blobs" / INBOX).mkdir(parents=True, exist_ok=True)  # to be seen before the first export
    if named and not is_new and set(named) != set(settings.labeling.classes):
        console.print(
            f"[yellow]--class was not used[/]: {escape(str(file))} is there already and left alone, with the classes "
            f"{escape(', '.join(settings.labeling.classes) or 'that people answer')}; change labeling.classes there",
            soft_wrap=True,
        )
    return settings


def _class_names(classes: Sequence[str]) -> list[str]:
    """The names as they count, each once; those that may be one class are told. Raises `UsageError`."""
    from al_core.class_folders import alike, plain_class
    from al_core.picture_files import printable

    names = list(dict.fromkeys(map(plain_class, classes)))
    for name in names:
        if not name or any(category(one) in ("Cc", "Cs") for one in name):
            shown = "''" if not name else repr(printable(name))
            raise click.UsageError(f"--class {shown} names no class; expected text, like --class cat")
    for found in alike(names):
        told = escape(" and ".join(map(repr, found)))
        console.print(
            f"[yellow]note[/] the classes {told} differ in case or spacing only; are they one?", soft_wrap=True
        )
    return names


def _check_postgres(file: Path) -> None:
    """Raises `ClickException` where the home would not be on PostgreSQL, whatever was asked for."""
    from importlib.util import find_spec

    import yaml

    if find_spec("dagster_postgres") is None:
        raise click.ClickException(
            "--storage postgres needs dagster-postgres, which is not installed: "
            "pip install 'active-learning-platform[postgres]'"
        )
    kept = yaml.safe_load(file.read_text(encoding="utf-8")) if file.exists() else None
    if kept is not None and "postgres" not in (kept.get("storage") or {}):
        raise click.ClickException(
            f"{file} is there already and keeps runs elsewhere; it is left alone. Remove it and ask again (its runs "
            "and events stay where they are), or add the section `storage` yourself"
        )


def _toml(classes: Sequence[str], encoder: str, weights: Path | None, sizes: ProjectSizes) -> str:
    import tomlkit

    def quoted(text: str) -> str:
        return tomlkit.string(text).as_string()

    values: dict[str, Any] = {
        "classes": ", ".join(map(quoted, classes)),
        "strategy": '"margin"',
        "training": FROM_NOTHING,
        "budget": sizes.budget,
        "initial_budget": sizes.initial_budget,
        "besides": sizes.besides,
        "behind": "",
    }
    serving = []
    if encoder != SMALL_CNN:  # its embeddings mean something
        own = ('"default"', "         # the published ones") if weights is None else (quoted(weights.as_posix()), "")
        training = PRETRAINED.format(architecture=quoted(encoder), weights=own[0], why=own[1])
        values |= {"strategy": '"auto"', "training": training}
        serving.append(EMBEDDINGS)
    if sizes.own_ports:
        from al_cli.dagster_process import free_port

        serving.append(f"port = {free_port(8808)}")
        values["behind"] = f"\n[labeling_page]\nport = {free_port(8809)}\n{AUTO_RELEASE}\n"
    if serving:
        values["behind"] += "\n".join(["\n[serving]", *serving, ""])
    return AL_TOML.format(**values)


def _say_what_it_costs(encoder: str, weights: Path | None) -> None:
    """Raises `NoEncoder` where it cannot be used here."""
    from al_core.encoders.contract import NoEncoder
    from al_core.encoders.survey import survey
    from al_core.learning.networks import resolve_device

    device = resolve_device("auto")
    found = survey(encoder, device)
    if found.problem:
        raise NoEncoder(found.problem)
    whence = "fetched with the first training" if weights is None else f"those in {weights}"
    console.print(
        f"{encoder}: pictures of {found.pixels} pixels, embeddings of {found.width} values, about "
        f"{found.per_second:.3g} pictures a second on this {device.type}; its weights ({found.megabytes:.0f} MB) are "
        f"{whence}",
        markup=False,
    )
