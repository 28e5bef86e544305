"""`al init`: the three files a project of one's own begins with."""

from __future__ import annotations

import os
from pathlib import Path

import click
from rich.markup import escape

from al_cli.console import console
from al_cli.dagster_process import write_dagster_home
from al_core.learning.settings import SMALL_CNN
from al_resources.format_versions import write_version
from al_resources.platform import Platform
from al_resources.settings import CONFIG_VARIABLE, load_settings

AL_TOML = """\
# Everything that can be set, with its value in force: `al doctor`
home = "data"               # images, tables, models; relative to this file

[model]
name = "classifier"

[labeling]
classes = [{classes}]              # empty: whatever people answer

[selection]
strategy = {strategy}
budget = 50                 # images per round
initial_budget = 200        # images of the first round, drawn at random
control_share = 0.1         # of every round is drawn at random: unbiased truth

[training]
{training}
"""
FROM_NOTHING = """\
architecture = "small_cnn"  # or one that has learned from millions of pictures: `al encoders`"""
PRETRAINED = """\
architecture = {architecture}
weights = "default"         # the published ones
frozen = true               # only the head is learned: in seconds, from few labels

[serving]
log_embeddings = true       # selection and training read them from the log"""


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path), default=".")
@click.option("--class", "classes", multiple=True, help="A class people choose from; repeat for each.")
@click.option("--encoder", default=SMALL_CNN, metavar="ARCHITECTURE",
              help="Who turns pictures into embeddings, with its published weights: see `al encoders`.")  # fmt: skip
def init(folder: Path, classes: tuple[str, ...], encoder: str) -> None:
    """Write al.toml, dagster.yaml and workspace.yaml into FOLDER. Files that are there already are left alone."""
    import tomlkit

    from al_resources.labeling.exports import plain_class
    from al_resources.labeling.inbox import INBOX

    pretrained = encoder != SMALL_CNN
    if pretrained:
        _say_what_it_costs(encoder)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "al.toml"
    is_new = not file.exists()
    if is_new:
        training = FROM_NOTHING
        if pretrained:
            training = PRETRAINED.format(architecture=tomlkit.string(encoder).as_string())
        names = ", ".join(tomlkit.string(name).as_string() for name in dict.fromkeys(map(plain_class, classes)))
        strategy = '"auto"' if pretrained else '"margin"'  # which needs embeddings that mean something
        file.write_text(AL_TOML.format(classes=names, training=training, strategy=strategy), encoding="utf-8")
    os.environ[CONFIG_VARIABLE] = str(file)
    settings = load_settings()
    write_dagster_home(folder, settings)
    if settings.profile == "local":
        write_version(Platform(settings).blobs)
        (settings.home / "blobs" / INBOX).mkdir(parents=True, exist_ok=True)  # to be seen before the first export
    if classes and not is_new and set(map(plain_class, classes)) != set(settings.labeling.classes):
        console.print(
            f"[yellow]--class was not used[/]: {escape(str(file))} is there already and left alone, with the classes "
            f"{escape(', '.join(settings.labeling.classes) or 'that people answer')}; change labeling.classes there",
            soft_wrap=True,
        )
    console.print(
        f"{file} is ready. Next:\n"
        f"  al --config {file} ingest YOUR_IMAGES\n"
        f"  al ui --home {folder}          then switch on selection_schedule and labeling_export_sensor"
    )


def _say_what_it_costs(encoder: str) -> None:
    """Raises `NoEncoder` where it cannot be used here."""
    from al_core.encoders.contract import NoEncoder
    from al_core.encoders.survey import survey
    from al_core.learning.networks import resolve_device

    device = resolve_device("auto")
    found = survey(encoder, device)
    if found.problem:
        raise NoEncoder(found.problem)
    console.print(
        f"{encoder}: pictures of {found.pixels} pixels, embeddings of {found.width} values, about "
        f"{found.per_second:.3g} pictures a second on this {device.type}; its weights ({found.megabytes:.0f} MB) are "
        "fetched with the first training",
        markup=False,
    )
