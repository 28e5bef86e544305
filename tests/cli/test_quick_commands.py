"""What keeps the commands quick, and what all of them have: how long they take, benchmarks/commands.py measures."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from al_cli.main import COMMANDS, cli

HEAVY = ("torch", "torchvision", "pandas", "dagster", "scipy", "sklearn", "matplotlib", "azure")
NO_FACTS = {"completion"}  # a script for a shell


def imported_by(*arguments: str, config: Path | None = None) -> set[str]:
    """The heavy packages, and those that `al --help` needs not, that a command imports."""
    prefix = ["--config", str(config)] if config else []
    program = (
        "import sys; from al_cli.main import main\n"
        f"sys.argv = ['al', *{[*prefix, *arguments]!r}]\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print('IMPORTED', *{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stderr.rpartition("IMPORTED")[2].split())


def test_help_imports_nothing_that_takes_long() -> None:
    assert imported_by("--help").isdisjoint({*HEAVY, "numpy", "polars", "pyarrow", "pydantic", "rich", "httpx"})


def test_status_imports_what_it_reads_with_and_nothing_else(tmp_path: Path) -> None:
    config = tmp_path / "al.toml"
    config.write_text('home = "data"\n')
    assert imported_by("status", config=config).isdisjoint({*HEAVY, "httpx"})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            '[selection]\nstrategy = "margni"\n',
            "selection.strategy = 'margni': no strategy is called 'margni'",
        ),
        (
            '[selection]\nstrategy = "badge"\nstrategy_settings = {bta = 1}\n',
            "selection.strategy = 'badge': strategy badge has no setting 'bta'",
        ),
        ('[training]\narchitecture = "resnet81"\n', "did you mean resnet18"),
        ('[training]\narchitecture = "tim:resnet18"\n', "there are no models of 'tim'"),
        ('[training]\narchitecture = "timm:"\n', "the name of a model is missing"),
        ('[training]\ntrainer = "my_trainer"\n', "expected module:attribute"),
        ('[training]\ntrainer = "nobody.knows:Me"\n', "no module nobody.knows is found"),
        (
            '[training]\ntrainer = "al_core.learning.torch_trainer:TorchTrianer"\n',
            "al_core.learning.torch_trainer has no TorchTrianer; did you mean TorchTrainer?",
        ),
    ],
)
def test_a_name_that_nobody_knows_is_told_by_whoever_loads_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str
) -> None:
    from al_resources.settings import SettingsError, load_settings

    (tmp_path / "al.toml").write_text(text)
    monkeypatch.setenv("AL_CONFIG", str(tmp_path / "al.toml"))
    with pytest.raises(SettingsError) as error:
        load_settings()
    assert said in str(error.value)


@pytest.mark.parametrize(
    "architecture",
    ["small_cnn", "resnet18", "vit_b_16", "timm:resnet18", "timm:resnet18.a1_in1k", "hf:facebook/dinov2-small"],
)
def test_a_known_encoder_is_known_without_its_package_being_imported(architecture: str) -> None:
    program = (
        "import sys\nfrom al_core.encoders.known_names import check_architecture\n"
        f"check_architecture({architecture!r})\nprint(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"torch", "torchvision", "timm", "transformers"} & set(done.stdout.split())


def test_a_trainer_beside_the_command_is_found_as_the_loops_processes_find_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from al_core.learning.trainer_path import check_trainer_path

    (tmp_path / "mine.py").write_text("raise SystemExit('nothing of it is run')\nclass Mine: ...\n")
    monkeypatch.chdir(tmp_path)
    check_trainer_path("mine:Mine")
    with pytest.raises(ValueError, match="mine has no Other"):
        check_trainer_path("mine:Other")


def test_a_trainer_is_found_where_an_editable_installation_has_a_finder_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from al_core.learning.trainer_path import check_trainer_path

    package = tmp_path / "elsewhere" / "handwork"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('nothing of it is run')\n")
    (package / "own.py").write_text("class Mine: ...\n")

    class EditableFinder:
        @staticmethod
        def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
            return spec_from_file_location(name, package / "__init__.py") if name == "handwork" else None

    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, EditableFinder])
    check_trainer_path("handwork.own:Mine")
    with pytest.raises(ValueError, match=r"no module handwork\.other is found"):
        check_trainer_path("handwork.other:Mine")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_is_taught_to_complete(shell: str) -> None:
    shown = CliRunner().invoke(cli, ["completion", shell])
    assert shown.exit_code == 0
    assert "_AL_COMPLETE" in shown.output


def test_commands_are_completed_with_their_help_and_without_being_imported(al: Callable[..., Any]) -> None:
    program = (
        "import sys\nfrom click.shell_completion import BashComplete\nfrom al_cli.main import cli\n"
        "found = BashComplete(cli, {}, 'al', '_AL_COMPLETE').get_completions([], 'st')\n"
        "print([(one.value, one.help) for one in found], 'al_cli.status' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "('status', 'How the loop stands" in done.stdout
    assert done.stdout.endswith("False\n")


def test_every_command_that_tells_something_tells_it_to_machines() -> None:
    context = cli.make_context("al", [], resilient_parsing=True)

    def those_without(name: str, command: click.Command | None) -> list[str]:
        assert command is not None, name
        options = {option for parameter in command.params for option in parameter.opts}
        if isinstance(command, click.Group):
            within = (those_without(f"{name} {one}", command.get_command(context, one)) for one in command.commands)
            return [found for group in within for found in group]
        return [] if "--json" in options else [name]

    without = {name for command in COMMANDS for name in those_without(command, cli.get_command(context, command))}
    assert without == NO_FACTS | {"query dashboard"}, "the dashboard is a file of JSON"


A_ROUND = {
    "round": 1234,
    "strategy": "power_least_confidence",
    "labeled": 100,
    "selected": 200,
    "training_labels": 12_345,
    "model_version": 1234,
    "accuracy": {"value": 0.1234, "low": 0.1, "high": 0.2},
    "outcome": "promoted",
    "paid": {"strategy": 100},
}


def test_figures_are_whole_in_eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    line = next(line for line in rounds_as_shown([A_ROUND], monkeypatch) if "1234" in line)
    assert len(line.rstrip()) <= 80
    assert line.split()[2:] == ["100/200", "12345", "v1234", "0.123", "[0.100,", "0.200]", "promoted"]


def test_of_many_rounds_the_newest_are_shown_and_what_all_of_them_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = rounds_as_shown([A_ROUND | {"round": number} for number in range(1000)], monkeypatch)
    assert [int(line.split()[0]) for line in shown if line.rstrip().endswith("promoted")] == [*range(980, 1000)]
    assert any("980 earlier rounds: al status --json" in line for line in shown)
    assert any("labels paid: 100000 strategy" in line for line in shown)


def rounds_as_shown(rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    from al_cli.console import HarmlessConsole
    from al_cli.status import rounds_table

    narrow = HarmlessConsole(width=80, highlight=False, record=True, quiet=False)
    monkeypatch.setattr("al_cli.status.console", narrow)
    with narrow.capture() as shown:
        narrow.print(rounds_table(rows))
    return shown.get().splitlines()


def test_quiet_prints_errors_and_json_only(tmp_path: Path, al: Callable[..., Any]) -> None:
    config = tmp_path / "al.toml"
    config.write_text('home = "data"\n')
    assert al("--quiet", "status", config=config).stdout == ""
    assert json.loads(al("--quiet", "status", "--json", config=config).stdout)["waits_for"]["whom"] == "images"
    assert "no such command" in al("--quiet", "statsu").stderr.lower()
