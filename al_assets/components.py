"""`al_assets.components.Loop`: a loop as a component, for code locations that are somebody else's.

`dg scaffold defs al_assets.components.Loop cats` writes `defs.yaml` and, where no settings file is named, `al.toml`.
"""

from __future__ import annotations

import os
from pathlib import Path

import dagster as dg
from pydantic import BaseModel, Field

from al_assets.definitions_of_loops import loop_definitions
from al_assets.loop_names import LoopNames
from al_assets.resources import PlatformResource
from al_resources.settings import SettingsError, load_settings

SETTINGS_FILE = """\
# The settings of this loop; `al --config {file} doctor` prints them all.
home = "{home}"          # its own: images, labels, models; relative to this file

[model]
name = "{name}"
"""
HOME_VARIABLE = "AL_HOME"


class LoopParams(BaseModel):
    """What `dg scaffold defs` asks for."""

    settings: str = Field("", description="a settings file that exists, relative to the new folder; empty writes one")


class LoopScaffolder(dg.Scaffolder[LoopParams]):
    """Writes `defs.yaml`, and the settings file of the loop where none is named."""

    @classmethod
    def get_scaffold_params(cls) -> type[LoopParams]:
        """The options of the command."""
        return LoopParams

    def scaffold(self, request: dg.ScaffoldRequest[LoopParams]) -> None:
        """Into the new folder, whose name becomes the key prefix."""
        folder = request.target_path
        name = LoopNames((folder.name,)).prefix[0]
        settings = request.params.settings or "al.toml"
        file = folder / settings
        if not request.params.settings and not file.exists():
            home = os.path.relpath((request.project_root or folder) / ".al" / name, folder)
            model = f"{name.lower()}" if name[:1].isalpha() else f"model_{name.lower()}"
            file.write_text(SETTINGS_FILE.format(file=file.name, home=home, name=model))
        dg.scaffold_component(request, {"settings": settings, "key_prefix": name})


@dg.scaffold_with(LoopScaffolder)
class Loop(dg.Component, dg.Resolvable, dg.Model):
    """An active-learning loop: the five assets of one model, their checks, jobs, sensors and schedule.

    Several loops live in one instance, each with its own settings file, home and key prefix. The environment's `AL_*`
    variables hold for all of them.
    """

    settings: str = Field(description="settings file of this loop, relative to this folder, like al.toml")
    key_prefix: str = Field(description="what its asset keys and all its names begin with: cats, or shop/cats")

    @classmethod
    def get_spec(cls) -> dg.ComponentTypeSpec:
        """What tools show of this type."""
        return dg.ComponentTypeSpec(
            description="Active learning for one image classifier: score, select, label, train, judge, deploy.",
            tags=["active-learning", "machine-learning"],
            produces=["asset", "asset_check", "job", "schedule", "sensor", "resource"],
        )

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """Everything of this loop.

        Raises:
            SettingsError: the settings cannot be used, or another loop has the same home.
            InvalidInput: the key prefix cannot be a name in Dagster.
        """
        file = (Path(context.path) / self.settings).resolve()
        prefix = tuple(self.key_prefix.split("/"))
        settings = load_settings(file)
        if HOME_VARIABLE in os.environ:
            raise SettingsError(
                f"{HOME_VARIABLE} is set, and would be the home of every loop: unset it, and set home in {file}"
            )
        _take_home(settings.home, self.key_prefix)
        return loop_definitions(settings, PlatformResource(settings_file=str(file)), prefix)


_homes: dict[Path, str] = {}  # of the loops that this process has loaded


def _take_home(home: Path, prefix: str) -> None:
    """Raises `SettingsError` where the home is another loop's: two loops would take each other's labels."""
    owner = _homes.setdefault(home, prefix)
    if owner != prefix:
        raise SettingsError(f"home = {str(home)!r} is the home of the loop {owner}, too; give {prefix} one of its own")
