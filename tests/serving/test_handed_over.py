"""Answers that the log does not take survive the disk they were written to: the blob store has them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from click.testing import CliRunner
from serving_stores import Stores, prediction

from al_assets.prediction_log import prediction_log
from al_cli.main import cli
from al_resources.platform import Platform
from al_resources.settings import load_settings
from al_serving.collector import Rejection
from al_serving.handed_over import FOLDER, UNREADABLE, Delivered, deliver, waiting


@pytest.fixture
def stores(tmp_path: Path) -> Stores:
    return Stores(tmp_path)


@pytest.fixture
def platform(stores: Stores) -> Platform:
    return Platform(load_settings(home=stores.folder))


def answers(stores: Stores, platform: Platform, count: int = 3) -> None:
    """So many answers of a container whose log is away, and which ends with its disk."""
    collector = stores.collector(lasting=platform.blobs, flush_seconds=0.05)
    collector.offer([replace(prediction(number), name=f"{number}.png") for number in range(count)])
    collector.flush()
    collector.close(timeout=1)
    shutil.rmtree(stores.folder / "spool")


def test_what_the_log_does_not_take_outlives_the_container_and_is_delivered_once(
    stores: Stores, platform: Platform
) -> None:
    stores.broken = True
    answers(stores, platform)
    assert waiting(platform.blobs) == 1
    assert stores.logged().num_rows == 0
    assert deliver(platform) == Delivered(segments=1, rows=3, unreadable=0)
    assert waiting(platform.blobs) == 0
    logged = stores.logged()
    assert sorted(logged["image_id"].to_pylist()) == sorted(prediction(number).image_id for number in range(3))
    assert all(platform.images.read(uri) for uri in logged["image_uri"].to_pylist())
    names = platform.ledgers.read("image_names").select("name", "image_id").rows()
    assert sorted(names) == [(f"{number}.png", prediction(number).image_id) for number in range(3)]
    assert deliver(platform) == Delivered(0, 0, 0)


def test_rows_that_were_in_the_log_already_are_not_there_twice(stores: Stores, platform: Platform) -> None:
    """The log failed after it had written."""
    stores.fails_after_writing = 1
    answers(stores, platform)
    assert waiting(platform.blobs) == 1
    assert deliver(platform) == Delivered(segments=1, rows=0, unreadable=0)
    assert stores.logged().num_rows == 3


def test_where_the_blob_store_is_away_as_well_the_spool_keeps_them(
    stores: Stores, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any, **__: Any) -> bool:
        raise ConnectionError("the blob store is away")

    stores.broken = True
    with monkeypatch.context() as patched:
        patched.setattr(platform.blobs, "write", away)
        collector = stores.collector(lasting=platform.blobs, flush_seconds=0.05)
        collector.offer([prediction(1)])
        assert not collector.flush(0.5)
        collector.close(timeout=1)
    stores.broken = False
    with stores.collector(lasting=platform.blobs) as again:
        assert again.flush()
    assert stores.logged().num_rows == 1


def test_a_log_that_hangs_until_the_container_ends_leaves_nothing_behind(stores: Stores, platform: Platform) -> None:
    stores.open.clear()
    collector = stores.collector(lasting=platform.blobs, flush_seconds=3600)
    collector.offer([prediction(1)])
    collector.close(timeout=0.2)
    assert waiting(platform.blobs) == 1
    stores.open.set()  # and what hung comes through after all
    collector._deliverer.join(10)
    assert deliver(platform) == Delivered(segments=1, rows=0, unreadable=0)
    assert stores.logged().num_rows == 1


def test_rejected_images_take_the_same_way(stores: Stores, platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: Any, **__: Any) -> int:
        raise ConnectionError("the ledgers are away")

    with monkeypatch.context() as patched:
        patched.setattr(stores.ledgers, "insert_new", away)
        collector = stores.collector(lasting=platform.blobs, flush_seconds=0.05)
        collector.reject(Rejection("a.txt", "no image", "online"))
        collector.close(timeout=1)
    assert deliver(platform) == Delivered(segments=1, rows=1, unreadable=0)
    assert platform.ledgers.read("rejected_images")["name"].to_list() == ["a.txt"]


def test_a_segment_that_cannot_be_read_is_put_aside_and_the_others_are_delivered(
    stores: Stores, platform: Platform
) -> None:
    stores.broken = True
    answers(stores, platform)
    platform.blobs.write(f"{FOLDER}/0-predictions.arrow", b"no segment")
    assert deliver(platform) == Delivered(segments=2, rows=3, unreadable=1)
    assert [blob.path for blob in platform.blobs.list(UNREADABLE)] == [f"{UNREADABLE}/0-predictions.arrow"]


def test_the_prediction_log_delivers_them(stores: Stores, platform: Platform) -> None:
    stores.broken = True
    answers(stores, platform)
    done = dg.materialize([prediction_log.of()], resources={"platform": platform})
    (made,) = done.asset_materializations_for_node("prediction_log")
    assert made.metadata["segments from the blob store"].value == 1
    assert made.metadata["dagster/row_count"].value == 3


def test_only_a_disk_that_does_not_last_hands_over() -> None:
    azure = {"kusto_uri": "https://c.kusto.windows.net", "blob_account_url": "https://a.blob.core.windows.net"}
    assert Platform(load_settings()).profile.disk_lasts
    assert not Platform(load_settings(profile="azure", azure=azure)).profile.disk_lasts


def test_status_counts_them(stores: Stores, platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    stores.broken = True
    answers(stores, platform)
    monkeypatch.setenv("AL_HOME", str(stores.folder))
    told = json.loads(CliRunner().invoke(cli, ["status", "--json"]).stdout)
    assert told["segments_in_blob_store"] == 1
    assert "1 segments of predictions wait in the blob store" in CliRunner().invoke(cli, ["status"]).output
