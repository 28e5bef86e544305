"""The dashboard of Data Explorer and the notebook: their queries are the project's own, and what they show is there."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, get_args

import matplotlib as mpl
import numpy as np
import pyarrow as pa
import pytest

from al_core.records import LABELS, SELECTIONS, prediction_table, table_of, utc_now
from al_loop.dashboard import DRAWN
from al_loop.questions import ANSWERS, Question, Window, kql
from al_resources.ledgers import Ledgers
from al_resources.platform import Platform
from al_resources.settings import load_settings

AZURE = Path(__file__).parents[2] / "deploy/azure"
DASHBOARD = json.loads((AZURE / "dashboard.json").read_text())
NOTEBOOK = json.loads((AZURE / "log.ipynb").read_text())
TEXTS = {query["id"]: query["text"] for query in DASHBOARD["queries"]}
STEPS = ("1d", "1h")


def rows(count: int = 60) -> pa.Table:
    """Traffic of two days, of two versions."""
    rng = np.random.default_rng(0)
    tables = []
    for number in range(2):
        tables.append(
            prediction_table(
                image_ids=[f"{count * number + n:032x}" for n in range(count)],
                image_uris=[""] * count,
                image_hashes=[None] * count,
                model_name="classifier",
                model_version=number + 1,
                classes=("cat", "o'brien", '"; drop'),
                probs=rng.dirichlet(np.ones(3), count).astype(np.float32),
                source="online",
                logged_at=utc_now() - timedelta(days=number, minutes=1),
                latency_ms=rng.random(count).tolist(),
            )
        )
    return pa.concat_tables(tables)


def draw_and_label(ledgers: Ledgers, log: pa.Table) -> None:
    """Ten control images of each version, all of them labeled."""
    drawn = [
        {"round": 1, "reason": "control", "selected_at": row["logged_at"]}
        | {name: row[name] for name in ("image_id", "prediction_id", "model_version")}
        for row in log.to_pylist()[::6]
    ]
    ledgers.insert_new("selections", table_of(SELECTIONS, drawn), ["image_id"])
    labels = [{"image_id": row["image_id"], "label": "cat", "labeled_at": utc_now()} for row in drawn]
    ledgers.insert_new("labels", table_of(LABELS, labels), ["image_id"])


def test_every_query_of_the_dashboard_is_what_al_query_asks() -> None:
    ours = {
        kql(question, Window("classifier", utc_now() - timedelta(1), utc_now(), every)).text
        for question in get_args(Question)
        for every in STEPS
    }
    assert set(TEXTS.values()) == ours


def test_everything_that_a_tile_or_query_refers_to_is_there() -> None:
    pages = {page["id"] for page in DASHBOARD["pages"]}
    sources = {source["id"] for source in DASHBOARD["dataSources"]}
    variables = {
        parameter[name]
        for parameter in DASHBOARD["parameters"]
        for name in ("beginVariableName", "endVariableName", "variableName")
        if name in parameter
    }
    for tile in DASHBOARD["tiles"]:
        assert tile["pageId"] in pages
        assert tile["queryRef"]["queryId"] in TEXTS
        assert tile["layout"]["x"] + tile["layout"]["width"] <= 24
    places = [(tile["pageId"], tile["layout"]["x"], tile["layout"]["y"]) for tile in DASHBOARD["tiles"]]
    assert len(places) == len(set(places))
    for query in DASHBOARD["queries"]:
        assert query["dataSource"]["dataSourceId"] in sources
        assert set(query["usedVariables"]) == variables
        assert all(name in query["text"] for name in query["usedVariables"])
    ids = [one["id"] for part in ("tiles", "queries", "pages", "parameters") for one in DASHBOARD[part]]
    assert len(ids) == len({uuid.UUID(one) for one in ids})


def test_what_is_drawn_are_columns_of_the_answer() -> None:
    for question, (y, series) in DRAWN.items():
        assert {*y, *series} <= set(ANSWERS[question].names)


def test_microsofts_analyser_takes_the_queries_with_the_variables_as_the_page_fills_them() -> None:
    from al_resources.azure.data_explorer import TABLES, kql_type
    from emulators.kql_analyser import shared_analyser

    schema = {name: {one.name: kql_type(one.type) for one in columns} for name, columns in TABLES.items()}
    filled = 'let _name = dynamic(["classifier"]);\nlet _since = ago(7d);\nlet _until = now();\n'
    for answer in shared_analyser().analyse([filled + text for text in TEXTS.values()], schema):
        assert answer.diagnostics == []


def test_the_emulated_engine_answers_each_with_the_columns_that_are_drawn() -> None:
    pytest.importorskip("duckdb_kql")
    from kusto_adapters import ready_database

    from al_resources.azure.data_explorer import Query
    from al_resources.ledgers.kusto import KustoLedgers
    from al_resources.prediction_store.kusto import KustoPredictionStore
    from emulators.kusto import KustoEmulator

    with KustoEmulator() as emulator:
        database = ready_database(emulator)
        log = rows()
        KustoPredictionStore(database).append(log)
        draw_and_label(KustoLedgers(database), log)
        window = {
            "_name": ("dynamic", ["classifier"]),
            "_since": ("datetime", utc_now() - timedelta(days=7)),
            "_until": ("datetime", utc_now()),
        }
        by_title = {tile["title"]: TEXTS[tile["queryRef"]["queryId"]] for tile in DASHBOARD["tiles"]}
        assert len(by_title) == len(ANSWERS)
        for (question, schema), text in zip(ANSWERS.items(), by_title.values(), strict=True):
            answer = database.query(Query(text, schema, window))
            assert len(answer) > 1, question


# ---------------------------------------------------------------------- the notebook
@contextmanager
def headless() -> Iterator[None]:
    before = mpl.get_backend()
    mpl.use("agg")
    yield
    mpl.use(before)


def run(notebook: dict[str, Any]) -> dict[str, Any]:
    """The cells one after the other, as a kernel would; what they left."""
    names: dict[str, Any] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
    return names


def test_the_notebook_runs_on_the_local_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "al.toml").write_text("home = 'home'\n")
    monkeypatch.setenv("AL_CONFIG", str(tmp_path / "al.toml"))
    platform, log = Platform(load_settings()), rows()
    platform.predictions.append(log)
    draw_and_label(platform.ledgers, log)
    with headless():
        left = run(NOTEBOOK)
    assert left["volume"]["predictions"].sum() == 120
    assert set(left["drift"]["what"]) == {"classes", "confidence", "entropy", "margin"}
    assert left["drift"]["psi"].min() >= 0
    assert left["control"]["answers"].to_list() == [10, 10]
    said = capsys.readouterr().out
    assert "let _name" in said
    assert "no model serves yet" in said


def test_the_notebook_runs_where_there_is_nothing_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "al.toml").write_text("home = 'home'\n")
    monkeypatch.setenv("AL_CONFIG", str(tmp_path / "al.toml"))
    with headless():
        assert run(NOTEBOOK)["drift"].is_empty()


def test_the_notebook_holds_no_output() -> None:
    assert all(not cell.get("outputs") for cell in NOTEBOOK["cells"])
    assert (NOTEBOOK["nbformat"], NOTEBOOK["nbformat_minor"]) == (4, 5)
