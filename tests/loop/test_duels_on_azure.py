"""Duels on Azure, emulated: their rows and their verdicts lie in Data Explorer, the answers beside the model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from emulators.inference_server import installed
from emulators.node_packages import node_modules

pytestmark = [pytest.mark.slow, pytest.mark.live, pytest.mark.timeout(3600)]
pytest.importorskip("duckdb_kql", reason="the emulated Data Explorer: pip install 'duckdb-kql[all]'")
ROUNDS, TRAFFIC = 2, 400
STRICT = {"AL_GATE__TOLERANCE": "0", "AL_GATE__CONFIDENCE": "0.9999"}  # so that the first challenger's verdict is open


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a demo of two rounds printed."""
    node_modules()
    installed()
    home = tmp_path_factory.mktemp("duels") / "home"
    options = {"--profile": "azure-emulated", "--rounds": ROUNDS, "--traffic": TRAFFIC, "--port": 0, "--home": home}
    command = [sys.executable, "-m", "al_cli.main", "demo", *(str(part) for one in options.items() for part in one)]
    done = subprocess.run(
        [*command, "--json"], env=os.environ | STRICT, capture_output=True, text=True, timeout=3000, check=False
    )
    logs = [file.read_text()[-2000:] for file in sorted((home / "log").glob("*.log"))]
    assert done.returncode == 0, "\n".join([done.stderr, *logs])
    return dict(json.loads(done.stdout))


def test_an_open_verdict_brings_duels_into_the_next_batch_and_people_answer_them(told: dict[str, Any]) -> None:
    first, second, third = told["rounds"]
    assert (told["profile"], first["outcome"], second["outcome"]) == ("azure", "promoted", "open")
    assert "duel" not in second["paid"]
    assert third["paid"]["duel"] > 0
    assert sum(third["paid"].values()) == third["labeled"] == third["selected"]
    assert told["champion"] == first["model_version"]


def test_their_labels_count_in_the_next_verdict(told: dict[str, Any]) -> None:
    second, third = told["rounds"][1:]
    assert _labels_of(third["gate"]) >= _labels_of(second["gate"]) + third["paid"]["duel"] // 2


def _labels_of(verdict: str) -> int:
    """Of "... won 3, lost 1 of 5 labeled images of these; ..."."""
    return int(verdict.partition(" labeled images of these")[0].rpartition(" ")[2])
