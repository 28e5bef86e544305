"""The scoring script in Azure ML's form: `init()` once, then `run(...)` for every request or mini-batch.

The same file serves under a managed online endpoint, a batch deployment, and `azmlinfsrv` on one machine. The
model is taken from `AZUREML_MODEL_DIR`; without it, the version that the instance's endpoint serves is used.

Answers are logged where the platform is configured, that is where any `AL_*` variable is set; in a container
without one they are not, and `init` says so.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from al_core.images import IMAGE_SUFFIXES
from al_core.learning.inference import Predictor
from al_resources.platform import Platform
from al_serving.batch import NamedFile, score_files
from al_serving.collector import Collector, CollectorFull
from al_serving.payloads import DATASTORE, BadRequest, SentImage, images_of_bytes, images_of_json
from al_serving.scoring import Answer, RefusedImage, Scorer, all_refused

try:
    from azureml_inference_server_http.api.aml_request import rawhttp  # type: ignore[import-not-found]
    from azureml_inference_server_http.api.aml_response import AMLResponse  # type: ignore[import-not-found]
except ImportError:  # a batch deployment, or a test that calls run() itself
    AMLResponse = None

    def rawhttp(run: Any) -> Any:
        """Without the inference server there is no request to hand over raw."""
        return run


LOGGER = logging.getLogger(__name__)
MODEL_DIR = "AZUREML_MODEL_DIR"
WEIGHTS = "model.safetensors"

_scorer: Scorer | None = None
_collector: Collector | None = None
_datastores: dict[str, Any] = {}


def init() -> None:
    """Load the model and open the log. Raises `FileNotFoundError` where there is no model."""
    global _scorer, _collector, _datastores  # noqa: PLW0603 - the contract is two functions, not an object
    model_dir = os.environ.get(MODEL_DIR)
    configured = any(name.startswith("AL_") for name in os.environ)
    if model_dir is not None and not configured:
        LOGGER.warning("No AL_* variable is set: predictions are answered and not logged")
        _scorer = Scorer(Predictor.load(_checkpoint_in(Path(model_dir))), None)
        return
    platform = Platform()
    folder = _served_version(platform) if model_dir is None else _checkpoint_in(Path(model_dir))
    _collector = Collector.of(platform)
    # Not `atexit`: by then Python has closed all thread pools, and the stores need theirs. This hook, which the pools
    # use themselves, is the only one before that.
    threading._register_atexit(_collector.close)  # type: ignore[attr-defined]
    _datastores = {DATASTORE: platform.blobs}
    _scorer = Scorer.of(platform, folder, _collector)


@rawhttp
def run(data: Any) -> Any:
    """Answer one request, or one mini-batch of files.

    Args:
        data: a list of paths (batch deployment), an `AMLRequest` (inference server), or a body: bytes of an
            image, or JSON as text, bytes or object.

    Returns:
        A list of answers, one per image; for a mini-batch each as a line of JSON. An `AMLRequest` is answered
        with an `AMLResponse`. A request that cannot be answered gets {"error": ..., "status": 4xx}.
    """
    if _scorer is None:
        raise RuntimeError("run() before init(): there is no model yet")
    if isinstance(data, list | tuple):
        return _score_paths(_scorer, data)
    try:
        answers = _score(_scorer, _sent_images(data))
    except BadRequest as error:
        return _response({"error": error.reason, "status": error.status}, error.status)
    except CollectorFull as error:
        return _response({"error": str(error), "status": 503}, 503)
    return _response(answers, 200)


def _score(scorer: Scorer, sent: list[SentImage]) -> list[Answer]:
    images = [scorer.read(image, "online", time.perf_counter()) for image in sent]
    refused = [image for image in images if isinstance(image, RefusedImage)]
    if len(refused) == len(images):
        raise all_refused(refused)
    return scorer.answer(images, "online")


def _sent_images(data: Any) -> list[SentImage]:
    if isinstance(data, bytes | bytearray):
        return images_of_bytes(bytes(data), "", _datastores)
    if isinstance(data, str):
        return images_of_json(data.encode(), _datastores)
    if isinstance(data, dict):
        return images_of_json(json.dumps(data).encode(), _datastores)
    if data.method != "POST":
        raise BadRequest(405, f"{data.method} is not answered; POST an image")
    if files := [file for _, file in data.files.items(multi=True)]:
        return [SentImage(file.filename or "", file.read()) for file in files]
    return images_of_bytes(data.get_data(), data.headers.get("content-type", ""), _datastores)


def _score_paths(scorer: Scorer, paths: Sequence[str]) -> list[str]:
    lines: list[str] = []
    images = [Path(path) for path in paths if Path(path).suffix.lower() in IMAGE_SUFFIXES]
    files = [NamedFile(path.name, path.read_bytes) for path in images]
    score_files(scorer, files, _collector, lambda progress: lines.extend(map(json.dumps, progress.answers)))
    if _collector is not None:
        _collector.flush()  # the next mini-batch may run in another process
    return lines


def _response(content: Any, status: int) -> Any:
    return content if AMLResponse is None else AMLResponse(content, status, json_str=True)


def _checkpoint_in(folder: Path) -> Path:
    """The folder with the checkpoint: Azure ML mounts a registered folder below `AZUREML_MODEL_DIR`."""
    found = sorted(folder.rglob(WEIGHTS))
    if len(found) != 1:
        raise FileNotFoundError(f"{MODEL_DIR}={folder} holds {len(found)} files named {WEIGHTS}; expected one")
    return found[0].parent


def _served_version(platform: Platform) -> Path:
    version = platform.endpoint.state().serving_version
    if version is None:
        raise FileNotFoundError(f"no model is deployed yet, and {MODEL_DIR} is not set")
    return platform.registry.fetch(version)
