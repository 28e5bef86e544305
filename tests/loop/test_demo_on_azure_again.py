"""The demo on an emulated Azure, whole: people at the labeling page, a batch, and its home opened again by `al ui`."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from running_al import run_al

from al_cli.emulators import ENVIRONMENT, KEPT
from al_cli.people import PersonAtThePage
from emulators.inference_server import installed
from emulators.node_packages import node_modules

pytestmark = [pytest.mark.slow, pytest.mark.live, pytest.mark.timeout(3600)]
pytest.importorskip("duckdb_kql", reason="the emulated Data Explorer: pip install 'duckdb-kql[all]'")
TRAFFIC, PATIENCE = 200, 1800


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A demo of one round after the seed: its home, and what it printed."""
    node_modules()
    installed()
    home = tmp_path_factory.mktemp("demo") / "home"
    options = {"--profile": "azure-emulated", "--rounds": 1, "--traffic": TRAFFIC, "--port": 0, "--home": home}
    done = run_al("demo", *(str(part) for option in options.items() for part in option), "--json", timeout=3000)
    assert done.returncode == 0, "\n".join([done.stderr, *logs(home)])
    return home, json.loads(done.stdout)


def logs(home: Path) -> list[str]:
    return [f"{file.name}: {file.read_text(errors='replace')[-2000:]}" for file in sorted((home / "log").iterdir())]


@contextmanager
def opened_again(home: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """`al ui` on a home: the link to its labeling page, and what leads other terminals to its Azure."""
    with subprocess.Popen(
        [sys.executable, "-u", "-m", "al_cli.main", "ui", "--home", str(home), "--port", "0", "--traffic", "40"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        said = ""
        try:
            assert process.stdout is not None
            for line in process.stdout:
                said += line
                if "Ctrl-C ends it" in line:
                    break
            assert "Ctrl-C ends it" in said, "\n".join([said, *logs(home)])
            exported = (line.removeprefix("export ").partition("=") for line in environment_of(home))
            variables = {name: shlex.split(value)[0] for name, _, value in exported}
            yield re.findall(r"labeling page: (\S+)", said)[0], os.environ | variables
        finally:
            process.send_signal(signal.SIGTERM)
            rest, _ = process.communicate(timeout=120)
    assert "Traceback" not in said + rest


def environment_of(home: Path) -> list[str]:
    return (home / ENVIRONMENT).read_text().splitlines()


def status(home: Path, environment: dict[str, str]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "al_cli.main", "--config", str(home / "al.toml"), "status", "--json"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )
    return dict(json.loads(done.stdout))


def wait(what: str, ready: Callable[[], Any], home: Path) -> Any:
    deadline = time.monotonic() + PATIENCE
    while not (found := ready()):
        assert time.monotonic() < deadline, "\n".join([what, *logs(home)])
        time.sleep(1)
    return found


def test_people_labeled_every_picture_at_the_page(demo: tuple[Path, dict[str, Any]]) -> None:
    facts = demo[1]
    assert [row["labeled"] for row in facts["rounds"]] == [row["selected"] for row in facts["rounds"]]
    assert facts["exports"] == {"merged": 2}
    assert (facts["labeling"]["total"], facts["labeling"]["labeled"]) == (facts["rounds"][-1]["selected"],) * 2


def test_a_folder_was_scored_by_a_job_of_the_batch_endpoint_and_its_answers_are_in_the_log(
    demo: tuple[Path, dict[str, Any]],
) -> None:
    batch = demo[1]["batch"]
    assert batch["job"].startswith("batchjob-")
    assert batch["rows_in_log"] == batch["images"] == 200
    assert demo[1]["predictions"] >= TRAFFIC + 200


def test_what_jobs_and_deployments_printed_lies_beside_the_other_logs(demo: tuple[Path, dict[str, Any]]) -> None:
    home, facts = demo
    names = {file.name for file in (home / "log").iterdir()}
    printed = {f"{row['training_job']}.log" for row in facts["rounds"]} | {f"{facts['batch']['job']}.log"}
    assert printed | {"emulators.log", "label.log", "dagster.log", "digits-blue.log"} <= names


def test_its_home_is_opened_again_and_the_loop_goes_on(demo: tuple[Path, dict[str, Any]]) -> None:
    home, before = demo
    assert {"azurite", "kusto", "workspace"} <= {file.name for file in (home / KEPT).iterdir()}
    with opened_again(home) as (link, environment):
        now = status(home, environment)
        for kept in ("champion", "images", "labels", "exports", "deployments", "traffic"):
            assert now[kept] == before[kept], kept
        assert [row["model_version"] for row in now["rounds"][:2]] == [1, 2]
        assert now["predictions"] >= before["predictions"]
        wait("new traffic", lambda: status(home, environment)["predictions"] > before["predictions"], home)

        truth = json.loads((home / "data/oracle/labels.json").read_text())
        person = PersonAtThePage(link, truth)
        wait("the page", person.is_let_in, home)
        wait("the next round", lambda: person.is_asked(2), home)  # opened by the schedule's clock, for new traffic
        assert person.label(2) > 0
        person.close()
        trained = wait(
            "the next version",
            lambda: [row for row in status(home, environment)["rounds"] if row["round"] == 2 and row["model_version"]],
            home,
        )
        assert trained[0]["model_version"] == 3
    with pytest.raises(httpx.TransportError):
        httpx.get(link, timeout=5)
