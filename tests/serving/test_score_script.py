"""Azure ML's scoring script: `init()` and `run()`, as a server or a batch job calls them."""

from __future__ import annotations

import base64
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from serving_stores import png
from small_models import CLASSES, register_model

from al_resources.platform import Platform


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The script as a fresh module, as a server loads it."""
    monkeypatch.delenv("AZUREML_MODEL_DIR", raising=False)
    module = importlib.reload(importlib.import_module("al_serving.azure_ml_script"))
    yield module
    if module._collector is not None:
        module._collector.close()


@pytest.fixture
def home(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> Platform:
    """The script's own platform has the same home."""
    monkeypatch.setenv("AL_HOME", str(platform.settings.home))
    monkeypatch.setenv("AL_SERVING__FLUSH_SECONDS", "0.1")
    return platform


def body(*images: bytes) -> dict[str, Any]:
    data = [base64.b64encode(image).decode() for image in images]
    return {"input_data": {"columns": ["image"], "data": data}}


def test_the_served_version_answers_every_form_of_a_body(script: ModuleType, home: Platform) -> None:
    home.endpoint.create("blue", register_model(home))
    home.endpoint.set_traffic({"blue": 100})
    script.init()
    forms = [body(png(1)), json.dumps(body(png(1))), json.dumps(body(png(1))).encode(), png(1)]
    answers = [script.run(form) for form in forms]
    assert len({tuple(answer[0]["probs"]) for answer in answers}) == 1
    assert answers[0][0]["labels"] == list(CLASSES)
    assert script._collector.flush()
    assert home.predictions.watermark().rows == 4


def test_an_image_in_the_blob_store_is_answered_and_paths_out_of_it_are_not(script: ModuleType, home: Platform) -> None:
    home.endpoint.create("blue", register_model(home))
    home.endpoint.set_traffic({"blue": 100})
    home.blobs.write("images/a.png", png(1))
    script.init()
    assert script.run({"data": {"img_path": "images/a.png"}})[0]["filename"] == "images/a.png"
    assert script.run({"data": {"img_path": "../al.toml"}})["status"] == 400


def test_the_model_of_azure_is_found_below_its_folder_and_nothing_is_logged_without_settings(
    script: ModuleType, platform: Platform, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = platform.registry.fetch(register_model(platform))
    mounted = tmp_path / "azureml-models" / "classifier" / "1" / "checkpoint"
    mounted.parent.mkdir(parents=True)
    folder.rename(mounted)
    monkeypatch.setenv("AZUREML_MODEL_DIR", str(tmp_path / "azureml-models"))
    monkeypatch.chdir(tmp_path)
    script.init()
    assert script.run(png(1))[0]["model_version"] == 1
    assert script._collector is None
    assert not (tmp_path / ".al").exists()


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", 422),
        (b"no image", 422),
        ("{", 400),
        ({}, 400),
        (body(b"broken"), 422),
        ({"input_data": {"columns": ["image"], "data": ["%"]}}, 422),
        ({"data": {"img_path": "nowhere.png"}}, 404),
    ],
)
def test_a_malformed_body_is_answered_with_its_reason_not_with_an_exception(
    script: ModuleType, home: Platform, data: Any, status: int
) -> None:
    home.endpoint.create("blue", register_model(home))
    home.endpoint.set_traffic({"blue": 100})
    script.init()
    answer = script.run(data)
    assert answer["status"] == status
    assert answer["error"]


def test_a_mini_batch_of_paths_is_answered_line_by_line(script: ModuleType, home: Platform, tmp_path: Path) -> None:
    home.endpoint.create("blue", register_model(home))
    home.endpoint.set_traffic({"blue": 100})
    paths = []
    for name, data in {"a.png": png(1), "b.png": b"broken", "c.png": png(2)}.items():
        (tmp_path / name).write_bytes(data)
        paths.append(str(tmp_path / name))
    script.init()
    lines = [json.loads(line) for line in script.run(paths)]
    assert [line["filename"] for line in lines] == ["a.png", "b.png", "c.png"]
    assert "error" in lines[1]
    assert home.predictions.watermark().rows == 2


LAST_ANSWER = """
import sys
from pathlib import Path
from al_serving import azure_ml_script as score
score.init()
assert "probs" in score.run(Path(sys.argv[1]).read_bytes())[0]
assert "error" in score.run(b"no image")
"""


def test_what_waits_when_the_process_ends_is_logged_before(home: Platform, tmp_path: Path) -> None:
    """A container's disk goes with it, and so would its spool."""
    home.endpoint.create("blue", register_model(home))
    home.endpoint.set_traffic({"blue": 100})
    (tmp_path / "a.png").write_bytes(png(1))
    environment = os.environ | {"AL_SERVING__FLUSH_SECONDS": "100"}
    subprocess.run([sys.executable, "-c", LAST_ANSWER, str(tmp_path / "a.png")], env=environment, check=True)
    assert home.predictions.watermark().rows == 1
    assert home.ledgers.read("rejected_images").height == 1


def test_without_a_model_init_says_so(script: ModuleType, home: Platform) -> None:
    with pytest.raises(FileNotFoundError, match="no model is deployed yet"):
        script.init()
    with pytest.raises(RuntimeError, match="init"):
        script.run(png(1))
