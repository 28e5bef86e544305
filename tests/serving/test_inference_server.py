"""The scoring script, unchanged, under the server that Azure ML runs in every managed online deployment."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from serving_stores import png
from small_models import CLASSES, register_model

from al_resources.azure.workspace import code_snapshot
from al_resources.platform import Platform
from al_resources.settings import load_settings
from emulators.inference_server import inference_server

MEBIBYTE = 1024 * 1024


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[httpx.Client, Platform]]:
    """A client of the server with version 1, its collector on, and the platform whose log it writes."""
    folder = tmp_path_factory.mktemp("inference")
    platform = Platform(load_settings(home=folder / "home"))
    model = platform.registry.fetch(register_model(platform))
    variables = {
        "AL_HOME": str(folder / "home"),
        "AL_SERVING__FLUSH_SECONDS": "0.1",
        "AL_SERVING__MAX_IMAGE_BYTES": str(MEBIBYTE),
    }
    code = code_snapshot(folder / "container")
    with inference_server(code, model, variables) as address, httpx.Client(base_url=address, timeout=60) as client:
        yield client, platform


def wait_until(condition: Callable[[], bool]) -> None:
    """The collector works in the background."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it did not come true within 30 s"
        time.sleep(0.05)


def body(*images: bytes) -> dict[str, Any]:
    data = [base64.b64encode(image).decode() for image in images]
    return {"input_data": {"columns": ["image"], "data": data}}


RAW = {"content-type": "application/octet-stream"}
JSON = {"content-type": "application/json"}

MALFORMED: list[tuple[str, bytes, dict[str, str], int]] = [
    ("nothing", b"", RAW, 422),
    ("nothing at all", b"", {}, 422),
    ("no image", b"no image", RAW, 422),
    ("half an image", png(1)[:30], RAW, 422),
    ("random bytes", bytes(range(256)) * 9, {}, 422),
    ("an image that is too large", b"\x89PNG" + bytes(MEBIBYTE), RAW, 413),
    ("cut JSON", b'{"input_data": {', JSON, 400),
    ("JSON of another form", b"{}", JSON, 400),
    ("a list", b"[1, 2]", JSON, 400),
    ("nesting without end", b"[" * 100_000, JSON, 400),
    ("bytes that are no UTF-8", b'{"input_data": "\xff\xfe"}', JSON, 400),
    ("no base64", b'{"input_data": {"columns": ["image"], "data": ["%"]}}', JSON, 422),
    ("a number for an image", b'{"input_data": {"columns": ["image"], "data": [7]}}', JSON, 422),
    ("no image column", b'{"input_data": {"columns": ["x"], "data": ["eA=="]}}', JSON, 400),
    ("a path out of the store", b'{"data": {"img_path": "../al.toml"}}', JSON, 400),
    ("an image that is not there", b'{"data": {"img_path": "nowhere.png"}}', JSON, 404),
    ("a broken form", b"--x\r\nbroken", {"content-type": "multipart/form-data; boundary=x"}, 422),
]


def test_every_form_of_an_image_is_answered_alike_and_logged(deployed: tuple[httpx.Client, Platform]) -> None:
    client, platform = deployed
    platform.blobs.write("images/a.png", png(1))
    answers = [
        client.post("/score", content=png(1), headers=RAW),
        client.post("/score", json=body(png(1))),
        client.post("/score", json={"data": {"img_path": "images/a.png"}}),
        client.post("/score", files={"image": ("a.png", png(1))}),
    ]
    assert [answer.status_code for answer in answers] == [200] * 4
    assert len({tuple(answer.json()[0]["probs"]) for answer in answers}) == 1
    assert answers[0].json()[0]["labels"] == list(CLASSES)
    wait_until(lambda: platform.predictions.watermark().rows >= 4)


@pytest.mark.parametrize(
    ("content", "headers", "status"), [case[1:] for case in MALFORMED], ids=[case[0] for case in MALFORMED]
)
def test_a_malformed_body_gets_a_4xx_with_its_reason_and_the_server_lives_on(
    deployed: tuple[httpx.Client, Platform], content: bytes, headers: dict[str, str], status: int
) -> None:
    client, _ = deployed
    answer = client.post("/score", content=content, headers=headers)
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]
    assert client.post("/score", content=png(2), headers=RAW).status_code == httpx.codes.OK


def test_a_refused_image_is_on_record(deployed: tuple[httpx.Client, Platform]) -> None:
    client, platform = deployed
    before = platform.ledgers.read("rejected_images").height
    assert client.post("/score", content=json.dumps(body(b"unlike the others")), headers=JSON).status_code == 422
    wait_until(lambda: platform.ledgers.read("rejected_images").height > before)
