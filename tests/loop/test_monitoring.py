"""Monitoring without Dagster, on both prediction stores: references, looks, alarms, and what follows from them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pyarrow as pa
import pytest

from al_assets.monitoring_checks import MONITORING_CHECKS, accuracy_holds, traffic_looks_as_before
from al_assets.prediction_log import prediction_log
from al_cli.status import _monitoring
from al_core.judging.drift import level
from al_core.records import LABELS, SELECTIONS, prediction_table, table_of, utc_now
from al_loop import monitoring
from al_loop.forgetting import forget
from al_loop.labeling import publish_dataset
from al_loop.monitoring import accuracy, different_images, drift, drift_on_record, drift_rows, looks_of
from al_loop.selecting import Wishes, preview
from al_loop.status import progress
from al_loop.waiting import reason_to_wait
from al_resources.endpoint import EndpointState
from al_resources.platform import Platform
from al_resources.settings import MonitoringSettings, SelectionSettings, Settings

D, KNOWN = 16, "abc"
STORES = ["delta", *(["kusto"] if find_spec("duckdb_kql") else [])]


class Serving:
    """An endpoint on which version 1 serves."""

    def state(self) -> EndpointState:
        return EndpointState(model_name="classifier", deployments={"blue": 1}, traffic={"blue": 100})


def traffic(
    tag: str, count: int, at: datetime, *, unseen: int = 0, width: int = D, embedded: bool = True, **facts: Any
) -> pa.Table:
    """Answers of a model that knows three classes; `unseen` of the images are of a fourth."""
    generator = np.random.default_rng(int.from_bytes(tag.encode(), "big"))
    labels = np.r_[np.full(unseen, 3), generator.integers(0, 3, count - unseen)]
    embeddings = 5 * np.eye(4, D)[labels] + generator.standard_normal((count, D))
    odds = np.exp(embeddings[:, :3])
    return prediction_table(
        image_ids=ids_of(tag, count),
        image_uris=["images/x.png"] * count,
        image_hashes=[None] * count,
        model_name="classifier",
        model_version=1,
        classes=tuple(KNOWN),
        probs=odds / odds.sum(axis=1, keepdims=True),
        source="online",
        embeddings=embeddings[:, :width] if embedded else None,
        latency_ms=[3.0] * count,
        logged_at=at,
        **facts,
    )


def ids_of(tag: str, count: int) -> list[str]:
    return [hashlib.blake2b(f"{tag}{number}".encode(), digest_size=16).hexdigest() for number in range(count)]


def days_ago(days: float) -> datetime:
    return utc_now() - timedelta(days=days)


@contextmanager
def stores_of(name: str) -> Iterator[dict[str, Any]]:
    """Log and ledgers beside those of the profile: on an emulated Data Explorer."""
    if name == "delta":
        yield {}
        return
    from al_resources.azure.data_explorer import KustoDatabase, setup_commands
    from al_resources.ledgers.kusto import KustoLedgers
    from al_resources.prediction_store.kusto import KustoPredictionStore
    from al_resources.settings.azure_data import AzureDataSettings
    from emulators.kusto import KustoEmulator

    with KustoEmulator() as emulator:
        addresses = {"kusto_uri": emulator.url, "kusto_ingest_uri": emulator.url, "kusto_ingestion": "streaming"}
        database = KustoDatabase(AzureDataSettings.model_validate(addresses))
        for command in setup_commands():
            database.command(command)
        yield {"predictions": KustoPredictionStore(database), "ledgers": KustoLedgers(database)}


@pytest.fixture(params=STORES)
def platform(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Platform]:
    """A model serves; its answers go to the store under test."""
    settings = Settings(
        home=tmp_path / "home",
        monitoring=MonitoringSettings(drift_share=0.5, opens_round=True),
        selection=SelectionSettings(budget=10),
    )
    with stores_of(request.param) as parts:
        yield Platform(settings, endpoint=Serving(), **parts)


@pytest.fixture
def local(tmp_path: Path) -> Platform:
    """The same on one machine, for what the store has no part in."""
    settings = Settings(home=tmp_path / "home", monitoring=MonitoringSettings(drift_share=0.5, opens_round=True))
    return Platform(settings, endpoint=Serving())


# ---------------------------------------------------------------------- looks and alarms
def test_a_stream_that_drifts_raises_the_alarm_and_its_images_are_named(platform: Platform) -> None:
    assert drift(platform).sentence == "v1 has no traffic yet"
    platform.predictions.append(traffic("first", 600, days_ago(3)))
    assert drift(platform).sentence.startswith("nothing came in after the reference of v1 was drawn; no traffic for 3")
    platform.predictions.append(traffic("like it", 300, days_ago(1.5)))
    calm = drift(platform)
    assert not calm.alarm
    assert calm.look is not None
    assert (calm.look.images, calm.look.reference_images, calm.look.number) == (300, 600, 1)
    assert calm.look.features == "embeddings and probabilities"
    assert calm.quiet_days == 1
    assert drift(platform) == calm, "nothing came in, so there is nothing to look at again"

    platform.predictions.append(traffic("other", 300, days_ago(0.1), unseen=90))
    found = drift(platform)
    assert found.alarm
    assert found.look is not None
    assert found.look.p_value <= found.look.level == level(0.05, 2)
    assert "differs from its reference since" in found.sentence
    assert found.look.latency_ms == (3.0, 3.0)
    assert drift_on_record(platform) == found
    named = different_images(platform, 1)["image_id"].head(50).to_list()
    assert len(set(named) & set(ids_of("other", 90))) > 35
    assert [look.raised for look in looks_of(platform, 1)] == [False, True]

    rows = drift_rows(platform, 1, 4, {})
    assert len(rows) == 4
    assert {row["reason"] for row in rows} == {"drift"}
    assert not platform.settings.holdout.judges.among([row["image_id"] for row in rows])


def test_an_alarm_stands_though_the_next_look_sees_nothing_and_only_for_a_week(
    local: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    local.predictions.append(traffic("first", 400, days_ago(3)))
    local.predictions.append(traffic("other", 200, days_ago(1.2), unseen=100))
    alarm = drift(local)
    assert alarm.alarm
    local.predictions.append(traffic("like it", 400, utc_now()))
    after = drift(local)
    assert after.look is not None
    assert not after.look.raised
    assert after.alarm
    later = utc_now() + timedelta(days=8)
    monkeypatch.setattr(monitoring, "utc_now", lambda: later)
    assert not drift_on_record(local).alarm


def test_looks_of_a_day_spend_ever_less_and_keep_a_distance_after_the_first(local: Platform) -> None:
    local.predictions.append(traffic("first", 400, days_ago(3)))
    for number in range(monitoring.FREE_LOOKS + 2):
        local.predictions.append(traffic(f"{number}", 120, utc_now()))
        drift(local)
    looks = looks_of(local, 1)
    if len({look.day for look in looks}) == 1:  # not at midnight
        assert [look.level for look in looks] == [level(0.05, n + 1) for n in range(monitoring.FREE_LOOKS)]


# ---------------------------------------------------------------------- what there is too little of
def test_a_reference_is_collected_first(tmp_path: Path) -> None:
    platform = Platform(Settings(home=tmp_path), endpoint=Serving())
    platform.predictions.append(traffic("first", 300, days_ago(0.5)))
    assert "the reference of v1 is collected until" in drift(platform).sentence
    assert "nobody has looked" in drift_on_record(platform).sentence


def test_too_few_images_are_said(local: Platform) -> None:
    local.predictions.append(traffic("first", 150, days_ago(3)))
    assert drift(local).sentence == "v1 answered 150 images so far; a reference needs 200"
    local.predictions.append(traffic("more", 150, days_ago(2)))
    drift(local)
    local.predictions.append(traffic("few", 60, utc_now()))
    assert drift(local).sentence == "60 images of v1 to look at in 30 days, 100 are needed"
    assert drift(local).look is None


def test_without_a_model_nothing_is_watched(tmp_path: Path) -> None:
    platform = Platform(Settings(home=tmp_path))
    assert drift(platform).sentence == drift_on_record(platform).sentence == accuracy(platform).sentence
    assert drift(platform).sentence == "no model serves yet"


def test_embeddings_of_another_encoder_in_the_log_are_counted_and_left_out(local: Platform) -> None:
    local.predictions.append(traffic("first", 300, days_ago(3)))
    local.predictions.append(traffic("like it", 150, utc_now()))
    local.predictions.append(traffic("stray", 40, utc_now(), width=D - 3))
    look = drift(local).look
    assert look is not None
    assert (look.images, sum(look.left_out.values())) == (150, 40)
    assert "another encoder" in next(iter(look.left_out))


def test_a_log_without_embeddings_is_compared_by_probabilities(local: Platform) -> None:
    local.predictions.append(traffic("first", 300, days_ago(3), embedded=False))
    local.predictions.append(traffic("like it", 150, utc_now(), embedded=False))
    look = drift(local).look
    assert look is not None
    assert look.features.startswith("probabilities alone")


def test_images_that_the_version_was_trained_on_are_no_reference(
    local: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers them surer than any other: once they are among the traffic, only reserved images are compared."""
    reserved = set(local.settings.holdout.judges.among(ids_of("first", 1_000)))
    taught = [image_id for image_id in ids_of("first", 1_000) if image_id not in reserved][:200]
    monkeypatch.setattr(monitoring, "_trained_on", lambda platform, version: taught)
    local.predictions.append(traffic("first", 1_000, days_ago(3)))
    local.predictions.append(traffic("like it", 900, utc_now()))
    look = drift(local).look
    assert look is not None
    assert look.reserved_only
    assert look.reference_images == len(reserved)
    assert look.images == len(local.settings.holdout.judges.among(ids_of("like it", 900)))


# ---------------------------------------------------------------------- what follows from an alarm
@pytest.fixture
def drifted(local: Platform) -> Platform:
    local.predictions.append(traffic("first", 400, days_ago(3)))
    local.predictions.append(traffic("other", 200, utc_now(), unseen=100))
    assert drift(local).alarm
    return local


def test_a_share_of_the_batch_goes_to_the_images_that_differ(
    drifted: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("al_loop.rescoring.asking_version", lambda platform, serving: serving)
    monkeypatch.setattr("al_loop.decisions.challengers", lambda platform, serving: [])
    monkeypatch.setattr("al_loop.strategy_inputs.strategy_context", lambda platform, version: None)
    chosen, facts = preview(drifted, Wishes(budget=20))
    assert facts["images that differ"] == chosen.filter(reason="drift").height == 10
    assert chosen["image_id"].is_unique().all()
    assert chosen.height == 20


def test_an_alarm_opens_one_round_early(drifted: Platform) -> None:
    many = SelectionSettings(min_new_predictions=10_000)
    wanting = Platform(drifted.settings.model_copy(update={"selection": many}), endpoint=Serving())
    assert reason_to_wait(wanting) is None
    row = {"round": 0, "image_id": ids_of("first", 1)[0], "selected_at": utc_now()}
    drifted.ledgers.insert_new("selections", table_of(SELECTIONS, [row]), ["round", "image_id"])
    waits = reason_to_wait(wanting)
    assert waits is not None
    assert "min_new_predictions" in waits.sentence


def test_a_forgotten_image_is_in_no_reference_and_on_no_list(drifted: Platform) -> None:
    first, worst = ids_of("first", 1)[0], different_images(drifted, 1)["image_id"][0]
    for image_id in (first, worst):
        assert forget(drifted, image_id)["places in monitoring"] == 1
    files = [blob.path for blob in drifted.blobs.list("monitoring") if blob.path.endswith(".parquet")]
    assert len(files) == 2
    for path in files:
        content = drifted.blobs.read(path)
        assert first.encode() not in content
        assert worst.encode() not in content


def test_the_check_warns_with_pictures_and_figures_and_the_status_says_it(drifted: Platform) -> None:
    result = traffic_looks_as_before(drifted)
    assert isinstance(result, dg.AssetCheckResult)
    assert not result.passed
    assert result.severity == dg.AssetCheckSeverity.WARN
    assert {"p-value", "class mix", "evidence, look by look", "confidence", "images that differ most"} <= set(
        result.metadata
    )
    facts = progress(drifted)["monitoring"]
    assert facts["drift"]["alarm"]
    told = "\n".join(_monitoring(facts))
    assert "[yellow]drift[/] the traffic of v1 differs" in told
    assert "no control image of v1 has a label yet" in told


# ---------------------------------------------------------------------- accuracy
def with_control(platform: Platform, wrong: int, labels: int = 40) -> None:
    """Two rounds of control images drawn from the traffic, labeled; the first `wrong` otherwise than predicted."""
    measuring = platform.settings.holdout.judges.among(ids_of("first", 1_500), "measure")[:labels]
    logged = platform.predictions.rows_of(measuring, ["image_id", "prediction_id", "predicted_label"]).to_pylist()
    by_id = {row["image_id"]: row for row in logged}
    chosen = [
        {
            "round": 1 + place % 2,
            "image_id": one,
            "image_uri": "images/x.png",
            "rank": place,
            "reason": "control",
            "model_version": 1,
            "prediction_id": by_id[one]["prediction_id"],
            "selected_at": utc_now(),
        }
        for place, one in enumerate(measuring)
    ]
    platform.ledgers.insert_new("selections", table_of(SELECTIONS, chosen), ["round", "image_id"])
    answers = [
        {
            "image_id": one,
            "label": "z" if place < wrong else by_id[one]["predicted_label"],
            "annotator": "ann",
            "labeled_at": utc_now(),
            "export_id": "e",
            "round": 2,
            "answer": 0,
        }
        for place, one in enumerate(measuring)
    ]
    platform.ledgers.insert_new("labels", table_of(LABELS, answers), ["image_id"])
    publish_dataset(platform, 2)


def test_the_accuracy_on_the_traffic_comes_from_the_control_slice_round_by_round(platform: Platform) -> None:
    platform.predictions.append(traffic("first", 1_500, days_ago(0.1)))
    assert accuracy(platform).sentence == "no control image of v1 has a label yet"
    with_control(platform, wrong=4)
    state = accuracy(platform)
    assert [(point.version, point.round, point.labels) for point in state.points] == [(1, 1, 20), (1, 2, 40)]
    newest = state.newest
    assert newest is not None
    assert newest.from_labels_alone == 0.9
    assert newest.accuracy.low < 0.9 < newest.accuracy.high
    assert newest.accuracy.high - newest.accuracy.low < 0.35
    assert newest.without_labels is None, "a version that nobody evaluated has no threshold"
    assert state.sentence.startswith("v1 is right on 0.")
    result = accuracy_holds(platform)
    assert isinstance(result, dg.AssetCheckResult)
    assert result.passed
    assert "accuracy over time" in result.metadata


@pytest.mark.skipif("kusto" not in STORES, reason="needs duckdb-kql")
def test_both_stores_see_the_same(tmp_path: Path) -> None:
    tables = [traffic("first", 400, days_ago(3)), traffic("other", 150, days_ago(0.5), unseen=20)]
    seen = []
    for name in STORES:
        with stores_of(name) as parts:
            one = Platform(Settings(home=tmp_path / name), endpoint=Serving(), **parts)
            for table in tables:
                one.predictions.append(table)
            look = drift(one).look
            assert look is not None
            seen.append(look.model_dump(exclude={"looked_at", "alarm_since", "raised_at"}))
    for figure in ("p_value", "predictions_per_day", "auc"):
        assert seen[0].pop(figure) == pytest.approx(seen[1].pop(figure))
    assert seen[0] == seen[1]


def test_a_stream_that_drifts_in_an_instance_raises_the_check_and_fails_nothing(drifted: Platform) -> None:
    with dg.instance_for_test() as instance:
        done = dg.materialize(
            [prediction_log.of(), *(check.of() for check in MONITORING_CHECKS)],
            instance=instance,
            resources={"platform": drifted},
        )
        assert done.success
        found = {one.check_name: one for one in done.get_asset_check_evaluations()}
    assert set(found) == {"traffic_looks_as_before", "accuracy_holds"}
    assert not found["traffic_looks_as_before"].passed
    assert found["traffic_looks_as_before"].severity == dg.AssetCheckSeverity.WARN
    assert "differs from its reference" in (found["traffic_looks_as_before"].description or "")
    assert found["accuracy_holds"].passed
