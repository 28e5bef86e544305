"""`al query`: the same facts for people and machines, and the question in KQL."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest

from al_core.records import prediction_table, utc_now
from al_resources.platform import Platform
from al_resources.settings import load_settings

Al = Callable[..., CompletedProcess[str]]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An instance with two predictions, of a class whose name is markup."""
    folder = tmp_path_factory.mktemp("query")
    (folder / "al.toml").write_text("home = 'home'\n")
    rows = prediction_table(
        image_ids=[f"{n:032x}" for n in range(2)],
        image_uris=[""] * 2,
        image_hashes=[None] * 2,
        model_name="classifier",
        model_version=1,
        classes=("[red]'cat'", "dog"),
        probs=np.array([[0.75, 0.25]] * 2),
        source="online",
        latency_ms=[2.0, 4.0],
        logged_at=utc_now() - timedelta(hours=1),
    )
    Platform(load_settings(home=folder / "home")).predictions.append(rows)
    return folder / "al.toml"


def test_a_question_is_answered_as_a_table(al: Al, config: Path) -> None:
    done = al("query", "classes", config=config)
    assert done.returncode == 0, done.stderr
    assert "[red]'cat'" in done.stdout
    assert "1.000" in done.stdout


def test_a_question_is_answered_as_json(al: Al, config: Path) -> None:
    (row,) = json.loads(al("query", "latency", "--since", "2d", "--json", config=config).stdout)
    assert (row["answers"], row["median_ms"], row["longest_ms"]) == (2, 2.0, 4.0)


def test_the_question_in_kql_needs_no_database(al: Al, config: Path) -> None:
    shown = al("query", "volume", "--version", "3", "--since", "2026-01-31", "--show-kql", config=config).stdout
    assert shown.startswith('let _name = dynamic(["classifier"]);\n')
    assert "let _since = datetime(2026-01-31T00:00:00+00:00);" in shown
    assert "| where model_version == _version" in shown


def test_a_time_that_is_none_is_explained(al: Al, config: Path) -> None:
    done = al("query", "volume", "--since", "yesterday", config=config)
    assert done.returncode == 2
    assert "'yesterday' is neither an age (90m, 36h, 7d, 4w) nor a date" in done.stderr


def test_the_status_shows_what_waits_in_the_spool(al: Al, config: Path) -> None:
    spool = config.parent / "home" / "spool" / "0"
    spool.mkdir(parents=True)
    (spool / "0-predictions.arrow").touch()
    (spool / "1-predictions.arrow.unreadable").touch()
    facts = json.loads(al("status", "--json", config=config).stdout)
    assert (facts["spooled_segments"], facts["segments_set_aside"], facts["failed_ingestions"]) == (1, 1, [])
    assert "1 segments of predictions wait for the log, 1 for a person" in al("status", config=config).stdout
