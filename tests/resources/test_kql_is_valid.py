"""Every query and command the code can produce, before Microsoft's own parser and semantic analyser.

The emulated engine says whether a query gives the right rows; this says whether it is valid KQL on the declared
tables, and answers with the columns the code expects.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import product
from typing import Any, get_args

import pytest
from azure.kusto.data.exceptions import KustoServiceError
from resource_adapters import MIDNIGHT, after

from al_core.judging.truth import Reserve
from al_core.records import LEDGERS, PREDICTIONS
from al_core.strategies.base import Order
from al_loop.questions import Every, Question, Window, kql
from al_resources.azure.data_explorer import TABLES, Query, erase_command, kql_type, setup_commands
from al_resources.embedding_store import kusto as embeddings
from al_resources.ledgers.kusto import known_query, read_query, winners_query
from al_resources.prediction_store.kusto import (
    WIDE,
    KeyWindow,
    arrays_query,
    beginning_query,
    count_query,
    eligible_query,
    page_query,
    rows_query,
    sample_query,
    size_query,
    watermark_query,
)
from emulators.kql_analyser import Analysis, shared_analyser

NARROW = [name for name in PREDICTIONS.names if name not in WIDE]
ORDERS = [
    *(Order(column, descending) for column, descending in product(("confidence", "margin", "entropy"), (False, True))),
    Order("random", seed=1),
]


def analyse(texts: list[str]) -> list[Analysis]:
    schema = {name: {one.name: kql_type(one.type) for one in columns} for name, columns in TABLES.items()}
    return shared_analyser().analyse(texts, schema)


def ledger_queries() -> Iterator[Query]:
    for name, schema in LEDGERS.items():
        yield read_query(name, {})
        yield winners_query(name, ["key"])
        for column in schema.names:
            yield read_query(name, {column: None})
            kind = kql_type(schema.field(column).type)
            value = {"string": "o'x", "long": 1, "real": 0.5, "datetime": MIDNIGHT}[kind]
            yield read_query(name, {column: value})
            if kind in ("string", "long"):
                yield known_query(name, list(dict.fromkeys([column, schema.names[0]])), column, [value, None])


PARTS = (None, Reserve(0.2).part("teach"), Reserve(0.2).part("duel"))


@cache
def queries() -> list[Query]:
    model: list[tuple[str | None, int | None]] = [("digits", 3), ("digits", None), (None, 3), (None, None)]
    selections = [
        eligible_query("digits", 3, order, 500, columns, ["a"] * many)
        for order in ORDERS
        for many in (0, 2)
        for own in [[] if order.column == "random" else [order.column]]
        for columns in (["image_id", "prediction_id", *own], list(dict.fromkeys([*NARROW, *own])))
    ]
    windows = (KeyWindow(0, 1 << 58), KeyWindow(1 << 58, 1 << 59, pivot=12345))
    return [
        *(watermark_query(*one) for one in model),
        *(size_query(*one) for one in model),
        *(watermark_query(*one, window) for one in model for window in windows),
        *(count_query("digits", 3, part, window) for part in PARTS for window in windows),
        *(
            eligible_query("digits", 3, order, 5, ["image_id", "margin", order.column][:own], [], part, window, worst)
            for part in PARTS
            for window in windows
            for order, own, worst in (
                (Order("margin"), 2, None),
                (Order("margin", descending=True), 2, 0.25),
                (Order("entropy"), 3, 0.25),
                (Order("random", seed=1), 2, None),
            )
        ),
        *(count_query("digits", version, part) for version in (3, None) for part in PARTS),
        *(eligible_query("digits", 3, Order("margin"), 5, ["image_id", "margin"], [], part) for part in PARTS),
        *selections,
        beginning_query("digits", 3),
        *(
            sample_query("digits", 3, (MIDNIGHT, after(60)), ORDERS[-1], 9, columns, part)
            for columns in (["image_id", "prediction_id"], NARROW)
            for part in PARTS
        ),
        *(arrays_query(["p"], wide) for wide in (["probs"], ["embedding"], list(WIDE))),
        *(build(columns) for columns in (["image_id"], PREDICTIONS.names) for build in _readers()),
        *(build("e", ["i", "o'x"]) for build in (embeddings.read_query, embeddings.known_query)),
        embeddings.counts_query(),
        *(embeddings.extent_query("e", until) for until in (None, MIDNIGHT)),
        embeddings.rows_query(["i"]),
        *ledger_queries(),
        *analytics_queries(),
    ]


def analytics_queries() -> Iterator[Query]:
    for question, every, version in product(get_args(Question), get_args(Every), (None, 3)):
        asked = kql(question, Window("o'x", MIDNIGHT, after(60), every, version))
        yield asked
        yield Query(asked.shown, asked.answer)  # as `al query --show-kql` prints it


def _readers() -> list[Any]:
    return [lambda columns: rows_query(["i"], columns), lambda columns: page_query(columns, MIDNIGHT, ["p"])]


def test_every_query_is_valid_and_answers_with_the_columns_expected() -> None:
    for query, answer in zip(queries(), analyse([query.kql for query in queries()]), strict=True):
        assert answer.diagnostics == [], query.kql
        assert answer.columns == [f"{one.name}:{kql_type(one.type)}" for one in query.answer], query.kql


def test_every_set_up_command_is_valid() -> None:
    commands = [*setup_commands(), *(erase_command(name, ["0" * 32, "f" * 32]) for name in ("predictions", "labels"))]
    for command, answer in zip(commands, analyse(commands), strict=True):
        assert answer.diagnostics == [], command


def test_the_analyser_sees_what_is_wrong() -> None:
    wrong = [
        "predictions | project colour",
        "selektions",
        "predictions | where margin = 3",
        ".create-merge tabel x (a:int)",
    ]
    assert all(answer.diagnostics for answer in analyse(wrong))


def test_no_text_of_any_test_gets_past_the_analyser() -> None:
    """The engine behind the emulated service would answer all of these."""
    pytest.importorskip("duckdb_kql")
    from kusto_adapters import ready_database

    from emulators.kusto import KustoEmulator

    with KustoEmulator() as emulator:
        database = ready_database(emulator)
        for text in ("predictions | where margin = 3", "predictions | summarize count() by Margin"):
            with pytest.raises(KustoServiceError, match="Error: "):
                database.query(Query(text, PREDICTIONS))
        with pytest.raises(KustoServiceError, match="Error: "):
            database.command(".alter table predictions policy roworder (colour desc)")
