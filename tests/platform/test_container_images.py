"""The images of the scoring service and of the loop do their work with what their Dockerfiles install, and no more."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from container_images import INSTALL_SECONDS, built, running, wait_until
from small_models import register_model

from al_cli.dagster_process import free_port
from al_cli.digits import digit_pngs
from al_resources.platform import Platform
from al_resources.settings import Settings

pytestmark = [pytest.mark.slow, pytest.mark.live, pytest.mark.timeout(INSTALL_SECONDS + 300)]


def packages(installed: Path) -> set[str]:
    return {entry.name for entry in (installed / "lib").glob("python*/site-packages/*") if entry.is_dir()}


def test_the_scoring_image_answers_whoever_has_the_token(tmp_path: Path) -> None:
    installed = built("scoring", tmp_path)
    assert not {"dagster", "sklearn", "matplotlib"} & packages(installed)
    home, port = tmp_path / "running", free_port(0)
    platform = Platform(Settings(home=tmp_path / "model"))
    register_model(platform)
    platform.endpoint.create("blue", 1)
    platform.endpoint.set_traffic({"blue": 100})
    told = {"AL_HOME": str(tmp_path / "model"), "AL_SERVING__PORT": str(port), "AL_SERVING__TOKEN": "t" * 32}
    address, admitted = f"http://127.0.0.1:{port}", {"authorization": f"Bearer {'t' * 32}"}

    def is_up() -> bool:
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{address}/health/ready", headers=admitted).status_code == 200
        return False

    with running("scoring", installed, home, ["al", "serve"], told) as process:
        wait_until(process, home, is_up)
        png = digit_pngs()[0][0]
        assert httpx.post(f"{address}/score", content=png).status_code == 401
        answered = httpx.post(f"{address}/score", content=png, headers=admitted)
        assert [row["model_version"] for row in answered.json()] == [1]


def test_the_loops_image_serves_the_code_location_and_runs_the_commands(tmp_path: Path) -> None:
    installed = built("loop", tmp_path)
    home, port = tmp_path / "running", free_port(0)
    project = tmp_path / "project"
    told = {"DAGSTER_HOME": str(project), "AL_CONFIG": str(project / "al.toml")}
    with running("loop", installed, home, ["al", "init", str(project), "--class", "a", "--class", "b"], told) as made:
        assert made.wait(120) == 0, (home / "log").read_text()
    command = ["dagster", "code-server", "start", "--module-name", "al_assets.definitions", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--location-name", "active_learning"]

    def is_up() -> bool:
        asked = [str(installed / "bin" / "dagster"), "api", "grpc-health-check", "--port", str(port)]
        return subprocess.run(asked, capture_output=True, env=told, check=False).returncode == 0

    with running("loop", installed, tmp_path / "location", command, told) as process:
        wait_until(process, tmp_path / "location", is_up)
    assert sys.prefix not in (tmp_path / "location" / "log").read_text(), "nothing comes from the tests' environment"
