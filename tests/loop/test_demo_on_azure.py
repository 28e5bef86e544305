"""The whole loop on Azure, emulated: a container, a queue of events, Data Explorer and an Azure ML workspace."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from running_al import FinishedDemo, run_al

from emulators.inference_server import installed
from emulators.node_packages import node_modules

pytestmark = [pytest.mark.slow, pytest.mark.live, pytest.mark.timeout(1800)]
pytest.importorskip("duckdb_kql", reason="the emulated Data Explorer: pip install 'duckdb-kql[all]'")
ROUNDS, TRAFFIC = 1, 200


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A demo of one round after the seed: its home, and what it printed."""
    node_modules()
    installed()
    home = tmp_path_factory.mktemp("demo") / "home"
    options = {"--profile": "azure-emulated", "--rounds": ROUNDS, "--traffic": TRAFFIC, "--port": 0, "--home": home}
    done = run_al("demo", *(str(part) for option in options.items() for part in option), "--json")
    logs = [file.read_text()[-2000:] for file in sorted((home / "log").glob("*.log"))]
    assert done.returncode == 0, "\n".join([done.stderr, *logs])
    return home, json.loads(done.stdout)


def test_every_round_was_selected_labeled_trained_and_judged(demo: tuple[Path, dict[str, Any]]) -> None:
    rounds = demo[1]["rounds"]
    assert [row["round"] for row in rounds] == list(range(ROUNDS + 1))
    for row in rounds:
        assert row["labeled"] == row["selected"] > 0
        assert row["outcome"] in {"promoted", "passed", "open", "worse"}
    assert demo[1]["predictions"] >= TRAFFIC * ROUNDS
    assert demo[1]["waiting_for_labels"] == 0


def test_every_model_is_as_good_as_with_the_embedded_stores(
    demo: tuple[Path, dict[str, Any]], finished_demo: FinishedDemo
) -> None:
    """Same images, same seeds; training on several threads is what differs, and less than the intervals tell apart."""
    for here, there in zip(demo[1]["rounds"], finished_demo.result["rounds"], strict=False):
        mine, theirs = here["accuracy"], there["accuracy"]
        assert mine["low"] <= theirs["high"]
        assert theirs["low"] <= mine["high"]


def test_every_model_was_trained_by_a_job_and_is_a_version_in_the_workspace(demo: tuple[Path, dict[str, Any]]) -> None:
    rounds = demo[1]["rounds"]
    jobs = [row["training_job"] for row in rounds]
    assert len(set(jobs)) == len(rounds)
    assert all(job.startswith("digits-") for job in jobs)
    assert [row["model_version"] for row in rounds] == [1, 2]


def test_the_endpoint_answers_with_the_champion_and_keeps_the_one_before(demo: tuple[Path, dict[str, Any]]) -> None:
    facts = demo[1]
    champion = facts["champion"]
    promoted = [row["model_version"] for row in facts["rounds"] if row["outcome"] == "promoted"]
    assert champion == promoted[-1]
    assert {facts["deployments"][name] for name, share in facts["traffic"].items() if share == 100} == {champion}
    assert sorted(facts["deployments"].values()) == promoted, "blue and green: ready to go back to"
    assert not (demo[0] / "log" / "serve.log").exists(), "nothing on this machine scored"


def test_every_event_was_taken_care_of(demo: tuple[Path, dict[str, Any]]) -> None:
    assert demo[1]["profile"] == "azure"
    assert demo[1]["exports"] == {"merged": ROUNDS + 1}
    assert demo[1]["events"]["poison"] == 0
    assert demo[1]["events"]["waiting"] <= 1, "the last one is deleted at the tick after it"


def test_nothing_of_the_data_lies_on_this_machine(demo: tuple[Path, dict[str, Any]]) -> None:
    home, _ = demo
    assert 'profile = "azure"' in (home / "al.toml").read_text()
    assert 'blob_account_url = "http://127.0.0.1:' in (home / "al.toml").read_text()
    assert not (home / "data" / "blobs").exists()
    assert not (home / "data" / "tables").exists()
