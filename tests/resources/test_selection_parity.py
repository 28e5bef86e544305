"""The same rows in Delta and in Data Explorer: the same selection, row for row, by every strategy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from labeled_context import LabeledContext
from resource_adapters import LEDGER_STORES, MIDNIGHT, PREDICTION_STORES, after, image

from al_core.records import LABELS, SELECTIONS, image_keys, prediction_table, table_of
from al_core.selection import POOL_LIMIT, Rules, select_batch
from al_core.strategies.base import Labeled
from al_core.strategies.registry import STRATEGIES, get_strategy
from al_resources.azure.data_explorer import KustoDatabase
from al_resources.prediction_store import PredictionStore
from al_resources.prediction_store.candidates import Candidates
from al_resources.prediction_store.kusto import KustoPredictionStore

pytestmark = pytest.mark.skipif("kusto" not in PREDICTION_STORES, reason="needs duckdb-kql")

CLASSES = ("cat", "o'brien", '"; drop')
WIDTH = 4
BY_SCORE = [name for name in STRATEGIES if get_strategy(name).order(0) is not None]
LABELED = Labeled(
    np.array([image(n) for n in range(1000, 1009)]),
    np.random.default_rng(1).normal(size=(9, WIDTH)).astype(np.float32),
    np.arange(9) % len(CLASSES),
)


def rows(seed: int, count: int, images: int, coarse: bool) -> pa.Table:
    """Predictions of a few images, some of them scored again later; coarse scores tie."""
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.ones(len(CLASSES)), count).astype(np.float32)
    if coarse:
        probs = np.eye(len(CLASSES), dtype=np.float32)[rng.integers(0, len(CLASSES), count)]
    ids = [image(n) for n in rng.integers(0, images, count).tolist()]
    table = prediction_table(
        image_ids=ids,
        image_uris=[f"images/{one}.png" for one in ids],
        image_hashes=[None if number % 5 == 0 else one for number, one in enumerate(ids)],
        model_name="digits",
        model_version=3,
        classes=CLASSES,
        probs=probs,
        embeddings=rng.normal(size=(count, WIDTH)).astype(np.float32),
        source="online",
        logged_at=MIDNIGHT,
    )
    times = pa.array([after(int(one)) for one in rng.integers(0, 4, count)], table.schema.field("logged_at").type)
    return table.set_column(table.schema.get_field_index("logged_at"), "logged_at", times)


def committee(image_ids: Sequence[str]) -> np.ndarray:
    """Three models that answer by the image's id."""
    keys = image_keys(image_ids)[:, None, None] % 97 + np.arange(9).reshape(1, 3, 3) * 31
    answers = np.exp(np.sin(keys))
    return (answers / answers.sum(axis=2, keepdims=True)).astype(np.float32)


def filled_stores(folder: Path, table: pa.Table) -> list[PredictionStore]:
    """Both stores with the same log and the same ledgers."""
    stores = []
    for name in ("delta", "kusto"):
        ledgers = LEDGER_STORES[name](folder)
        store = PREDICTION_STORES[name](folder, ledgers)
        for part in (table.slice(0, len(table) // 2), table.slice(len(table) // 2)):
            store.append(part)
        taken = [{"round": 1, "image_id": image(n), "model_version": 2} for n in (0, 1)]
        ledgers.insert_new("selections", table_of(SELECTIONS, taken), ["image_id"])
        ledgers.insert_new("labels", table_of(LABELS, [{"image_id": image(2), "label": "cat"}]), ["image_id"])
        stores.append(store)
    return stores


def selection(
    store: PredictionStore, strategy: str, pool_limit: int = POOL_LIMIT, **request: Any
) -> tuple[int, list[dict[str, Any]]]:
    chosen = select_batch(
        Candidates(store, "digits", 3),
        strategy=get_strategy(strategy),
        rules=Rules(control_share=0.2, near_duplicate_distance=4, pool_limit=pool_limit),
        round_=2,
        model_version=3,
        context=LabeledContext(LABELED, committee),
        **request,
    )
    return chosen.eligible, chosen.table.drop("selected_at").to_pylist()


@settings(
    max_examples=6,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # a log drawn from a seed does not shrink
)
@given(
    seed=st.integers(0, 10_000),
    count=st.integers(0, 80),
    images=st.integers(1, 60),
    coarse=st.booleans(),
    budget=st.integers(1, 30),
    draw=st.integers(0, 99),
)
def test_every_score_strategy_selects_the_same_from_both_stores(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    count: int,
    images: int,
    coarse: bool,
    budget: int,
    draw: int,
) -> None:
    stores = filled_stores(tmp_path_factory.mktemp("parity"), rows(seed, count, images, coarse))
    for strategy in BY_SCORE:
        delta, kusto = (selection(store, strategy, budget=budget, seed=draw) for store in stores)
        assert delta == kusto, strategy


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> list[PredictionStore]:
    table = rows(seed=5, count=90, images=70, coarse=False)
    return filled_stores(tmp_path_factory.mktemp("two_stages"), table)


@pytest.mark.parametrize("strategy", [name for name in STRATEGIES if name not in BY_SCORE])
def test_strategies_that_need_arrays_select_the_same_in_two_stages(
    stores: list[PredictionStore], strategy: str
) -> None:
    delta, kusto = (selection(store, strategy, budget=12, seed=4, pool_limit=40) for store in stores)
    assert len(delta[1]) == 12
    assert delta == kusto


@pytest.mark.parametrize("strategy", BY_SCORE)
@pytest.mark.parametrize("window_rows", [23, 45])
def test_a_log_that_is_asked_in_windows_gives_the_same_batch(
    strategy: str, window_rows: int, stores: list[PredictionStore]
) -> None:
    delta, kusto = stores
    assert isinstance(kusto, KustoPredictionStore)
    settings_ = kusto.database.settings.model_copy(update={"kusto_window_rows": window_rows})
    windowed = KustoPredictionStore(KustoDatabase(settings_))
    assert len(windowed.windows("digits", 3)) == -(-90 // window_rows)
    assert selection(windowed, strategy, budget=12, seed=4) == selection(delta, strategy, budget=12, seed=4)
    assert windowed.count_eligible("digits", 3) == delta.count_eligible("digits", 3)
    assert windowed.watermark("digits", 3) == kusto.watermark("digits", 3)


def test_there_are_score_strategies() -> None:
    assert BY_SCORE == ["random", "least_confidence", "margin", "entropy"]
