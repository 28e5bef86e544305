"""A log that is too long for one query of Data Explorer, on an engine whose operators may hold as little."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("duckdb_kql", reason="the emulated Data Explorer: pip install 'duckdb-kql[all]'")

from azure.kusto.data.exceptions import KustoServiceError
from kusto_adapters import database_of, ready_database

from al_cli.select import listened_to
from al_core.selection import Rules, select_batch
from al_core.strategies.base import Order
from al_core.strategies.registry import get_strategy
from al_resources.platform import Platform
from al_resources.prediction_store.candidates import Candidates
from al_resources.prediction_store.kusto import KustoPredictionStore
from al_resources.settings import load_settings
from emulators.kusto import KustoEmulator

ROWS, MEMORY = 200_000, "100MB"
WINDOW_ROWS = 50_000


@pytest.fixture(scope="module")
def emulator() -> Iterator[KustoEmulator]:
    with KustoEmulator(memory=MEMORY) as running:
        ready_database(running)
        running.load_log(ROWS, "digits", 3)
        yield running


def store_of(emulator: KustoEmulator, window_rows: int) -> KustoPredictionStore:
    return KustoPredictionStore(database_of(emulator, kusto_window_rows=str(window_rows)))


def test_one_query_over_all_of_it_meets_the_limit(emulator: KustoEmulator) -> None:
    with pytest.raises(KustoServiceError, match="OutOfMemory"):
        store_of(emulator, ROWS).eligible("digits", 3, Order("margin"), 500, ["image_id"])


def test_in_windows_it_is_the_batch_that_all_of_it_gives(emulator: KustoEmulator) -> None:
    store = store_of(emulator, WINDOW_ROWS)
    before = len(emulator.queries)
    found = store.eligible("digits", 3, Order("margin"), 500, ["image_id", "margin"])
    asked = emulator.queries[before:]
    assert len(asked) == 1 + ROWS // WINDOW_ROWS
    assert all("_worst" in text for text in asked[2:]), "later windows answer with what may still be among the first"
    lowest = sorted(row[0] for row in margins(emulator))[:500]
    assert found["margin"].to_pylist() == pytest.approx(lowest)
    assert store.count_eligible("digits", 3) == ROWS


def test_random_order_stops_when_it_has_enough(emulator: KustoEmulator) -> None:
    before = len(emulator.queries)
    found = store_of(emulator, WINDOW_ROWS).eligible("digits", 3, Order("random", seed=7), 500, ["image_id"])
    assert len(set(found["image_id"].to_pylist())) == 500
    assert len(emulator.queries) - before == 2, "how long the log is, and the first window"


def test_show_kql_says_in_which_windows_a_long_log_is_asked(
    emulator: KustoEmulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `al select --dry-run --show-kql` prints is what it heard the selection ask."""
    address = f'kusto_uri = "{emulator.url}"\nblob_account_url = "http://127.0.0.1:9/devstoreaccount1"\n'
    (tmp_path / "al.toml").write_text(f'profile = "azure"\n[azure]\n{address}kusto_window_rows = {WINDOW_ROWS}\n')
    monkeypatch.setenv("AL_CONFIG", str(tmp_path / "al.toml"))
    platform = Platform(load_settings())
    asked = listened_to(platform)
    request = {"strategy": get_strategy("margin"), "budget": 20, "seed": 0, "round_": 1, "model_version": 3}
    candidates = Candidates(platform.predictions, "digits", 3)
    assert select_batch(candidates, rules=Rules(control_share=0, near_duplicate_distance=0), **request).size == 20
    shown = "\n\n".join(query.shown for query in asked)
    lows, highs = (re.findall(rf"let {name} = (?:long\()?(\d+)", shown) for name in ("_low", "_high"))
    windows = sorted({(int(low), int(high)) for low, high in zip(lows, highs, strict=True)})
    assert len(windows) == ROWS // WINDOW_ROWS
    assert [high for _, high in windows[:-1]] == [low for low, _ in windows[1:]], "they meet, and share no image"


def margins(emulator: KustoEmulator) -> list[tuple[float]]:
    with emulator._lock:
        return emulator._duckdb.execute("select margin from predictions order by margin limit 500").fetchall()
