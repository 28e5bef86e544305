"""Builders and adapters for the contract suites: a new adapter joins its suite by one line here."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow as pa

from al_core.records import PREDICTIONS, image_keys, new_ids
from al_resources.blobs import BlobStore
from al_resources.blobs.local import FsspecBlobStore
from al_resources.embedding_store import EmbeddingStore
from al_resources.embedding_store.delta import DeltaEmbeddingStore
from al_resources.ledgers import Ledgers
from al_resources.ledgers.delta import DeltaLedgers
from al_resources.prediction_store import PredictionStore
from al_resources.prediction_store.delta import DeltaPredictionStore

MIDNIGHT = datetime(2026, 1, 1, tzinfo=UTC)

LEDGER_STORES: dict[str, Callable[[Path], Ledgers]] = {"delta": lambda folder: DeltaLedgers(folder / "ledgers")}
PREDICTION_STORES: dict[str, Callable[[Path, Ledgers], PredictionStore]] = {
    "delta": lambda folder, ledgers: DeltaPredictionStore(folder / "predictions", ledgers)
}
EMBEDDING_STORES: dict[str, Callable[[Path], EmbeddingStore]] = {
    "delta": lambda folder: DeltaEmbeddingStore(folder / "embeddings")
}
# stores whose state lies in the folder itself, so that other processes find it there
EMBEDDED = ("delta",)
BLOB_STORES: dict[str, Callable[[Path], BlobStore]] = {
    "local": lambda folder: FsspecBlobStore(folder / "blobs"),
    "memory": lambda folder: FsspecBlobStore(f"memory://{folder.as_posix().lstrip('/')}"),
}

if find_spec("azure") is not None:
    from azure_adapters import azure_blobs

    BLOB_STORES["azure"] = azure_blobs

if find_spec("duckdb_kql") is not None:
    from kusto_adapters import kusto_embeddings, kusto_ledgers, kusto_predictions

    LEDGER_STORES["kusto"] = kusto_ledgers
    PREDICTION_STORES["kusto"] = kusto_predictions
    EMBEDDING_STORES["kusto"] = kusto_embeddings


def image(number: int) -> str:
    """An image id whose key is spread over the ring, like that of a content hash."""
    return f"{number * 0x9E3779B97F4A7C15F39CC0605CEDC835 % (1 << 128):032x}"


def prediction_rows(rows: Sequence[dict[str, Any]]) -> pa.Table:
    """A table of `PREDICTIONS`: what a row leaves out gets a harmless value."""
    defaults = {
        "image_uri": "images/x.png",
        "model_name": "digits",
        "model_version": 1,
        "predicted_label": "7",
        "confidence": 0.5,
        "margin": 0.5,
        "entropy": 0.5,
        "probs": [0.75, 0.25],
        "source": "online",
        "logged_at": MIDNIGHT,
    }
    fresh = new_ids(len(rows))
    filled = [
        {"prediction_id": fresh[i], "image_key": int(image_keys([row["image_id"]])[0])} | defaults | dict(row)
        for i, row in enumerate(rows)
    ]
    return pa.Table.from_pylist(filled, schema=PREDICTIONS)


def after(seconds: float) -> datetime:
    return MIDNIGHT + timedelta(seconds=seconds)


def coco(answers: dict[str, str], **beside: Any) -> bytes:
    """A COCO export {image id: class}; `beside` goes into every annotation."""
    names = sorted(set(answers.values()))
    content = {
        "images": [{"id": n, "file_name": f"{i}.png"} for n, i in enumerate(answers, start=1)],
        "annotations": [
            {"id": n, "image_id": n, "category_id": 1 + names.index(label)} | beside
            for n, label in enumerate(answers.values(), start=1)
        ],
        "categories": [{"id": n, "name": name} for n, name in enumerate(names, start=1)],
    }
    return json.dumps(content).encode()


def jsonl(answers: dict[str, Any], **beside: Any) -> bytes:
    """A JSONL export {image id: label}; `beside` goes into every row."""
    rows = ({"image_url": f"AmlDatastore://store/{i}.png", "label": label} | beside for i, label in answers.items())
    return "".join(json.dumps(row) + "\n" for row in rows).encode()
