"""A staged round, and the labeling page in front of it over real HTTP."""

from __future__ import annotations

import contextlib
import io
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx
import numpy as np
import polars as pl
from PIL import Image, ImageDraw

from al_core.records import SELECTIONS, prediction_table, table_of
from al_labeling.app import server_of
from al_labeling.guard import Guard, page_secret
from al_resources.labeling.staging import stage_round
from al_resources.platform import Platform

CLASSES = ("cat", "dog", "fox")


def picture_of(number: int, size: int = 48) -> bytes:
    """A picture that shows its number, so that no two are alike."""
    image = Image.new("RGB", (size, size), (number * 37 % 256, number * 91 % 256, 128))
    ImageDraw.Draw(image).text((4, 4), str(number), fill="white", font_size=size // 3)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def stage(platform: Platform, round_: int, files: list[bytes], reasons: list[str] | None = None) -> list[str]:
    """Put pictures into the store, select and stage them; returns their ids in the order of the selection."""
    stored = [platform.images.put(data) for data in files]
    rows = [
        {
            "round": round_,
            "image_id": one.image_id,
            "image_uri": one.uri,
            "rank": rank,
            "reason": reasons[rank] if reasons else "strategy",
            "strategy": "margin",
            "seed": 0,
        }
        for rank, one in enumerate(stored)
    ]
    table = table_of(SELECTIONS, rows)
    platform.ledgers.insert_new("selections", table, on=["round", "image_id"])
    stage_round(platform.blobs, platform.images, round_, pl.DataFrame(table))
    return [one.image_id for one in stored]


def log_predictions(
    platform: Platform,
    image_ids: list[str],
    probs: np.ndarray,
    embeddings: np.ndarray,
    classes: tuple[str, ...] = CLASSES,
) -> None:
    """The answers of a model to these images, in the log."""
    platform.predictions.append(
        prediction_table(
            image_ids=image_ids,
            image_uris=[platform.blobs.url(platform.images.path_of(image_id)) for image_id in image_ids],
            image_hashes=[None] * len(image_ids),
            model_name=platform.settings.model.name,
            model_version=1,
            classes=classes,
            probs=probs,
            source="batch",
            embeddings=embeddings,
        )
    )


@dataclass
class Page:
    """A running page."""

    address: str
    guard: Guard
    secret: bytes

    def link(self, name: str = "ada") -> str:
        return self.guard.link(self.address, name)

    def client(self, name: str = "ada") -> Client:
        return Client(self.address, self.link(name))


class Client:
    """A browser's part in the page's HTTP, without a browser."""

    def __init__(self, address: str, link: str) -> None:
        self.tab = str(uuid4())
        self.http = httpx.Client(base_url=address, headers={"origin": address, "x-al-page": "1"}, timeout=30)
        assert self.http.get(link).status_code == 200

    def post(self, name: str, **body: Any) -> httpx.Response:
        return self.http.post(f"/api/{name}", json={"round": 0, "tab": self.tab, **body})

    def next(self, want: int = 1, have: tuple[str, ...] = (), **body: Any) -> list[str]:
        return list(self.post("next", want=want, have=list(have), **body).json()["pictures"])

    def answer(self, picture: str, label: str | None = "cat", kind: str = "label", **more: Any) -> dict[str, Any]:
        sent = {"event_id": str(uuid4()), "picture": picture, "kind": kind, "label": label, "milliseconds": 900, **more}
        round_ = {"round": more.pop("round")} if "round" in more else {}
        sent.pop("round", None)
        return {**self.post("answers", answers=[sent], **round_).json(), "event_id": sent["event_id"]}

    def session(self, **query: Any) -> dict[str, Any]:
        return dict(self.http.get("/api/session", params={"tab": self.tab, **query}).json())


@contextlib.contextmanager
def page_of(platform: Platform) -> Iterator[Page]:
    """The platform's labeling page on a free port."""
    server, guard = server_of(platform)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive(), "the page did not start"
                time.sleep(0.01)
            secret = page_secret(platform.settings.labeling_page, platform.settings.home)
            yield Page(f"http://127.0.0.1:{listener.getsockname()[1]}", guard, secret)
        finally:
            server.should_exit = True
            thread.join(30)
