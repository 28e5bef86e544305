"""Dagster's runs and events in a PostgreSQL: a round goes on after everything was killed in the middle of it."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from digits_project import digits_toml, oracle
from leaving_out import leave_out
from running_dagster import kill_run_workers, running_dagster, wait_for

from al_cli.dagster_process import POSTGRES_VARIABLE, free_port
from al_cli.digits import store_digits
from al_cli.oracle import answer_waiting
from al_resources.platform import Platform
from al_resources.settings import load_settings

psycopg2 = pytest.importorskip("psycopg2", reason="pip install dagster-postgres")
pytestmark = [pytest.mark.slow, pytest.mark.live, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def database(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of an empty database of a server that runs for the tests alone."""
    if (programs := _programs()) is None:
        leave_out(request, "Dagster on PostgreSQL; `apt-get install postgresql` brings one", "REQUIRE_POSTGRES")
    with tempfile.TemporaryDirectory(prefix="postgres-") as name:  # pytest's own folders are for one user
        yield from _running(Path(name), programs)


def _programs() -> str | None:
    """The folders where PostgreSQL's programs are, as PATH has it; Debian keeps them outside of it."""
    beside = sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")), reverse=True)
    paths = (os.environ.get("PATH", ""), *beside)
    return next((path for path in paths if shutil.which("initdb", path=path)), None)


def _running(folder: Path, path: str) -> Iterator[str]:
    user = _owner(folder)
    data, port = folder / "data", free_port(0)

    def command(name: str, *arguments: str) -> None:
        found = shutil.which(name, path=path)
        assert found is not None
        subprocess.run([found, *arguments], check=True, capture_output=True, user=user, cwd=folder, timeout=120)

    command("initdb", "--pgdata", str(data), "--username", "dagster", "--auth", "trust")
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1"
    command("pg_ctl", "start", "--wait", "--pgdata", str(data), "--log", str(folder / "log"), "--options", options)
    try:
        yield f"postgresql://dagster@127.0.0.1:{port}/postgres"
    finally:
        command("pg_ctl", "stop", "--pgdata", str(data), "--mode", "immediate")


def _owner(folder: Path) -> str | None:
    """PostgreSQL does not run as root: then as another user, whose the folder becomes."""
    if os.geteuid() != 0:
        return None
    user = "postgres" if "postgres" in {entry.pw_name for entry in pwd.getpwall()} else "nobody"
    shutil.chown(folder, user)
    return user


@pytest.fixture
def home(tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch, al: Callable[..., Any]) -> Path:
    monkeypatch.setenv(POSTGRES_VARIABLE, database)
    folder = tmp_path / "home"
    folder.mkdir()
    project = digits_toml(
        labeling=oracle(folder),
        selection={"initial_budget": 120},
        serving={"port": free_port(0)},
        sensors={"export_interval_seconds": 1},
    )
    (folder / "al.toml").write_text(project)
    assert al("init", str(folder), "--storage", "postgres").returncode == 0
    return folder


def test_a_round_goes_on_where_it_was_after_everything_was_killed(
    home: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = home / "al.toml"
    monkeypatch.setenv("AL_CONFIG", str(config))
    platform = Platform(load_settings())
    store_digits(platform)
    with running_dagster(home, config) as dagster:
        runs, reason = dagster.tick_schedule("selection_schedule", "selection")
        assert runs, reason
        wait_for("the selection", lambda: dagster.run(runs[0])["status"] == "SUCCESS", timeout=300)
        [_] = answer_waiting(platform)
        dagster.start_sensor("labeling_export_sensor")
        wait_for(
            "the training step",
            lambda: any(
                step["stepKey"] == "model_checkpoint"
                for run in dagster.runs(dagster__partition="0000")
                for step in run["stepStats"]
            ),
            timeout=300,
        )
        os.killpg(dagster.process_group, signal.SIGKILL)
    kill_run_workers(home)
    with running_dagster(home, config):
        wait_for("a model that serves", lambda: platform.endpoint.state().serving_version == 1, timeout=600)
    assert platform.registry.versions() == [1]
    assert platform.ledgers.read("labels").height == 120
    assert not list(home.rglob("runs.db")), "nothing beside the database"
    with psycopg2.connect(database) as connection, connection.cursor() as cursor:
        cursor.execute("select count(*) from runs")
        assert cursor.fetchone()[0] >= 3, "selection, the training that was killed, and its second try"


def test_a_home_that_keeps_its_runs_elsewhere_is_left_alone(tmp_path: Path, al: Callable[..., Any]) -> None:
    assert al("init", str(tmp_path)).returncode == 0
    before = (tmp_path / "dagster.yaml").read_bytes()
    refused = al("init", str(tmp_path), "--storage", "postgres")
    assert refused.returncode == 1
    assert "is there already and keeps runs elsewhere" in refused.stderr
    assert (tmp_path / "dagster.yaml").read_bytes() == before
    assert json.loads(al("init", str(tmp_path), "--json").stdout)["written"] is False
