"""What analysts ask: the same rows give the same answer in Delta and in Data Explorer."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any, get_args

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from resource_adapters import LEDGER_STORES, MIDNIGHT, PREDICTION_STORES, after, image, prediction_rows

from al_core.judging.drift import stability_index
from al_core.records import LABELS, SELECTIONS, table_of
from al_loop.questions import ANSWERS, Every, Question, Window, ask
from al_resources.prediction_store import PredictionStore

QUESTIONS: tuple[Question, ...] = get_args(Question)
DAY = 86_400
AWKWARD = ["cat", "o'brien", 'a "b"', "x' | project secret //", "[red]", "é\n{}", "\\"]


def window(days: float = 3, **change: Any) -> Window:
    return Window(**({"model_name": "digits", "since": MIDNIGHT, "until": after(days * DAY)} | change))


# ---------------------------------------------------------------------- the contract
@pytest.mark.parametrize("question", QUESTIONS)
def test_an_empty_log_answers_with_no_rows_and_the_right_columns(store: PredictionStore, question: Question) -> None:
    answer = ask(store, question, window())
    assert answer.is_empty()
    assert answer.schema == pl.DataFrame(ANSWERS[question].empty_table()).schema


def test_volume_counts_predictions_and_different_images(store: PredictionStore) -> None:
    rows = [{"image_id": image(n % 2), "logged_at": after(n)} for n in range(3)]
    store.append(prediction_rows([*rows, {"image_id": image(7), "logged_at": after(DAY), "source": "batch"}]))
    assert ask(store, "volume", window()).rows() == [
        (MIDNIGHT, 1, "online", 3, 2),
        (after(DAY), 1, "batch", 1, 1),
    ]


def test_confidence_is_told_by_its_mean_and_its_lower_half(store: PredictionStore) -> None:
    scores = [0.1, 0.2, 0.3, 0.4]
    store.append(
        prediction_rows(
            [{"image_id": image(n), "confidence": c, "margin": 0.5, "entropy": 1.5} for n, c in enumerate(scores)]
        )
    )
    (row,) = ask(store, "confidence", window()).rows(named=True)
    assert row["predictions"] == 4
    assert [row[name] for name in ("confidence", "lowest_tenth", "median", "margin", "entropy")] == pytest.approx(
        [0.25, 0.1, 0.2, 0.5, 1.5]
    )


def test_classes_have_shares_of_their_step_and_version(store: PredictionStore) -> None:
    labels = ["cat", "cat", "dog", "cat"]
    rows = [{"image_id": image(n), "predicted_label": one} for n, one in enumerate(labels)]
    store.append(prediction_rows([*rows, {"image_id": image(9), "predicted_label": "owl", "model_version": 2}]))
    answer = ask(store, "classes", window()).drop("at")
    assert answer.rows() == [(1, "cat", 3, 0.75), (1, "dog", 1, 0.25), (2, "owl", 1, 1.0)]


def test_latency_is_that_of_answers_whose_time_was_taken(store: PredictionStore) -> None:
    taken = [*range(1, 101), None]
    store.append(prediction_rows([{"image_id": image(n), "latency_ms": t} for n, t in enumerate(taken)]))
    assert ask(store, "latency", window()).rows() == [(MIDNIGHT, 1, 100, 50.0, 95.0, 99.0, 100.0)]


def test_the_scores_lie_in_bins_whose_edges_are_exact(store: PredictionStore) -> None:
    edges = [n / 20 for n in range(21)]
    store.append(
        prediction_rows(
            [{"image_id": image(n), "confidence": e, "margin": e, "entropy": 3 * e} for n, e in enumerate(edges)]
        )
    )
    answer = ask(store, "scores", window())
    assert answer.filter(score="confidence")["low"].to_list() == edges
    assert set(answer.filter(score="margin")["predictions"]) == {1}
    assert answer.filter(score="entropy")["low"].to_list() == [3 * n / 20 for n in range(21)]


def test_a_shift_is_the_stability_index_against_the_first_step_of_the_version(store: PredictionStore) -> None:
    days = [["cat"] * 3 + ["dog"], ["cat", "dog", "dog", "owl"]]
    store.append(
        prediction_rows(
            [
                {"image_id": image(4 * day + n), "predicted_label": label, "logged_at": after(day * DAY)}
                for day, labels in enumerate(days)
                for n, label in enumerate(labels)
            ]
        )
    )
    answer = ask(store, "shift", window())
    assert answer.filter(pl.col("what") != "classes")["psi"].to_list() == pytest.approx([0] * 6)
    first, second = answer.filter(what="classes").rows(named=True)
    assert (first["at"], first["predictions"], first["psi"]) == (MIDNIGHT, 4, pytest.approx(0))
    assert second["psi"] == pytest.approx(stability_index(np.array([3, 1, 0]), np.array([1, 2, 1])), rel=1e-6)


@pytest.mark.parametrize("name", PREDICTION_STORES)
def test_control_images_tell_how_often_the_model_was_right_by_their_newest_labels(name: str, tmp_path: Path) -> None:
    ledgers = LEDGER_STORES[name](tmp_path)
    store = PREDICTION_STORES[name](tmp_path, ledgers)
    guesses = ["cat", "cat", "dog", "cat", "cat"]
    rows = [{"image_id": image(n), "prediction_id": f"p{n}", "predicted_label": one} for n, one in enumerate(guesses)]
    store.append(prediction_rows([*rows, {"image_id": image(9), "prediction_id": "p9", "model_name": "other"}]))
    control, chosen = [(0, 1), (1, 2), (2, DAY), (3, 3), (9, 5)], [(4, 4)]
    drawn = [
        {"round": 1, "image_id": image(n), "prediction_id": f"p{n}", "model_version": 1, "reason": reason}
        | {"selected_at": after(at)}
        for reason, images in (("control", control), ("strategy", chosen))
        for n, at in images
    ]
    ledgers.insert_new("selections", table_of(SELECTIONS, drawn), ["image_id"])
    said = [(0, "cat", 0), (1, "dog", 0), (1, "cat", 9), (2, "cat", 0), (3, None, 0), (4, "dog", 0), (9, "7", 0)]
    labels = [{"image_id": image(n), "label": label, "labeled_at": after(at)} for n, label, at in said]
    ledgers.insert_new("labels", table_of(LABELS, labels), ["image_id", "labeled_at"])
    assert ask(store, "control", window()).rows() == [(MIDNIGHT, 1, 2, 1.0), (after(DAY), 1, 1, 0.0)]
    assert ask(store, "control", window(1)).rows() == [(MIDNIGHT, 1, 2, 1.0)]
    assert ask(store, "control", window(model_version=2)).is_empty()


def test_a_prediction_that_arrived_twice_counts_once(tmp_path: Path) -> None:
    store = PREDICTION_STORES["kusto"](tmp_path, LEDGER_STORES["kusto"](tmp_path))
    rows = prediction_rows([{"image_id": image(1), "latency_ms": 3.0}])
    store.append(rows)
    store.append(rows)
    assert ask(store, "volume", window())["predictions"].to_list() == [1]
    assert ask(store, "latency", window())["answers"].to_list() == [1]
    assert ask(store, "scores", window())["predictions"].to_list() == [1, 1, 1]


@pytest.mark.parametrize("question", QUESTIONS)
def test_images_scored_again_for_a_selection_are_no_traffic(store: PredictionStore, question: Question) -> None:
    store.append(prediction_rows([{"image_id": image(1), "latency_ms": 3.0}]))
    before = ask(store, question, window())
    store.append(prediction_rows([{"image_id": image(2), "latency_ms": 5.0, "margin": 0.1, "source": "rescore"}]))
    assert_frame_equal(ask(store, question, window()), before)


def test_the_window_includes_its_beginning_and_not_its_end(store: PredictionStore) -> None:
    moments = [after(-0.000_001), after(0), after(DAY - 0.000_001), after(DAY)]
    store.append(prediction_rows([{"image_id": image(n), "logged_at": at} for n, at in enumerate(moments)]))
    assert ask(store, "volume", window(1))["predictions"].to_list() == [2]


@pytest.mark.parametrize("every", get_args(Every))
def test_steps_begin_at_whole_minutes_hours_and_days(store: PredictionStore, every: Every) -> None:
    store.append(prediction_rows([{"image_id": image(n), "logged_at": after(n * 200)} for n in range(40)]))
    seconds = {"5m": 300, "1h": 3600, "1d": DAY}[every]
    expected = Counter(after(n * 200 // seconds * seconds) for n in range(40))
    answer = ask(store, "volume", window(every=every))
    assert dict(answer.select("at", "predictions").iter_rows()) == expected


def test_only_the_model_and_version_asked_for_count(store: PredictionStore) -> None:
    store.append(
        prediction_rows(
            [
                {"image_id": image(1)},
                {"image_id": image(2), "model_version": 12},
                {"image_id": image(3), "model_name": "other"},
            ]
        )
    )
    assert ask(store, "volume", window())["model_version"].to_list() == [1, 12]
    assert ask(store, "volume", window(model_version=12))["predictions"].to_list() == [1]
    assert ask(store, "volume", window(model_name="other"))["predictions"].to_list() == [1]


@pytest.mark.parametrize("name", AWKWARD)
def test_names_full_of_quotes_and_kql_are_values(store: PredictionStore, name: str) -> None:
    rows = [{"image_id": image(n), "predicted_label": label} for n, label in enumerate(AWKWARD)]
    store.append(prediction_rows([row | {"model_name": name} for row in rows] + [{"image_id": image(99)}]))
    labels = ask(store, "classes", window(model_name=name))["predicted_label"].to_list()
    assert labels == sorted(AWKWARD)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"until": MIDNIGHT}, "is not before until"),
        ({"since": MIDNIGHT.replace(tzinfo=None)}, "has no time zone"),
        ({"every": "1d; drop"}, "expected one of 5m, 1h, 1d"),
    ],
)
def test_a_window_that_makes_no_sense_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        window(**change)


# ---------------------------------------------------------------------- parity
SCORE = st.sampled_from([n / 40 for n in range(41)]) | st.floats(0, 1, width=32)
ROW = st.fixed_dictionaries(
    {
        "number": st.integers(0, 5),
        "model_version": st.sampled_from([1, 2]),
        "predicted_label": st.sampled_from(AWKWARD),
        "confidence": SCORE,
        "margin": SCORE,
        "entropy": SCORE,
        "source": st.sampled_from(["online", "batch"]),
        "latency_ms": st.none() | st.floats(0, 1e4, width=32),
        "seconds": st.integers(0, 3 * DAY - 1),
    }
)


@settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
@given(rows=st.lists(ROW, max_size=40), every=st.sampled_from(get_args(Every)))
@pytest.mark.skipif("kusto" not in PREDICTION_STORES, reason="needs duckdb-kql")
def test_delta_and_data_explorer_give_the_same_answers(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]], every: Every
) -> None:
    folder = tmp_path_factory.mktemp("parity")
    table = prediction_rows(
        [
            {k: v for k, v in row.items() if k not in ("number", "seconds")}
            | {"image_id": image(row["number"]), "logged_at": after(row["seconds"])}
            for row in rows
        ]
    )
    stores = [PREDICTION_STORES[name](folder, LEDGER_STORES[name](folder)) for name in ("delta", "kusto")]
    for store in stores:
        store.append(table)
    for question in QUESTIONS:
        delta, kusto = (ask(store, question, window(every=every)) for store in stores)
        assert_frame_equal(delta, kusto, rel_tol=1e-5, abs_tol=1e-6)
        if question == "control":
            continue  # what it counts is drawn and labeled, below
        counted = "answers" if question == "latency" else "predictions"
        expected = len([row for row in rows if row["latency_ms"] is not None]) if question == "latency" else len(rows)
        assert delta[counted].sum() == expected * {"scores": 3, "shift": 4}.get(question, 1)


def test_what_is_shown_gives_the_same_answer(tmp_path: Path) -> None:
    from kusto_adapters import kusto_database

    from al_loop.questions import kql
    from al_resources.azure.data_explorer import Query

    store = PREDICTION_STORES["kusto"](tmp_path, LEDGER_STORES["kusto"](tmp_path))
    store.append(prediction_rows([{"image_id": image(n), "model_name": AWKWARD[3]} for n in range(3)]))
    asked = window(model_name=AWKWARD[3], until=MIDNIGHT + timedelta(hours=1))
    for question in QUESTIONS:
        shown = Query(kql(question, asked).shown, ANSWERS[question])
        answer = kusto_database(tmp_path).query(shown)
        assert_frame_equal(answer, ask(store, question, asked))
