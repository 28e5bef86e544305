"""The scoring service over real HTTP, with a small untrained model behind it."""

from __future__ import annotations

import base64
import json
import math
import threading
import time
from collections import Counter
from collections.abc import Callable
from io import BytesIO
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from serving_stores import png
from small_models import CLASSES, register_model, service_of

from al_core.images import content_id
from al_loop.trace import trace
from al_resources.endpoint import DEPLOYMENT_HEADER
from al_resources.platform import Platform
from al_serving import collector as collector_module

Served = tuple[Platform, httpx.Client]


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def picture(mode: str, size: tuple[int, int] = (20, 20), kind: str = "PNG", **options: Any) -> bytes:
    buffer = BytesIO()
    Image.new(mode, size).save(buffer, kind, **options)
    return buffer.getvalue()


def logged(platform: Platform, rows: int) -> list[dict[str, Any]]:
    """The prediction log, once it has so many rows."""
    deadline = time.monotonic() + 20
    while platform.predictions.watermark().rows < rows and time.monotonic() < deadline:
        time.sleep(0.05)
    columns = [
        "image_id",
        "image_uri",
        "model_version",
        "predicted_label",
        "confidence",
        "source",
        "latency_ms",
    ]
    return [row for batch in platform.predictions.scan(columns) for row in batch.to_pylist()]


def test_an_image_is_traced_by_the_name_of_its_upload_and_not_by_a_rows_number(served: Served) -> None:
    platform, client = served
    client.post("/score", files={"file": ("holiday/photo 1.png", png(1), "image/png")})
    table = {"columns": ["image"], "index": ["shelf.png", 7], "data": [encoded(png(2)), encoded(png(3))]}
    client.post("/score", json={"input_data": table})
    logged(platform, 3)
    deadline = time.monotonic() + 20
    while platform.ledgers.read("image_names").height < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert trace(platform, "photo 1.png")["image"] == content_id(png(1))
    names = platform.ledgers.read("image_names")
    assert set(names["source"]) == {"service"}
    assert len(names) == 2


def test_raw_bytes_are_answered_with_a_distribution_over_the_classes(served: Served) -> None:
    _, client = served
    answer = client.post("/score", content=png(1), headers={"content-type": "image/png"})
    assert answer.status_code == 200
    (image,) = answer.json()
    assert image["labels"] == list(CLASSES)
    assert math.isclose(sum(image["probs"]), 1, abs_tol=1e-4)
    assert image["label"] == CLASSES[int(np.argmax(image["probs"]))]
    assert image["model_version"] == 1
    assert answer.headers[DEPLOYMENT_HEADER] == "blue"
    assert answer.headers["al-model-version"] == "1"


def test_all_forms_of_one_image_get_the_same_answer(served: Served) -> None:
    platform, client = served
    image = png(1)
    platform.images.put(image)
    (stored,) = platform.blobs.list("images")
    answers = [
        client.post("/score", content=image),
        client.post("/score", files={"file": ("a.png", image, "image/png")}),
        client.post("/score", json={"input_data": {"columns": ["image"], "data": [encoded(image)]}}),
        client.post("/score", json={"data": {"datastore": "workspaceblobstore", "img_path": stored.path}}),
    ]
    assert [answer.status_code for answer in answers] == [200] * 4, [answer.text for answer in answers]
    names = [answer.json()[0].pop("filename") for answer in answers]
    assert names == [content_id(image), "a.png", "0", stored.path]
    probabilities = {tuple(answer.json()[0]["probs"]) for answer in answers}
    assert len(probabilities) == 1


def test_several_images_are_answered_in_their_order(served: Served) -> None:
    _, client = served
    images = [png(number) for number in range(5)]
    one_by_one = [client.post("/score", content=image).json()[0]["probs"] for image in images]
    form = client.post("/score", files=[("images", (f"{n}.png", image)) for n, image in enumerate(images)])
    rows = client.post("/score", json={"input_data": {"columns": ["image"], "data": [encoded(i) for i in images]}})
    assert [answer["filename"] for answer in form.json()] == [f"{n}.png" for n in range(5)]
    for answers in (form.json(), rows.json()):
        np.testing.assert_allclose([answer["probs"] for answer in answers], one_by_one, atol=1e-5)


def test_every_answer_is_logged_with_its_image(served: Served) -> None:
    platform, client = served
    answer = client.post("/score", content=png(1)).json()[0]
    (row,) = logged(platform, 1)
    assert platform.images.read(row["image_uri"]) == png(1)
    assert row["image_id"] == answer["image_id"]
    assert row["predicted_label"] == answer["label"]
    assert row["confidence"] == pytest.approx(max(answer["probs"]))
    assert (row["model_version"], row["source"]) == (1, "online")
    assert row["latency_ms"] > 0


NOISE = np.random.default_rng(0).bytes(300)
BAD_IMAGES = {
    "empty": (b"", 422, "empty"),
    "no image": (NOISE, 422, "no image"),
    "text": (b"hello", 422, "no image"),
    "truncated": (picture("RGB", (200, 200), "JPEG")[:400], 422, "broken"),
    "32-bit grey": (picture("F", kind="TIFF"), 422, "32-bit"),
    "100 megapixels": (picture("L", (10_000, 10_000), "PNG"), 422, "pixels"),
}


@pytest.mark.parametrize("case", BAD_IMAGES)
def test_an_image_that_cannot_be_scored_is_refused_and_put_on_record(served: Served, case: str) -> None:
    platform, client = served
    data, status, reason = BAD_IMAGES[case]
    answer = client.post("/score", content=data)
    assert answer.status_code == status
    assert reason in answer.json()["error"]
    deadline = time.monotonic() + 10
    while (rows := platform.ledgers.read("rejected_images")).is_empty() and time.monotonic() < deadline:
        time.sleep(0.05)
    (row,) = rows.to_dicts()
    assert row["name"] == content_id(data)
    assert reason in row["reason"]


@pytest.mark.parametrize(
    "data",
    [
        picture("I;16"),
        picture("CMYK", kind="JPEG"),
        picture("P"),
        picture("RGBA"),
        picture("RGB", kind="GIF", save_all=True, append_images=[Image.new("RGB", (20, 20), "red")]),
    ],
    ids=["16-bit", "CMYK", "palette", "transparent", "animated"],
)
def test_unusual_images_are_scored_like_others(served: Served, data: bytes) -> None:
    _, client = served
    assert client.post("/score", content=data).status_code == 200


def test_one_bad_image_does_not_spoil_the_others(served: Served) -> None:
    platform, client = served
    files = [("images", (name, data)) for name, data in [("a.png", png(1)), ("b.png", b"broken"), ("c.png", png(2))]]
    answer = client.post("/score", files=files)
    assert answer.status_code == 200
    first, bad, last = answer.json()
    assert "probs" in first
    assert "probs" in last
    assert bad["filename"] == "b.png"
    assert "no image" in bad["error"]
    assert len(logged(platform, 2)) == 2


@pytest.mark.parametrize(
    ("content", "status"),
    [
        ({"input_data": 5}, 400),
        ({"data": {"img_path": "../al.toml"}}, 400),
        ({"data": {"img_path": "/etc/passwd"}}, 400),
        ({"data": {"img_path": "images/none.png"}}, 404),
        ({"data": {"datastore": "other", "img_path": "images/none.png"}}, 404),
        ({"input_data": {"columns": ["image"], "data": ["%"]}}, 422),
        ({"input_data": {"columns": ["image"], "index": ["\ud800"], "data": ["%"]}}, 422),
    ],
)
def test_bad_requests_are_answered_with_their_reason(served: Served, content: Any, status: int) -> None:
    _, client = served
    answer = client.post("/score", content=json.dumps(content), headers={"content-type": "application/json"})
    assert answer.status_code == status
    assert answer.json()["error"]


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b"--x\r\nbroken", "multipart/form-data; boundary=y", 400),
        (b"", "multipart/form-data", 400),
        (b"--y--\r\n", "multipart/form-data; boundary=y", 400),
    ],
)
def test_bodies_that_cannot_be_parsed_are_bad_requests(served: Served, body: bytes, kind: str, status: int) -> None:
    _, client = served
    assert client.post("/score", content=body, headers={"content-type": kind}).status_code == status


def test_a_body_without_end_is_refused_before_it_is_in_memory(platform: Platform) -> None:
    small = platform.settings.serving.model_copy(update={"max_image_bytes": 1000})
    platform = Platform(platform.settings.model_copy(update={"serving": small}))
    platform.endpoint.create("blue", register_model(platform))
    platform.endpoint.set_traffic({"blue": 100})
    with service_of(platform) as address:
        assert httpx.post(f"{address}/score", content=bytes(1_001)).status_code == 413
        assert httpx.post(f"{address}/score", content=(bytes(1_000) for _ in range(10))).status_code == 413


def test_other_web_sites_cannot_send_images(served: Served) -> None:
    _, client = served
    assert client.post("/score", content=png(1), headers={"origin": "https://example.com"}).status_code == 403
    assert client.post("/score", content=png(1), headers={"host": "rebound.example.com"}).status_code == 400
    own = str(client.base_url).rstrip("/")
    assert client.post("/score", content=png(1), headers={"origin": own}).status_code == 200


def test_before_the_first_deployment_the_service_says_so(platform: Platform) -> None:
    with service_of(platform) as address:
        answer = httpx.post(f"{address}/score", content=png(1))
        assert answer.status_code == 503
        assert "no model is deployed yet" in answer.json()["error"]
        assert httpx.get(f"{address}/health/live").status_code == 200
        assert httpx.get(f"{address}/health/ready").status_code == 503


def test_readiness_tells_deployments_versions_traffic_and_revision(served: Served) -> None:
    platform, client = served
    client.post("/score", content=png(1))
    report = client.get("/health/ready").json()
    assert report["status"] == "ready"
    assert report["revision"] == platform.endpoint.state().revision
    assert report["traffic"] == {"blue": 100}
    assert report["deployments"]["blue"]["version"] == 1
    assert report["deployments"]["blue"]["requests"] == 1


def test_a_nearly_full_disk_refuses_answers_and_says_not_ready(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    platform, client = served
    whole = collector_module.shutil.disk_usage(platform.settings.home)
    monkeypatch.setattr(collector_module.shutil, "disk_usage", lambda _: whole._replace(free=1000))
    monkeypatch.setattr(collector_module, "LOOK_AT_DISK_SECONDS", -1.0)
    answer = client.post("/score", content=png(1))
    assert answer.status_code == 503
    ready = client.get("/health/ready")
    assert ready.status_code == 503
    assert "make room" in ready.json()["status"]
    assert "make room" in ready.json()["problems"]["log"]
    monkeypatch.setattr(collector_module.shutil, "disk_usage", lambda _: whole)
    assert client.post("/score", content=png(1)).status_code == 200
    assert client.get("/health/ready").status_code == 200


def test_metrics_count_requests_images_and_what_was_logged(served: Served) -> None:
    platform, client = served
    client.post("/score", content=png(1))
    client.post("/score", content=b"")
    logged(platform, 1)
    text = client.get("/metrics").text
    assert 'al_requests_total{deployment="blue",status="200"} 1.0' in text
    assert 'al_requests_total{deployment="blue",status="422"} 1.0' in text
    assert 'al_images_total{outcome="refused"} 1.0' in text
    assert 'al_deployment_version{deployment="blue"} 1.0' in text
    assert "al_collector_failures_total 0.0" in text


def test_traffic_is_split_as_the_endpoint_says(served: Served) -> None:
    platform, client = served
    platform.endpoint.create("green", register_model(platform, seed=1))
    platform.endpoint.set_traffic({"blue": 70, "green": 30})
    answers = Counter(client.post("/score", content=png(1)).headers[DEPLOYMENT_HEADER] for _ in range(300))
    assert 50 < answers["green"] < 135  # 90 expected; outside once in a million


def test_the_header_addresses_a_deployment_whatever_its_traffic(served: Served) -> None:
    platform, client = served
    platform.endpoint.create("green", register_model(platform, seed=1))
    answer = client.post("/score", content=png(1), headers={DEPLOYMENT_HEADER: "green"})
    assert answer.json()[0]["model_version"] == 2
    missing = client.post("/score", content=png(1), headers={DEPLOYMENT_HEADER: "red"})
    assert missing.status_code == 404
    assert "['blue', 'green']" in missing.json()["error"]


def test_a_model_that_answers_nonsense_is_an_error_that_health_reports(served: Served) -> None:
    platform, client = served
    platform.endpoint.create("green", register_model(platform, seed=2, poison=True))
    answer = client.post("/score", content=png(1), headers={DEPLOYMENT_HEADER: "green"})
    assert answer.status_code == 500
    assert "NaN" in answer.json()["error"] or "nan" in answer.json()["error"]
    assert "1 of 1 requests failed" in platform.endpoint.health("green")
    assert platform.endpoint.health("blue") == []
    assert any("nonsense" in line for line in platform.endpoint.logs("green"))


def test_a_model_whose_weights_were_tampered_with_does_not_come_up(served: Served) -> None:
    platform, client = served
    version = register_model(platform, seed=3)
    path = f"models/{platform.settings.model.name}/{version}/model.safetensors"
    platform.blobs.write(path, platform.blobs.read(path)[:-1] + b"x")
    with pytest.raises(Exception, match="published"):
        platform.endpoint.create("green", version)
    assert platform.endpoint.state().deployments == {"blue": 1}
    assert client.post("/score", content=png(1)).status_code == 200


def under_load(client: httpx.Client, change: Callable[[], None]) -> list[httpx.Response]:
    """Answers of four clients that send images all the time while `change` happens."""
    answers: list[httpx.Response] = []
    ending = threading.Event()

    def send(number: int) -> None:
        with httpx.Client(base_url=client.base_url, timeout=30) as own:
            while not ending.is_set():
                answers.append(own.post("/score", content=png(number)))

    threads = [threading.Thread(target=send, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    change()
    ending.set()
    for thread in threads:
        thread.join()
    return answers


def test_deployments_change_under_load_without_one_failed_request(served: Served) -> None:
    platform, client = served
    endpoint = platform.endpoint

    def roll_through_versions() -> None:
        free, live = "green", "blue"
        for seed in range(1, 5):
            if free in endpoint.state().deployments:
                endpoint.remove(free)
            endpoint.create(free, register_model(platform, seed=seed))
            endpoint.set_traffic({free: 50, live: 50})
            endpoint.set_traffic({free: 100, live: 0})
            free, live = live, free
        endpoint.remove(free)

    answers = under_load(client, roll_through_versions)
    assert {answer.status_code for answer in answers} == {200}
    seen = {answer.json()[0]["model_version"] for answer in answers}
    assert seen == {1, 2, 3, 4, 5}
    assert all(answer.headers["al-model-version"] == str(answer.json()[0]["model_version"]) for answer in answers)
    assert len(logged(platform, len(answers))) == len(answers)


def test_the_service_that_ends_has_logged_everything_it_answered(platform: Platform) -> None:
    platform.endpoint.create("blue", register_model(platform))
    platform.endpoint.set_traffic({"blue": 100})
    with service_of(platform) as address, httpx.Client(base_url=address) as client:
        for number in range(20):
            client.post("/score", content=png(number))
    assert platform.predictions.watermark().rows == 20


def test_a_service_started_later_serves_the_champion_from_its_first_request(platform: Platform) -> None:
    platform.endpoint.create("blue", register_model(platform))
    platform.endpoint.set_traffic({"blue": 100})
    with service_of(platform) as address:
        assert httpx.post(f"{address}/score", content=png(1)).status_code == 200
