"""The README is true: its commands are run, or at least taken by the command line."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import told_commands
from click.testing import CliRunner
from export_files import FOUR_TOOLS
from PIL import Image

from al_cli.dagster_process import Dagster, free_port
from al_cli.main import cli
from al_resources.labeling.inbox import INBOX
from al_resources.platform import Platform
from al_resources.settings import CONFIG_VARIABLE, Settings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
INSTALL = "python3.11 -m venv .venv && .venv/bin/pip install -c constraints.txt -e ."
ACTIVATE = "source .venv/bin/activate"
COLOURS = {"cat": (255, 80, 80), "dog": (80, 80, 255)}


def commands(section: str) -> list[str]:
    """The lines of a section's code blocks, without their comments."""
    return told_commands.lines(README.partition(f"## {section}\n")[2].partition("\n## ")[0])


OWN_IMAGES = commands("Your own images")


@pytest.fixture
def person(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A person's folder with the pictures that the README speaks of, and the environment that it installs."""
    home, rng = tmp_path / "person", np.random.default_rng(0)

    def picture(path: str, label: str) -> None:
        file = home / path
        file.parent.mkdir(parents=True, exist_ok=True)
        noise = rng.integers(0, 120, (24, 24, 3)) + np.array(COLOURS[label]) // 2
        Image.fromarray(noise.astype(np.uint8)).save(file)

    for label in COLOURS:
        for number in range(60):
            picture(f"labeled/{label}/{label}-{number}.png", label)
        for number in range(20):
            picture(f"pictures/2024/{label} {number}.png", label)
        for number in range(3):
            picture(f"more-pictures/new-{label}-{number}.png", label)
    (home / "work").mkdir()
    picture("work/photo.jpg", "cat")
    (home / "work" / ".venv").symlink_to(ROOT / ".venv", target_is_directory=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(home / "work")
    return home


def test_the_environment_is_made_and_activated_before_al_is_called() -> None:
    assert OWN_IMAGES[:2] == [INSTALL, ACTIVATE]
    assert (ROOT / "constraints.txt").is_file()


def test_the_commands_that_end_by_themselves_do_what_is_said(person: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CONFIG_VARIABLE, raising=False)
    for line in OWN_IMAGES:
        if line.startswith("al ") and not line.startswith(("al start", "al ui", "al --config cats/al.toml score")):
            monkeypatch.setenv(CONFIG_VARIABLE, "")  # to be set back: the command sets it for good
            done = CliRunner().invoke(cli, shlex.split(line.replace("~", str(person)))[1:], catch_exceptions=False)
            assert done.exit_code == 0, (line, done.output)
    platform = Platform(Settings(home=person / "work" / "cats" / "data"))
    assert platform.images.count() == 160
    assert [blob.path for blob in platform.blobs.list(INBOX)] == [f"{INBOX}/imports/{_only_import(platform)}"]


def _only_import(platform: Platform) -> str:
    (blob,) = platform.blobs.list(f"{INBOX}/imports")
    return blob.path.rpartition("/")[2]


@pytest.mark.slow
@pytest.mark.live
@pytest.mark.timeout(1_500)
def test_a_project_of_ones_own_from_the_first_command_to_a_scored_photo(person: Path) -> None:
    """On a live instance; four tools' files in the inbox, each merged by a run of its own and trained on."""
    port = free_port(0)
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "AL_SERVING__PORT": str(port),
        "AL_HOLDOUT__RESERVE": "0.4",
        "AL_TRAINING__IMAGE_SIZE": "16",
        "AL_TRAINING__EPOCHS": "2",
    }

    def shell(line: str) -> str:
        script = f"{ACTIVATE}; {line.replace('127.0.0.1:8808', f'127.0.0.1:{port}')}"
        done = subprocess.run(["bash", "-ec", script], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (line, done.stdout[-1000:], done.stderr[-2000:])
        return done.stdout

    init, ingest, ui, dry_run, bring, curl, score = [line for line in OWN_IMAGES[2:] if "al start" not in line]
    for line in (init, dry_run, bring):
        shell(line)
    running = subprocess.Popen(["bash", "-ec", f"{ACTIVATE}; exec {ui} --port 0"], env=environment, text=True,
                               stdout=subprocess.PIPE)  # fmt: skip
    try:
        dagster = _dagster_of(running)
        dagster.start_sensor("labeling_export_sensor")
        dagster.start_sensor("next_round_sensor")
        platform = Platform(Settings(home=person / "work" / "cats" / "data"))
        _until(lambda: platform.endpoint.state().serving_version == 1, platform)
        shell(ingest)
        own = sorted((person / "pictures").rglob("*.png"))
        for number, (name, write) in enumerate(FOUR_TOOLS.items()):
            part = {file.name: file.name.partition(" ")[0] for file in own[number::4]}
            platform.blobs.write(f"{INBOX}/{name}", write(part))
        paths = {f"{INBOX}/{name}" for name in FOUR_TOOLS}
        merged = lambda: platform.ledgers.read("exports", status="merged")  # noqa: E731
        _until(lambda: paths <= set(merged()["path"]), platform)
        _until(lambda: _labels_of_newest_model(platform) == 160, platform)
        assert merged()["set_aside"].sum() == 0
        assert '"label"' in shell(curl) or "prediction" in shell(curl)
        assert "6" in shell(score)
        assert "new-cat-0.png" in shell("al --config cats/al.toml trace new-cat-0.png"), "the name of a scored file"
    finally:
        running.send_signal(signal.SIGINT)
        running.wait(60)


def _dagster_of(running: subprocess.Popen[str]) -> Dagster:
    assert running.stdout is not None
    for said in running.stdout:
        if (link := re.search(r"(http://127.0.0.1:\d+)/\?token=(\S+)", said)) and "Dagster UI" in said:
            return Dagster(link[1], running.pid, link[2])
    raise AssertionError("al ui ended before it said where the UI is")


def _labels_of_newest_model(platform: Platform) -> int:
    versions = platform.registry.versions()
    newest = platform.registry.manifest(versions[-1])
    return platform.datasets.of_version(newest.dataset_version).rows.height


def _until(done: Callable[[], Any], platform: Platform) -> None:
    deadline = time.monotonic() + 600
    while not done():
        failures = platform.ledgers.read("failures")
        assert failures.is_empty(), failures["reason"].to_list()
        assert time.monotonic() < deadline, platform.ledgers.read("exports").to_dicts()
        time.sleep(0.5)
