"""A small model in the registry, and the real service in front of it."""

from __future__ import annotations

import contextlib
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from al_core.learning.checkpoint import WEIGHTS_FILE, save_weights, sha256_of
from al_core.learning.networks import build_network, preprocessing_for
from al_core.records import ModelManifest, utc_now
from al_resources.platform import Platform
from al_serving.app import server_of

CLASSES = tuple("0123456789")


def register_model(platform: Platform, seed: int = 0, *, poison: bool = False, **facts: Any) -> int:
    """A small untrained network as the next version; a poisoned one answers NaN. `facts` go into its manifest."""
    torch.manual_seed(seed)
    network = build_network("small_cnn", classes=len(CLASSES), size=16, channels=1)
    if poison:
        torch.nn.init.constant_(network.head.bias, float("nan"))
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / WEIGHTS_FILE
        save_weights(network, weights)
        manifest = ModelManifest(
            name=platform.settings.model.name,
            version=0,
            architecture="small_cnn",
            classes=CLASSES,
            preprocessing=preprocessing_for("small_cnn", size=16, channels=1),
            dataset_version="none",
            training_key=f"{seed} {poison}",
            code_version="test",
            labels=0,
            created_at=utc_now(),
            weights_sha256=sha256_of(weights),
        )
        return platform.registry.register(weights, manifest.model_copy(update=facts)).version


@contextlib.contextmanager
def service_of(platform: Platform) -> Iterator[str]:
    """The scoring service of a platform on its port, over real HTTP; gives its address."""
    address = platform.settings.serving.url
    with socket.create_server(("127.0.0.1", platform.settings.serving.port)) as listener:
        server = server_of(platform)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive(), "the service did not start"
                time.sleep(0.01)
            yield address
        finally:
            server.should_exit = True
            thread.join(30)
