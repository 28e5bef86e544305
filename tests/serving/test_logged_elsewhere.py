"""`POST /log`: what a model that is served elsewhere answered is logged like an answer of our own."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from serving_stores import png
from small_models import service_of

from al_core.images import content_id
from al_resources.platform import Platform

COLUMNS = ["prediction_id", "image_id", "image_uri", "image_hash", "model_name", "model_version", "predicted_label",
           "probs", "source", "latency_ms"]  # fmt: skip


@pytest.fixture
def client(platform: Platform) -> Iterator[httpx.Client]:
    """Of a service that has no deployment, nor needs one."""
    with service_of(platform) as address, httpx.Client(base_url=address, timeout=30) as client:
        yield client


def answer(number: int, **more: Any) -> dict[str, Any]:
    return {"image": base64.b64encode(png(number)).decode(), "probs": [0.75, 0.25], **more}


def body(*answers: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"model_name": "theirs", "model_version": 7, "classes": ["cat", "dog"], "predictions": answers, **more}


def logged(platform: Platform, rows: int) -> list[dict[str, Any]]:
    deadline = time.monotonic() + 20
    while platform.predictions.watermark().rows < rows and time.monotonic() < deadline:
        time.sleep(0.05)
    return [row for batch in platform.predictions.scan(COLUMNS) for row in batch.to_pylist()]


def test_answers_reach_the_log_with_their_images_and_can_be_selected(platform: Platform, client: httpx.Client) -> None:
    told = client.post("/log", json=body(answer(1, latency_ms=12.5, prediction_id="a"), answer(2)))
    assert (told.status_code, told.json()) == (200, {"logged": 2, "refused": []})
    rows = {row["image_id"]: row for row in logged(platform, 2)}
    row = rows[content_id(png(1))]
    assert (row["prediction_id"], row["latency_ms"], row["source"]) == ("a", 12.5, "online")
    assert (row["model_name"], row["model_version"], row["predicted_label"]) == ("theirs", 7, "cat")
    np.testing.assert_allclose(row["probs"], [0.75, 0.25], atol=1e-3)
    assert row["image_hash"]
    assert platform.images.read(row["image_uri"]) == png(1)
    assert platform.predictions.count_eligible("theirs", 7) == 2
    assert client.post("/score", content=png(1)).status_code == 503, "nothing is deployed"


def test_what_is_sent_twice_under_one_id_counts_once(platform: Platform, client: httpx.Client) -> None:
    for _ in range(2):
        assert client.post("/log", json=body(answer(1, prediction_id="once"))).status_code == 200
    client.post("/log", json=body(answer(2)))
    logged(platform, 3)
    assert platform.predictions.count_eligible("theirs", 7) == 2


def test_an_image_that_cannot_be_read_is_on_record_and_the_others_are_logged(
    platform: Platform, client: httpx.Client
) -> None:
    told = client.post("/log", json=body(answer(1), {**answer(2), "image": "bm8gaW1hZ2U=", "name": "b.png"}))
    assert told.status_code == 200
    assert told.json()["logged"] == 1
    assert [each["filename"] for each in told.json()["refused"]] == ["b.png"]
    deadline = time.monotonic() + 20
    while not platform.ledgers.read("rejected_images").height and time.monotonic() < deadline:
        time.sleep(0.05)
    assert platform.ledgers.read("rejected_images")["name"].to_list() == ["b.png"]
    alone = client.post("/log", json=body({**answer(2), "image": "!"}))
    assert alone.status_code == 422
    assert "no base64" in alone.json()["refused"][0]["error"]


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (body(), "predictions"),
        (body({**answer(1), "probs": [1.0]}), "predictions.0.probs: 1 numbers for 2 classes"),
        (body({**answer(1), "probs": [0.9, 0.9]}), "predictions.0.probs"),
        (body(answer(1), {**answer(2), "probs": [0.5, "0.5"]}), "predictions.1.probs.1"),
        (body(answer(1, prediction_id="' or 1")), "predictions.0.prediction_id"),
        (body(answer(1, prob=1)), "predictions.0.prob"),
        (body(answer(1), classes=["cat", "cat"]), "classes"),
        (body(answer(1), model_name="The irs"), "model_name"),
        (body(answer(1), model_version=0), "model_version"),
        ([], "the body"),
    ],
)
def test_a_body_that_is_wrong_is_refused_whole_and_the_place_is_named(
    platform: Platform, client: httpx.Client, sent: Any, said: str
) -> None:
    told = client.post("/log", json=sent)
    assert told.status_code == 400
    assert said in told.json()["error"]
    assert platform.predictions.watermark().rows == 0


def test_numbers_that_are_none_and_bodies_that_are_no_json_are_refused(client: httpx.Client) -> None:
    text = '{"model_name": "m1", "model_version": 1, "classes": ["a"], "predictions": [{"image": "", "probs": [NaN]}]}'
    for content in (text, "\xff", "[" * 10_000):
        told = client.post("/log", content=content.encode("latin-1"))
        assert told.status_code == 400, told.text


def test_a_full_log_takes_nothing_and_says_when_to_come_back(
    platform: Platform, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    from al_serving.collector import Collector

    monkeypatch.setattr(Collector, "full", property(lambda collector: True))
    told = client.post("/log", json=body(answer(1)))
    assert told.status_code == 503
    assert told.headers["retry-after"] == "5"


def test_more_pixels_than_a_request_may_have_are_refused_whole(platform: Platform) -> None:
    from al_serving.logged_elsewhere import ElsewhereAnswers, Limits, taken
    from al_serving.payloads import BadRequest

    answers = ElsewhereAnswers.model_validate(body() | {"predictions": [answer(1), answer(2)]})
    assert len(taken(answers, Limits(10_000, 10_000, 10_000)).predictions) == 2
    with pytest.raises(BadRequest, match="max_request_pixels"):
        taken(answers, Limits(10_000, 10_000, 1))
    too_large = taken(answers, Limits(3, 10_000, 10_000)).rejections
    assert all(each.reason.endswith("scale it down") for each in too_large)
    assert len(too_large) == 2


def test_three_lines_in_a_service_of_ones_own_log_its_answers_as_the_guide_has_them(platform: Platform) -> None:
    guide = (Path(__file__).parents[2] / "docs/operations.md").read_text()
    begin = guide.index("from al_serving.collector import")
    lines = [line.strip() for line in guide[begin : guide.index("\n\n", begin)].splitlines()]
    assert len(lines) == 3
    probs = np.array([0.75, 0.25], np.float32)
    names: dict[str, Any] = {"Platform": lambda: platform, "content_id": content_id, "image": png(1), "probs": probs}
    exec("\n".join(lines), names)
    names["collector"].close(timeout=30.0)
    (row,) = logged(platform, 1)
    assert (row["model_name"], row["model_version"], row["predicted_label"]) == ("theirs", 7, "cat")
    assert platform.images.read(row["image_uri"]) == png(1)
