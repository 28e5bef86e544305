"""What is made from the code: settings, commands, the table of strategies, and files of deploy/azure.

`python docs/reference.py` writes them; a test compares them with the code.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal, get_args, get_origin

import click
from pydantic.fields import FieldInfo

DOCS = Path(__file__).parent
AZURE = DOCS.parent / "deploy/azure"
TABLES = AZURE / "tables.kql"
BEGIN, END = "<!-- strategies: made by docs/reference.py -->", "<!-- end of strategies -->"
WIDTH = 100  # of a command's help


def pages() -> dict[Path, str]:
    """Every page that is made, whole."""
    strategies = DOCS / "strategies.md"
    before, _, rest = strategies.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    return {
        DOCS / "settings.md": settings_page(),
        DOCS / "commands.md": commands_page(),
        strategies: f"{before}{BEGIN}\n{strategies_table()}{END}{after}",
        TABLES: tables_script(),
        AZURE / "dashboard.json": dashboard_file(),
        AZURE / "log.ipynb": notebook_file(),
    }


def tables_script() -> str:
    """The set-up of the database, as `al azure init` does it, for the template that deploys all of Azure."""
    from al_resources.azure.data_explorer import setup_commands

    return "\n\n".join(["// Made by docs/reference.py from what `al azure init` does.", *setup_commands()]) + "\n"


def dashboard_file() -> str:
    """The dashboard of Data Explorer, with the defaults' names and no cluster of anybody."""
    from al_loop.dashboard import dashboard
    from al_resources.settings import ModelSettings
    from al_resources.settings.azure_data import AzureDataSettings

    database = AzureDataSettings().kusto_database
    made = dashboard(ModelSettings().name, "https://<cluster>.<region>.kusto.windows.net", database)
    return json.dumps(made, indent=2) + "\n"


def notebook_file() -> str:
    """The notebook that asks the same."""
    from al_loop.dashboard import notebook

    return json.dumps(notebook(), indent=1) + "\n"


def settings_page() -> str:
    """Every setting with its default and what it means, section by section."""
    from al_resources.settings import setting_keys

    lines = [
        "# Settings",
        "",
        "Everything that can be set in `al.toml`. `AL_SELECTION__BUDGET=100` in the environment sets",
        "`selection.budget` and wins over the file; `al doctor` prints every value with its source.",
    ]
    section = None
    for key, field in setting_keys():
        name, dot, leaf = key.partition(".")
        if name != section:
            section = name
            title = f"## [{name}]" if dot else f"## {name}"
            lines += ["", title, "", "| setting | values | default | what it does |", "|---|---|---|---|"]
        shown = f"`{leaf or name}`"
        lines.append(f"| {shown} | {_values(field)} | {_default(field)} | {_cell(field.description or '')} |")
    return "\n".join(lines) + "\n"


def commands_page() -> str:
    """The help of every command."""
    from al_cli.main import COMMANDS, cli

    context = cli.make_context("al", [], resilient_parsing=True)  # its settings hold for the commands, too
    lines = ["# Commands", "", "What `al COMMAND --help` says.", ""]
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        lines += _help(command, click.Context(command, info_name=name, parent=context, terminal_width=WIDTH))
    return "\n".join(lines)


def _help(command: click.Command, context: click.Context) -> list[str]:
    context.max_content_width = WIDTH
    lines = [f"## {context.command_path}", "", "```", command.get_help(context), "```", ""]
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            lines += _help(inner, click.Context(inner, info_name=name, parent=context, terminal_width=WIDTH))
    return lines


def strategies_table() -> str:
    """What `al strategies` knows of every strategy."""
    from al_core.strategies.registry import STRATEGIES, get_strategy

    lines = ["| strategy | needs | prefilter | complexity | source |", "|---|---|---|---|---|"]
    for name in STRATEGIES:
        strategy = get_strategy(name)
        stored = strategy.order(0) is not None
        needs = ", ".join(sorted(strategy.needs)) or ("probs" if stored and name != "random" else "-")
        prefilter = "the store itself" if stored else strategy.prefilter
        lines.append(f"| `{name}` | {needs} | {prefilter} | {_cell(strategy.cost)} | {_cell(strategy.reference)} |")
    return "\n".join(lines) + "\n"


def _values(field: FieldInfo) -> str:
    if get_origin(field.annotation) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(field.annotation))
    bounds = [
        f"{sign} {getattr(rule, name)}" for rule in field.metadata for name, sign in _BOUNDS if hasattr(rule, name)
    ]
    kind = getattr(field.annotation, "__name__", str(field.annotation)).replace("|", "or")
    return _cell(" ".join([kind, *bounds]))


_BOUNDS = (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<"))


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    return f"`{value.as_posix() if isinstance(value, Path) else value!r}`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text)
        print(path.relative_to(DOCS.parent))
