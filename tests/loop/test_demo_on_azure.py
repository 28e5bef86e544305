"""The whole loop with a container, a queue of events and Data Explorer in place of the embedded stores."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import FinishedDemo
from emulators.node_packages import NotInstalled, node_modules

pytestmark = [pytest.mark.live, pytest.mark.timeout(900)]
pytest.importorskip("duckdb_kql", reason="the emulated Data Explorer: pip install 'duckdb-kql[all]'")
ROUNDS = 2


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, al: Callable[..., Any]) -> tuple[Path, dict[str, Any]]:
    """A demo of two rounds after the seed: its home, and what it printed."""
    try:
        node_modules()
    except NotInstalled as reason:
        pytest.skip(str(reason))
    home = tmp_path_factory.mktemp("demo") / "home"
    done = al(
        "demo", "--profile", "azure-emulated", "--home", str(home), "--rounds", str(ROUNDS), "--port", "0", "--json"
    )
    logs = [
        (home / "log" / name).read_text()[-2000:] for name in ("dagster.log", "serve.log") if (home / "log").is_dir()
    ]
    assert done.returncode == 0, "\n".join([done.stderr, *logs])
    return home, json.loads(done.stdout)


def test_every_round_was_selected_labeled_trained_and_judged(demo: tuple[Path, dict[str, Any]]) -> None:
    rounds = demo[1]["rounds"]
    assert [row["round"] for row in rounds] == list(range(ROUNDS + 1))
    for row in rounds:
        assert row["labeled"] == row["selected"] > 0
        assert row["outcome"] in {"promoted", "refused"}
    assert demo[1]["predictions"] >= 500 * ROUNDS
    assert demo[1]["waiting_for_labels"] == 0


def test_every_model_is_as_good_as_with_the_embedded_stores(
    demo: tuple[Path, dict[str, Any]], finished_demo: FinishedDemo
) -> None:
    """Same images, same seeds; training on several threads is what differs, and less than the intervals tell apart."""
    for here, there in zip(demo[1]["rounds"], finished_demo.result["rounds"], strict=False):
        mine, theirs = here["accuracy"], there["accuracy"]
        assert mine["low"] <= theirs["high"]
        assert theirs["low"] <= mine["high"]


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
