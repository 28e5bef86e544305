"""The documentation says what the code does: pages that are made from it are as they would be made now."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import told_commands

ROOT = Path(__file__).parents[1]


def reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs" / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_settings_commands_and_strategies_are_those_of_the_code() -> None:
    """By a process of its own: a command remembers the help option with which a test before asked it first."""
    pages = reference().pages
    written = "import json, sys; sys.path.insert(0, 'docs'); import reference as made; "
    written += "print(json.dumps({str(path): text for path, text in made.pages().items()}))"
    result = subprocess.run([sys.executable, "-c", written], cwd=ROOT, capture_output=True, text=True, check=True)
    made = json.loads(result.stdout)
    assert {str(path) for path in pages()} == made.keys()
    for path, text in made.items():
        assert Path(path).read_text() == text, f"{Path(path).name} is out of date: make docs"


@pytest.mark.parametrize("page", ["architecture.md", "decisions.md", "glossary.md"])
def test_files_that_are_named_exist(page: str) -> None:
    """Paths in backticks that look like files or folders of ours."""
    text = (ROOT / "docs" / page).read_text()
    ours = re.compile(r"(al_\w+|tests|docs|sensors|simulation|emulators|benchmarks|deploy)/")
    named = {name for name in re.findall(r"`([\w./]+)`", text) if ours.match(name)}
    missing = sorted(name for name in named if not (ROOT / name).exists())
    assert missing == []


def test_every_command_and_every_setting_is_described() -> None:
    from al_cli.main import COMMANDS
    from al_resources.settings import setting_keys

    assert [name for name, (_, text) in COMMANDS.items() if not text] == []
    assert [key for key, field in setting_keys() if not field.description] == []


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_command_that_is_told_is_one_that_the_command_line_takes(page: Path) -> None:
    """Those in sentences and tables, too; nothing is run: that is done on a demo's home, in tests/loop/test_demo.py."""
    from al_cli.main import cli

    for line in told_commands.of_al(page.read_text()):
        told_commands.taken(cli, line)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_module_or_target_that_is_told_to_be_run_is_there(page: Path) -> None:
    text = page.read_text()
    for module in set(re.findall(r"python -m (benchmarks(?:\.\w+)?)", text)):
        assert importlib.util.find_spec(module) is not None, module
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z-]+)", text)) <= targets
    for script in set(re.findall(r"python (docs/\w+\.py)", text)):
        assert (ROOT / script).is_file(), script
