"""The `al` command: a group that imports a command's module only when that command is called."""

from __future__ import annotations

import gc
import importlib
import io
import os
import sys
import traceback
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from al_core.errors import ActiveLearningError
from al_core.shown_text import harmless_lines

# command -> (module, one line of help shown without importing it)
COMMANDS = {
    "demo": (
        "al_cli.demo",
        "Watch a model learn from the right labels: the whole loop on handwritten digits.",
    ),
    "start": ("al_cli.start", "Begin with a folder of your own pictures: label, and a model is trained and served."),
    "ui": ("al_cli.ui", "Open the Dagster UI on an instance and keep its loop alive."),
    "init": ("al_cli.init", "Write al.toml, dagster.yaml and workspace.yaml for a project of your own."),
    "ingest": ("al_cli.ingest", "Add a folder of images to the image store."),
    "label": ("al_cli.label", "Open the page on which people label what was selected."),
    "import": ("al_cli.import_labels", "Bring labels in that exist already, from whatever tool."),
    "export": ("al_cli.export_labels", "Write all labels to a file that other tools read."),
    "classes": ("al_cli.classes", "The classes and how many labels each has; rename or merge them."),
    "serve": ("al_cli.serve", "Run the scoring service: POST /score."),
    "score": ("al_cli.score", "Score a folder of images in batch, into the same log."),
    "strategies": ("al_cli.strategies", "The query strategies, what they need and what they cost."),
    "embed": ("al_cli.embed", "Embed a folder or the image store now, so that nothing waits for it later."),
    "encoders": ("al_cli.encoders", "The encoders that can be used here, how large and how fast they are."),
    "select": ("al_cli.select", "Show which images would be chosen now, and why."),
    "find": ("al_cli.find", "Find images without a label that resemble pictures, a class or a text."),
    "simulate": ("al_cli.simulate", "Prove on your own data how many labels active learning saves."),
    "oracle": ("al_cli.oracle", "Let known labels answer what waits for people."),
    "launch": ("al_cli.launch", "Have a Dagster that runs elsewhere look now, and wait for what it starts."),
    "status": ("al_cli.status", "How the loop stands: rounds, labels, models, what it waits for."),
    "query": ("al_cli.query", "What the log says over time: volume, confidence, classes, latency, drift."),
    "trace": (
        "al_cli.trace",
        "Where an image, a model version or a deployment comes from and what became of it.",
    ),
    "forget": ("al_cli.forget", "Erase an image and all that was said of it, for good."),
    "hold": ("al_cli.deciding", "Deploy nothing until `al release`; the loop selects and trains on."),
    "release": ("al_cli.deciding", "Let the loop deploy again."),
    "rollback": ("al_cli.deciding", "Go back to a version that served before, and say why."),
    "promote": ("al_cli.deciding", "Let a version serve whatever the gate says, and say why."),
    "azure": ("al_cli.azure", "Set up container, queues, tables and policies in a subscription."),
    "upgrade": ("al_cli.upgrade", "Bring a home that an earlier version wrote up to date."),
    "doctor": ("al_cli.doctor", "Check the installation and print every setting with its source."),
    "completion": ("al_cli.completion", "What a shell needs to complete the commands and options."),
}


OVER_AT_ONCE = {"status"}  # commands that read a little, print it, and end: nothing of theirs has to be collected


class LazyGroup(click.Group):
    """Knows its commands by name and imports one when it is needed: `al --help` must not load torch."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: D102
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: D102
        if cmd_name not in COMMANDS:
            return None
        if cmd_name not in OVER_AT_ONCE:
            gc.enable()
        module = COMMANDS[cmd_name][0]
        # a module that holds one command bears its name; one that holds several has each by its own
        loaded = importlib.import_module(module)
        command: click.Command = getattr(loaded, cmd_name, None) or getattr(loaded, module.rpartition(".")[2])
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The names of commands with their help; none is imported for it."""
        names = [CompletionItem(name, help=text) for name, (_, text) in COMMANDS.items() if name.startswith(incomplete)]
        return names if not incomplete.startswith("-") else click.Command.shell_complete(self, ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: D102
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Settings file; otherwise $AL_CONFIG, otherwise al.toml in this directory.",
)
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors, and JSON where it is asked for.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error as well.")
@click.version_option(package_name="active-learning-platform")
def cli(config: Path | None, quiet: bool, debug: bool) -> None:
    """Active learning for images: score, select, label, train, gate, deploy, repeat.

    New here? Type `al demo`, or `al start FOLDER` with pictures of your own.
    """
    del debug  # looked at where errors end up, in `main`
    if config is not None:
        os.environ["AL_CONFIG"] = str(config.resolve())
    if quiet:
        from al_cli.console import console

        console.quiet = True


def main() -> None:
    """Entry point: what a person can mend, and what Azure refuses, is one line; `--debug` shows where it was raised."""
    # pydantic would search every installed distribution for plugins, a tenth of a second in each process of the loop
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    gc.disable()  # until it is known which command it is; a sixth of `al status` went into collecting what was imported
    try:
        cli(standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as error:
        said = io.StringIO()
        error.show(said)
        click.echo(harmless_lines(said.getvalue()), err=True, nl=False)
        sys.exit(error.exit_code)
    except ActiveLearningError as error:
        from al_resources.settings import SettingsError

        _traceback_if_asked_for()
        click.echo(harmless_lines(f"Error: {error}"), err=True)
        sys.exit(2 if isinstance(error, SettingsError) else 1)
    except Exception as error:
        if not type(error).__module__.startswith("azure."):
            raise
        _traceback_if_asked_for()
        told = harmless_lines(f"Error: {type(error).__name__}: {error}")
        click.echo(f"{told}\n`al doctor` asks every address and names what helps", err=True)
        sys.exit(1)


def _traceback_if_asked_for() -> None:
    if "--debug" in sys.argv[1:]:
        traceback.print_exc()


if __name__ == "__main__":
    main()
