"""`al query`: the same facts for people and machines, and the question in KQL."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from subprocess import CompletedProcess
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest

from al_core.records import prediction_table, utc_now
from al_resources.platform import Platform
from al_resources.settings import load_settings

if TYPE_CHECKING:
    from emulators.kusto import KustoEmulator

Al = Callable[..., CompletedProcess[str]]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An instance with two predictions, of a class whose name is markup."""
    folder = tmp_path_factory.mktemp("query")
    (folder / "al.toml").write_text("home = 'home'\n")
    Platform(load_settings(home=folder / "home")).predictions.append(two_predictions())
    return folder / "al.toml"


def two_predictions() -> pa.Table:
    return prediction_table(
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


def test_a_question_is_answered_as_a_table(al: Al, config: Path) -> None:
    done = al("query", "classes", config=config)
    assert done.returncode == 0, done.stderr
    assert "[red]'cat'" in done.stdout
    assert "1.000" in done.stdout


@pytest.mark.parametrize("question", ["confidence", "classes"])
def test_a_figure_is_never_cut(al: Al, config: Path, question: str) -> None:
    shown = al("query", question, "--every", "5m", config=config).stdout
    assert max(map(len, shown.splitlines())) <= 80
    assert "…" not in shown


def test_where_there_is_nothing_that_is_said(al: Al, config: Path) -> None:
    shown = al("query", "volume", "--since", "2020-01-01", "--until", "2020-01-02", config=config).stdout
    assert shown == "no predictions of classifier from 2020-01-01 00:00 to 2020-01-02 00:00\n"


def test_a_question_is_answered_as_json(al: Al, config: Path) -> None:
    (row,) = json.loads(al("query", "latency", "--since", "2d", "--json", config=config).stdout)
    assert (row["answers"], row["median_ms"], row["longest_ms"]) == (2, 2.0, 4.0)


def test_the_question_in_kql_needs_no_database(al: Al, config: Path) -> None:
    shown = al("query", "volume", "--version", "3", "--since", "2026-01-31", "--show-kql", config=config).stdout
    assert shown.startswith('let _name = dynamic(["classifier"]);\n')
    assert "let _since = datetime(2026-01-31T00:00:00+00:00);" in shown
    assert "| where model_version == _version" in shown


def test_drift_and_accuracy_say_what_they_wait_for(al: Al, config: Path) -> None:
    assert al("query", "drift", config=config).stdout == "drift no model serves yet\n"
    assert "answered 2 images so far; a reference needs 200" in _after_a_day(al, config)
    facts = json.loads(al("query", "accuracy", "--version", "1", "--json", config=config).stdout)
    assert facts == {"sentence": "no control image of v1 has a label yet", "surely_lower": False, "points": []}
    shown = al("query", "drift", "--version", "1", "--show-kql", config=config).stdout
    assert shown.startswith('let _name = dynamic(["classifier"]);\n')
    assert "| take 1000" in shown


def _after_a_day(al: Al, config: Path) -> str:
    """`al query drift` with a reference that may be drawn at once."""
    at_once = config.with_name("at-once.toml")
    at_once.write_text("home = 'home'\n[monitoring]\nreference_days = 0\n")
    return al("query", "drift", "--version", "1", config=at_once).stdout


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


# ---------------------------------------------------------------------- on Data Explorer
@pytest.fixture
def on_azure(tmp_path: Path) -> Iterator[tuple[Path, KustoEmulator]]:
    """Settings of the Azure profile, and the emulated cluster they lead to: nothing is set up there."""
    pytest.importorskip("duckdb")
    from emulators.azurite import shared_azurite
    from emulators.kusto import KustoEmulator

    storage = shared_azurite()
    with KustoEmulator(storage=storage) as kusto:
        (tmp_path / "al.toml").write_text(
            f'profile = "azure"\n[azure]\nkusto_uri = "{kusto.url}"\nkusto_ingestion = "queued"\n'
            f'blob_account_url = "{storage.blob_url}"\n'
        )
        yield tmp_path / "al.toml", kusto


def test_what_data_explorer_refuses_is_one_line(al: Al, on_azure: tuple[Path, KustoEmulator]) -> None:
    done = al("query", "volume", config=on_azure[0])
    assert done.returncode == 1
    assert done.stderr.startswith("Error: KustoApiError: ")
    assert "Traceback" not in done.stderr


def test_failed_ingestions_are_shown_and_sent_again_when_a_person_says_so(
    al: Al, on_azure: tuple[Path, KustoEmulator]
) -> None:
    from al_resources.azure.data_explorer import MAPPING, KustoDatabase, setup_commands
    from al_resources.prediction_store.kusto import KustoPredictionStore
    from al_resources.settings.azure_data import AzureDataSettings

    config, kusto = on_azure
    database = KustoDatabase(AzureDataSettings(kusto_uri=kusto.url, kusto_ingestion="queued"))
    for command in setup_commands():
        database.command(command)
    mapping = kusto.tables["predictions"].mappings.pop(MAPPING)
    store = KustoPredictionStore(database)
    store.append(two_predictions())
    while not store.failures():
        time.sleep(0.05)
    (failure,) = json.loads(al("query", "failures", "--json", config=config).stdout)["failures"]
    assert "mapping 'columns_by_name' was not found in table predictions" in failure
    kusto.tables["predictions"].mappings[MAPPING] = mapping
    assert "1 failed ingestions, 1 sent again" in al("query", "failures", "--send-again", config=config).stdout
    while not store.watermark().rows:
        time.sleep(0.05)
    (row,) = json.loads(al("query", "volume", "--json", config=config).stdout)
    assert row["predictions"] == 2
