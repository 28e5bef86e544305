"""An empty platform, its stores, and the service with a model."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from serving_stores import Stores
from small_models import register_model, service_of

from al_resources.platform import Platform
from al_resources.settings import load_settings


@pytest.fixture
def stores(tmp_path: Path) -> Stores:
    return Stores(tmp_path)


@pytest.fixture
def platform(tmp_path: Path) -> Platform:
    """A platform on an empty folder, with a free port for its service and quick flushes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    return Platform(load_settings(home=tmp_path, serving={"port": port, "flush_seconds": 0.1}))


@pytest.fixture
def served(platform: Platform) -> Iterator[tuple[Platform, httpx.Client]]:
    """A platform with version 1 in service, and a client of it."""
    version = register_model(platform)
    platform.endpoint.create("blue", version)
    platform.endpoint.set_traffic({"blue": 100})
    with service_of(platform) as address, httpx.Client(base_url=address, timeout=30) as client:
        yield platform, client
