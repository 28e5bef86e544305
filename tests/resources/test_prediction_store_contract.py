"""The contract of every prediction store, and its parity with a twin that is too simple to be wrong."""

from __future__ import annotations

import math
import multiprocessing
import random
import tempfile
from collections.abc import Collection
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from resource_adapters import EMBEDDED, LEDGER_STORES, PREDICTION_STORES, after, image, prediction_rows

from al_core.judging.truth import Part, Reserve, Role
from al_core.records import LABELS, PREDICTIONS, SELECTIONS, image_keys, table_of
from al_core.strategies.base import Order
from al_resources.prediction_store import PredictionStore, Watermark, delta, kusto

MARGIN = Order("margin")
ROLES: tuple[Role, ...] = ("teach", "judge")
TEACHING, JUDGING = (Part(Reserve(0.4, "any"), role) for role in ROLES)


def ids(table: pa.Table) -> list[str]:
    return table["image_id"].to_pylist()


# ---------------------------------------------------------------------- an empty log
def test_a_missing_log_is_an_empty_log(store: PredictionStore) -> None:
    assert store.watermark().rows == 0
    assert store.watermark().last_logged_at is None
    assert store.eligible("digits", 1, MARGIN, 5, ["image_uri"]).num_rows == 0
    assert store.eligible("digits", 1, MARGIN, 5, ["image_uri"]).schema.names == [
        "image_uri",
        "image_id",
        "margin",
    ]
    assert store.count_eligible("digits", 1) == 0
    assert store.rows_of([image(1)]).num_rows == 0
    assert list(store.scan(["image_id"])) == []
    store.compact()


def test_appending_no_rows_changes_nothing(store: PredictionStore) -> None:
    store.append(PREDICTIONS.empty_table())
    assert store.watermark().rows == 0


# ---------------------------------------------------------------------- eligibility
def test_the_smallest_margins_come_first_and_ties_go_by_image_id(store: PredictionStore) -> None:
    margins = {1: 0.3, 2: 0.1, 3: 0.2, 4: 0.2}
    store.append(prediction_rows([{"image_id": image(n), "margin": m} for n, m in margins.items()]))
    tied = sorted([image(3), image(4)])
    assert ids(store.eligible("digits", 1, MARGIN, 3, [])) == [image(2), *tied]


def test_largest_entropy_first_when_descending(store: PredictionStore) -> None:
    store.append(prediction_rows([{"image_id": image(n), "entropy": n / 10} for n in range(1, 6)]))
    found = store.eligible("digits", 1, Order("entropy", descending=True), 2, [])
    assert ids(found) == [image(5), image(4)]


def test_only_the_newest_prediction_of_an_image_counts(store: PredictionStore) -> None:
    store.append(
        prediction_rows(
            [
                {"image_id": image(1), "margin": 0.01, "logged_at": after(0)},
                {"image_id": image(1), "margin": 0.9, "logged_at": after(1)},
                {"image_id": image(2), "margin": 0.5, "logged_at": after(0)},
            ]
        )
    )
    found = store.eligible("digits", 1, MARGIN, 5, ["logged_at"])
    assert ids(found) == [image(2), image(1)]
    assert found["logged_at"].to_pylist()[1] == after(1)


@pytest.mark.parametrize("seconds", [0, 1])
def test_a_good_score_counts_only_while_no_newer_one_lies_elsewhere_in_a_long_log(
    store: PredictionStore, monkeypatch: pytest.MonkeyPatch, seconds: int
) -> None:
    monkeypatch.setattr(delta, "SLACK", 1)
    store.append(prediction_rows([{"image_id": image(n), "margin": 0.5 + n / 100} for n in range(40)]))
    store.append(prediction_rows([{"image_id": image(99), "prediction_id": "a", "margin": 0.1}]))
    newer = {"image_id": image(99), "prediction_id": "b", "margin": 0.95, "logged_at": after(seconds)}
    store.append(prediction_rows([newer]))
    assert ids(store.eligible("digits", 1, MARGIN, 2, [])) == [image(0), image(1)]
    assert ids(store.eligible("digits", 1, MARGIN, 99, []))[-1] == image(99)


def test_of_two_predictions_at_the_same_moment_the_larger_prediction_id_counts(
    store: PredictionStore,
) -> None:
    rows = [{"image_id": image(1), "prediction_id": p, "margin": m} for p, m in [("b", 0.2), ("a", 0.1)]]
    store.append(prediction_rows(rows))
    assert store.eligible("digits", 1, MARGIN, 5, ["prediction_id"])["prediction_id"].to_pylist() == ["b"]


def test_predictions_of_other_models_and_versions_do_not_count(store: PredictionStore) -> None:
    store.append(
        prediction_rows(
            [
                {"image_id": image(1), "model_version": 2, "margin": 0.1, "logged_at": after(9)},
                {"image_id": image(2), "model_name": "other", "margin": 0.1},
                {"image_id": image(1), "model_version": 10, "margin": 0.7},
            ]
        )
    )
    assert ids(store.eligible("digits", 10, MARGIN, 5, [])) == [image(1)]
    assert store.eligible("digits", 10, MARGIN, 5, [])["margin"].to_pylist() == [pytest.approx(0.7)]
    assert store.eligible("digits", 1, MARGIN, 5, []).num_rows == 0


def test_selected_labeled_and_excluded_images_never_come_back(tmp_path: Path) -> None:
    for name in PREDICTION_STORES:
        ledgers = LEDGER_STORES[name](tmp_path)
        store = PREDICTION_STORES[name](tmp_path, ledgers)
        store.append(prediction_rows([{"image_id": image(n), "margin": n / 10} for n in range(6)]))
        ledgers.insert_new("selections", table_of(SELECTIONS, [{"round": 1, "image_id": image(0)}]), ["image_id"])
        ledgers.insert_new("labels", table_of(LABELS, [{"image_id": image(1), "label": "x"}]), ["image_id"])
        assert ids(store.eligible("digits", 1, MARGIN, 2, [], exclude={image(2)})) == [image(3), image(4)]
        assert store.count_eligible("digits", 1) == 4


@pytest.mark.parametrize("excluded", range(12))
def test_a_saturated_model_whose_scores_are_all_equal_goes_by_image_id(
    store: PredictionStore, monkeypatch: pytest.MonkeyPatch, excluded: int
) -> None:
    monkeypatch.setattr(delta, "SLACK", 1)
    names = sorted(image(n) for n in range(40))
    rows = [{"image_id": name, "margin": 1.0, "logged_at": after(1)} for name in names]
    # the last one looked uncertain once, and is not any more
    store.append(prediction_rows([*rows, {"image_id": names[-1], "margin": 0.1, "logged_at": after(0)}]))
    for limit in (1, 3):
        found = store.eligible("digits", 1, MARGIN, limit, [], exclude=names[:excluded])
        assert ids(found) == names[excluded:][:limit]


def test_random_order_is_the_ring_of_keys_from_the_pivot_on(store: PredictionStore) -> None:
    numbers = range(40)
    store.append(prediction_rows([{"image_id": image(n)} for n in numbers]))
    order = Order("random", seed=3)
    ring = sorted((image(n) for n in numbers), key=lambda i: ((image_keys([i])[0] - order.pivot) % (1 << 60), i))
    assert ids(store.eligible("digits", 1, order, 15, [])) == ring[:15]
    assert ids(store.eligible("digits", 1, order, 99, [])) == ring


def test_the_columns_asked_for_come_with_the_types_of_the_log(store: PredictionStore) -> None:
    store.append(prediction_rows([{"image_id": image(1), "embedding": [1.0, 2.0], "image_hash": "ff"}]))
    found = store.eligible("digits", 1, MARGIN, 1, PREDICTIONS.names)
    assert found.schema.equals(PREDICTIONS)
    assert found.to_pylist()[0]["probs"] == [0.75, 0.25]
    assert found.to_pylist()[0]["latency_ms"] is None


def test_an_unknown_column_is_named(store: PredictionStore) -> None:
    store.append(prediction_rows([{"image_id": image(1)}]))
    with pytest.raises(ValueError, match=r"\['colour'\].*prediction_id"):
        store.eligible("digits", 1, MARGIN, 1, ["colour"])
    with pytest.raises(ValueError, match="colour"):
        store.rows_of([image(1)], ["colour"])


@pytest.mark.parametrize("name", ["o'brien", "a/b=c", '100% [é] "q"', "x' or 1=1 --", "..", " padded "])
def test_model_names_are_values_never_code_or_paths(store: PredictionStore, name: str) -> None:
    store.append(prediction_rows([{"image_id": image(1), "model_name": name}, {"image_id": image(2)}]))
    assert ids(store.eligible(name, 1, MARGIN, 5, [])) == [image(1)]
    assert store.watermark(name, 1).rows == 1
    assert store.rows_of([image(1)], ["model_name"])["model_name"].to_pylist() == [name]


# ---------------------------------------------------------------------- reading
def test_rows_of_gives_every_prediction_of_the_images_newest_first(store: PredictionStore) -> None:
    store.append(
        prediction_rows(
            [{"image_id": image(n % 3), "model_version": n, "logged_at": after(n)} for n in range(6)],
        )
    )
    found = store.rows_of([image(0), image(1)], ["image_id", "model_version"])
    assert found["model_version"].to_pylist() == [4, 3, 1, 0]
    assert store.rows_of([], ["image_id"]).num_rows == 0
    assert store.rows_of([image(0)]).schema.equals(PREDICTIONS)


def test_scan_reads_everything_since_a_moment_that_is_included(store: PredictionStore) -> None:
    rows = [{"image_id": image(n), "logged_at": after(n + 0.000_123)} for n in range(5)]
    store.append(prediction_rows(rows))
    batches = list(store.scan(["image_id"], since=after(2.000_123)))
    assert sorted(i for b in batches for i in b["image_id"].to_pylist()) == sorted(image(n) for n in (2, 3, 4))
    assert sum(len(b) for b in store.scan(["image_id", "probs"])) == 5


def test_scan_reads_one_version_where_it_is_named(store: PredictionStore) -> None:
    store.append(prediction_rows([{"image_id": image(n), "model_version": n % 2} for n in range(6)]))
    store.append(prediction_rows([{"image_id": image(1), "model_name": "other"}]))
    batches = store.scan(["image_id"], model_name="digits", model_version=1)
    assert sorted(one for batch in batches for one in ids(batch)) == sorted(image(n) for n in (1, 3, 5))


def test_an_image_scored_again_for_a_selection_is_read_and_is_no_traffic(store: PredictionStore) -> None:
    again = {"source": "rescore", "model_version": 2}
    store.append(prediction_rows([{"image_id": image(9), "logged_at": after(9), **again}]))
    assert store.watermark() == Watermark(0, None, "empty")
    store.append(prediction_rows([{"image_id": image(n), "logged_at": after(n)} for n in range(2)]))
    before = store.watermark()
    assert (before.rows, before.last_logged_at) == (2, after(1))
    store.append(prediction_rows([{"image_id": image(0), "logged_at": after(20), **again}]))
    assert store.watermark() == before
    assert store.watermark("digits", 2).rows == 0
    assert store.rows_of([image(0)], ["model_version"])["model_version"].to_pylist() == [2, 1]


@pytest.mark.parametrize("moments", [1, 2, 10], ids=["all at once", "two moments", "one by one"])
def test_a_log_of_many_pages_is_read_once(
    store: PredictionStore, monkeypatch: pytest.MonkeyPatch, moments: int
) -> None:
    monkeypatch.setattr(kusto, "PAGE", 3)
    rows = prediction_rows([{"image_id": image(n), "logged_at": after(n % moments)} for n in range(10)])
    store.append(rows)
    read = [one for batch in store.scan(["prediction_id", "probs"]) for one in batch["prediction_id"].to_pylist()]
    assert sorted(read) == sorted(rows["prediction_id"].to_pylist())


def test_the_watermark_counts_rows_and_knows_the_newest_to_the_microsecond(store: PredictionStore) -> None:
    store.append(prediction_rows([{"image_id": image(1), "logged_at": after(0.123_456)}]))
    store.append(prediction_rows([{"image_id": image(1), "logged_at": after(0.123_455), "model_version": 2}]))
    assert (store.watermark().rows, store.watermark().last_logged_at) == (2, after(0.123_456))
    assert store.watermark("digits", 2).last_logged_at == after(0.123_455)
    assert store.watermark("digits", 3).rows == 0


def test_the_token_changes_with_every_append_and_with_nothing_else(store: PredictionStore) -> None:
    tokens = [store.watermark().token]
    for n in range(10):
        store.append(prediction_rows([{"image_id": image(n)}]))
        tokens.append(store.watermark().token)
    assert len(set(tokens)) == 11
    store.compact()
    assert store.watermark().token == tokens[-1]


def test_a_log_too_large_to_be_sorted_in_the_memory_there_is_becomes_few_files_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delta, "SORT_BYTES", 1 << 20)
    monkeypatch.setattr(delta, "SORT_SHARE", 0)
    store = PREDICTION_STORES["delta"](tmp_path, LEDGER_STORES["delta"](tmp_path))
    wide = [float(n) for n in range(4096)]
    for file in range(delta.SMALL_FILES):
        rows = [{"image_id": image(100 * file + n), "margin": n / 100, "embedding": wide} for n in range(100)]
        store.append(prediction_rows(rows))
    done = store.compact()
    assert (done["files_before"], done["files_after"]) == (delta.SMALL_FILES, 1)
    assert not pl.scan_delta(str(tmp_path / "predictions")).collect()["margin"].is_sorted(), "there was memory enough"
    assert store.count_eligible("digits", 1) == 100 * delta.SMALL_FILES
    first = sorted(image(100 * file) for file in range(delta.SMALL_FILES))
    assert ids(store.eligible("digits", 1, MARGIN, delta.SMALL_FILES, ["embedding"])) == first


# ---------------------------------------------------------------------- bad rows
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"margin": math.nan}, r"row 1 \(image '.*'\): margin is not a finite number"),
        ({"confidence": None}, "row 1 .*confidence is null"),
        ({"image_key": 5}, "row 1 .*image_key is not that of image_id"),
        ({"image_id": "../../etc/passwd", "image_key": 5}, "row 1 .*not a content id"),
        ({"model_name": ""}, "model_name is empty"),
    ],
)
def test_a_row_that_selection_could_not_order_is_refused_and_named(
    store: PredictionStore, change: dict[str, Any], message: str
) -> None:
    rows = prediction_rows([{"image_id": image(0)}, {"image_id": image(1)}])
    broken = pa.Table.from_pylist([rows.to_pylist()[0], rows.to_pylist()[1] | change], schema=PREDICTIONS)
    with pytest.raises(ValueError, match=message):
        store.append(broken)
    assert store.watermark().rows == 0


def test_rows_of_another_schema_are_refused(store: PredictionStore) -> None:
    rows = prediction_rows([{"image_id": image(0)}])
    with pytest.raises(ValueError, match=r"missing \['probs'\], unknown \['extra'\]"):
        store.append(rows.drop_columns(["probs"]).append_column("extra", pa.array([1])))
    with pytest.raises(ValueError, match="not rows of the prediction log"):
        store.append(rows.set_column(3, "image_uri", pa.array([{"a": 1}])))


# ---------------------------------------------------------------------- parity
def naive_eligible(
    rows: list[dict[str, Any]], version: int, order: Order, limit: int, taken: Collection[str]
) -> list[str]:
    newest: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row["model_version"] == version:
            known = newest.get(row["image_id"])
            if known is None or (row["logged_at"], row["prediction_id"]) > (
                known["logged_at"],
                known["prediction_id"],
            ):
                newest[row["image_id"]] = row
    sign = -1 if order.descending else 1

    def place(row: dict[str, Any]) -> tuple[float, str]:
        if order.column == "random":
            return (int(image_keys([row["image_id"]])[0]) - order.pivot) % (1 << 60), row["image_id"]
        return sign * row[order.column], row["image_id"]

    free = [row for row in newest.values() if row["image_id"] not in taken]
    return [row["prediction_id"] for row in sorted(free, key=place)][:limit]


# Some of these ids share their key: a store may use keys to find rows, never to tell images apart.
IMAGES = [image(n) for n in range(20)] + [f"{image(0)[:15]}{n:017x}" for n in range(3)]


def random_log(chance: random.Random, count: int) -> list[dict[str, Any]]:
    """Few images, few scores, few moments: everything ties with everything."""
    scores = [0.0, 0.125, 0.25, 0.5, 1.0][: chance.randint(1, 5)]
    names = chance.sample(range(count), count)
    return [
        {
            "image_id": chance.choice(IMAGES),
            "model_version": chance.choice([1, 1, 1, 2]),
            "margin": chance.choice(scores),
            "entropy": chance.choice(scores),
            "confidence": chance.choice(scores),
            "logged_at": after(43_200 * chance.randint(0, 3)),
            "prediction_id": f"p{name:02d}",
        }
        for name in names
    ]


ORDERS = st.one_of(
    st.builds(Order, st.sampled_from(["confidence", "margin", "entropy"]), st.booleans()),
    st.builds(Order, st.just("random"), st.just(False), st.integers(0, 99)),
)


@pytest.mark.parametrize("name", PREDICTION_STORES)
@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # a random log does not shrink, it only changes
)
@given(
    chance=st.randoms(use_true_random=False),
    count=st.integers(0, 70),
    questions=st.lists(st.tuples(ORDERS, st.integers(0, 8), st.integers(0, 3)), min_size=4, max_size=8),
)
def test_every_answer_is_that_of_the_naive_twin(
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    chance: random.Random,
    count: int,
    questions: list[tuple[Order, int, int]],
) -> None:
    monkeypatch.setattr(delta, "SLACK", 1)  # so that few rows go the way of many
    rows = random_log(chance, count)
    selected, labeled = (
        chance.sample(IMAGES, chance.randint(0, 6)),
        chance.sample(IMAGES, chance.randint(0, 3)),
    )
    with tempfile.TemporaryDirectory(dir=tmp_path_factory.getbasetemp()) as folder:
        ledgers = LEDGER_STORES[name](Path(folder))
        store = PREDICTION_STORES[name](Path(folder), ledgers)
        pieces = chance.randint(1, 3)
        for piece in range(pieces):
            store.append(prediction_rows(rows[piece::pieces]))
        chosen = [{"round": 1, "image_id": i, "model_version": 2} for i in selected]
        ledgers.insert_new("selections", table_of(SELECTIONS, chosen), ["image_id"])
        ledgers.insert_new("labels", table_of(LABELS, [{"image_id": i} for i in labeled]), ["image_id"])
        for order, limit, exclude in questions:
            excluded = chance.sample(IMAGES, exclude)
            part = chance.choice([None, TEACHING, JUDGING])
            found = store.eligible("digits", 1, order, limit, ["prediction_id", "image_uri"], excluded, part)
            gone = {*selected, *labeled, *excluded, *not_of(part)}
            assert found["prediction_id"].to_pylist() == naive_eligible(rows, 1, order, limit, gone)
        for part in (None, TEACHING, JUDGING):
            everyone = naive_eligible(rows, 1, MARGIN, len(rows), {*selected, *labeled, *not_of(part)})
            assert store.count_eligible("digits", 1, part) == len(everyone)


def not_of(part: Part | None) -> list[str]:
    """The images that a part does not hold."""
    return [] if part is None else [one for one in IMAGES if not part.reserve.holds(one, part.role)]


def test_of_any_version_an_image_has_its_newest_prediction(store: PredictionStore) -> None:
    rows = [
        {"image_id": image(1), "model_version": 1, "margin": 0.1, "logged_at": after(0)},
        {"image_id": image(1), "model_version": 2, "margin": 0.6, "logged_at": after(1)},
        {"image_id": image(2), "model_version": 1, "margin": 0.3},
    ]
    store.append(prediction_rows(rows))
    assert ids(store.eligible("digits", None, MARGIN, 5, [])) == [image(2), image(1)]
    assert store.count_eligible("digits", None) == 2


def test_a_strategy_is_never_offered_a_reserved_image_and_every_image_is_in_one_part(store: PredictionStore) -> None:
    names = [image(n) for n in range(200)]
    store.append(prediction_rows([{"image_id": name, "margin": 0.5} for name in names]))
    for order in (MARGIN, Order("random", seed=2)):
        taught, judged = (ids(store.eligible("digits", 1, order, 500, [], part=part)) for part in (TEACHING, JUDGING))
        assert sorted(judged) == sorted(TEACHING.reserve.among(names))
        assert sorted([*taught, *judged]) == sorted(names)


# ---------------------------------------------------------------------- a sample of the traffic
EVER = after(-1e6), after(1e6)


def test_the_traffic_of_a_version_begins_with_its_first_answer_to_a_request(store: PredictionStore) -> None:
    assert store.first_logged("digits", 1) is None
    moments = {"rescore": 1, "online": 5, "batch": 3}
    rows = [{"image_id": image(at), "source": source, "logged_at": after(at)} for source, at in moments.items()]
    store.append(prediction_rows([*rows, {"image_id": image(9), "model_version": 2, "logged_at": after(0)}]))
    assert store.first_logged("digits", 1) == after(3)
    assert store.first_logged("other", 1) is None


def test_a_sample_holds_each_image_of_the_window_once_with_its_newest_prediction_there(store: PredictionStore) -> None:
    store.append(
        prediction_rows(
            [
                {"image_id": image(1), "confidence": 0.1, "logged_at": after(0)},
                {"image_id": image(1), "confidence": 0.2, "logged_at": after(5)},
                {"image_id": image(1), "confidence": 0.3, "logged_at": after(10)},
                {"image_id": image(2), "confidence": 0.4, "logged_at": after(9.5), "source": "rescore"},
                {"image_id": image(3), "confidence": 0.5, "logged_at": after(9.5), "model_version": 2},
                {"image_id": image(4), "confidence": 0.75, "embedding": [0.5, 2.0], "logged_at": after(0)},
            ]
        )
    )
    columns = ["confidence", "embedding", "probs"]
    found = store.sample("digits", 1, after(0), after(10), 9, columns, seed=1).to_pylist()
    assert {row["image_id"]: row["confidence"] for row in found} == pytest.approx({image(1): 0.2, image(4): 0.75})
    assert {row["image_id"]: row["embedding"] for row in found} == {image(1): None, image(4): [0.5, 2.0]}
    assert {tuple(row["probs"]) for row in found} == {(0.75, 0.25)}
    assert ids(store.sample("digits", 1, after(1), after(10), 9, [], seed=1)) == [image(1)]


def test_a_smaller_sample_is_the_beginning_of_a_larger_one_in_an_order_that_the_seed_draws(
    store: PredictionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delta, "SLACK", 1)
    store.append(prediction_rows([{"image_id": image(n % 60), "logged_at": after(n)} for n in range(120)]))
    whole = ids(store.sample("digits", 1, *EVER, 99, [], seed=1))
    assert sorted(whole) == sorted(image(n) for n in range(60))
    assert ids(store.sample("digits", 1, *EVER, 7, [], seed=1)) == whole[:7]
    assert ids(store.sample("digits", 1, *EVER, 99, [], seed=2)) != whole
    assert store.sample("digits", 1, *EVER, 0, ["probs"], seed=1).num_rows == 0
    judges = ids(store.sample("digits", 1, *EVER, 99, [], seed=1, part=JUDGING))
    assert judges == [one for one in whole if JUDGING.reserve.holds(one)]


def test_an_empty_window_is_an_empty_sample(store: PredictionStore) -> None:
    assert store.sample("digits", 1, *EVER, 9, ["embedding"], seed=1).num_rows == 0
    store.append(prediction_rows([{"image_id": image(1)}]))
    found = store.sample("digits", 1, after(1), after(2), 9, ["embedding"], seed=1)
    assert (found.num_rows, found.schema.names) == (0, ["image_id", "embedding"])


# ---------------------------------------------------------------------- many processes
def append_often(adapter: str, folder: Path, worker: int) -> int:
    """Ten logs are begun by all workers at about the same time; the last one is written to and compacted at length."""
    for log in range(10):
        store = PREDICTION_STORES[adapter](folder / str(log), LEDGER_STORES[adapter](folder / str(log)))
        store.append(prediction_rows([{"image_id": image(1000 * worker)}]))
    for n in range(12):
        store.append(prediction_rows([{"image_id": image(1000 * worker + 10 * n + k + 1)} for k in range(10)]))
        if n % 6 == 5:
            store.compact()
    return 121


@pytest.mark.parametrize("name", EMBEDDED)
def test_many_processes_create_append_and_compact_at_once_and_lose_nothing(name: str, tmp_path: Path) -> None:
    with ProcessPoolExecutor(4, multiprocessing.get_context("forkserver")) as pool:
        appended = sum(pool.map(append_often, [name] * 4, [tmp_path] * 4, range(4)))
    for log in range(10):
        store = PREDICTION_STORES[name](tmp_path / str(log), LEDGER_STORES[name](tmp_path / str(log)))
        assert store.watermark().rows == (appended if log == 9 else 4)
    assert store.count_eligible("digits", 1) == appended
    assert len(set(store.rows_of([image(n) for n in range(4000)])["image_id"].to_pylist())) == appended


def test_a_log_that_is_appended_to_in_small_commits_merges_its_files_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delta, "LOOK_EVERY", 6)
    store = delta.DeltaPredictionStore(tmp_path / "log", LEDGER_STORES["delta"](tmp_path))
    wanted = [image(n) for n in range(40)]
    for n, image_id in enumerate(wanted):
        store.append(prediction_rows([{"image_id": image_id, "margin": n / 40, "model_version": 1 + n % 2}]))
    table = store._table()
    assert table is not None
    assert len(table.file_uris()) <= 2 * (6 // 2 + 6), "of two versions' files, each fewer than are crowded"
    assert ids(store.eligible("digits", 1, MARGIN, 99, [])) == wanted[::2]
    assert ids(store.eligible("digits", 2, MARGIN, 99, [])) == wanted[1::2]


# ---------------------------------------------------------------------- erasing
def test_erased_predictions_are_gone_of_all_versions_and_the_others_stay(store: PredictionStore) -> None:
    rows = [{"image_id": image(n), "model_version": v, "margin": n / 8} for n in range(4) for v in (1, 2)]
    store.append(prediction_rows(rows[:5]))
    store.append(prediction_rows(rows[5:]))
    assert store.erase([image(1), image(2)]) == 4
    assert store.rows_of([image(1), image(2)]).num_rows == 0
    assert ids(store.eligible("digits", 2, MARGIN, 9, [])) == [image(0), image(3)]
    assert store.watermark().rows == 4
    assert store.erase([image(1)]) == 0


def test_nothing_to_erase_and_what_is_no_image_id(store: PredictionStore) -> None:
    assert store.erase([image(1)]) == 0
    with pytest.raises(ValueError, match="is no image id"):
        store.erase(["' or ''='"])
