"""What embedding costs beside the bare network, and what a round costs afterwards, when every embedding is known.

    python -m benchmarks.embedding [--architecture timm:NAME] [--size 160] [--pool 15000] [--width 1280] [--json OUT]

Times are processor seconds of this process, so that they mean the same on a machine with other work; with one thread
they are what a quiet core would take. The network has random weights, which are as fast as any.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from al_core.learning.embedding import Embedder
from al_core.learning.networks import build_network, preprocessing_for
from al_core.learning.preprocessing import normalise
from al_core.learning.settings import TrainingSettings
from al_core.learning.softmax_regression import MOST_UNLABELED, TAUGHT_UP_TO, fit_linear_head
from al_core.records import prediction_table
from al_core.strategies.auto import Auto
from al_core.strategies.base import Pool
from al_loop.embedded_before import EmbeddedBefore
from al_resources.blobs.local import FsspecBlobStore
from al_resources.embedding_store.delta import DeltaEmbeddingStore
from al_resources.ledgers.delta import DeltaLedgers
from al_resources.prediction_store import PredictionStore
from al_resources.prediction_store.delta import DeltaPredictionStore
from al_resources.prediction_store.referring import ReferringPredictionStore

PICTURES = 64
CLASSES = 10
ROUNDS = (50, 200, 1_700, 5_000)  # labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", default="small_cnn")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--pool", type=int, default=15_000)
    parser.add_argument("--width", type=int, default=1_280)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = embedding(options.architecture, options.size)
    print(
        f"{options.architecture} at {options.size} pixels: {found['per_second']:.0f} pictures a second, "
        f"the bare network {found['bare_per_second']:.0f}; {found['ratio']:.2f} of it"
    )
    features = clustered(options.pool, options.width)
    found["table"] = table(features)
    print(", ".join(f"{name} {seconds:.2f} s" for name, seconds in found["table"].items()))
    found["log"] = log_of(features)
    for what, seconds in found["log"].items():
        print(
            f"{what}: {seconds['own']:.2f} s with its own embeddings, {seconds['refers']:.2f} s referring to the table"
        )
    found["new"] = what_is_new(features)
    print(", ".join(f"{name} {seconds:.3f} s" for name, seconds in found["new"].items()))
    found["rounds"] = {str(labels): round_of(features, labels) for labels in ROUNDS if labels < options.pool}
    for labels, parts in found["rounds"].items():
        listed = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in parts.items())
        pool = f"{options.pool:,} x {options.width:,}"
        print(f"{labels:>6} labels of {pool}: {listed}, together {sum(parts.values()):.2f} s")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


def embedding(architecture: str, size: int) -> dict[str, float]:
    """Pictures per processor second, through the embedder and through the bare network, in turns."""
    preprocessing = preprocessing_for(architecture, size=size, channels=3)
    network = build_network(architecture, classes=2, size=size, channels=3)
    settings = TrainingSettings(architecture=architecture, image_size=size, weights="none")
    embedder = Embedder(network, preprocessing, settings, architecture)
    pixels = torch.randint(0, 256, (PICTURES, 3, size, size), dtype=torch.uint8)
    images = normalise(pixels, preprocessing).contiguous(memory_format=torch.channels_last)
    device = next(network.parameters()).device

    @torch.inference_mode()
    def bare() -> None:
        network.encoder(images.to(device)).cpu()

    ours, theirs = best_of({"ours": lambda: embedder.embed_pixels(pixels), "bare": bare}, 5).values()
    return {"per_second": PICTURES / ours, "bare_per_second": PICTURES / theirs, "ratio": theirs / ours}


def table(features: np.ndarray) -> dict[str, float]:
    """Filling the table of embeddings in chunks, reading all of it, and asking what is known."""
    ids = names_of(len(features))
    with tempfile.TemporaryDirectory() as folder:
        store = DeltaEmbeddingStore(Path(folder) / "embeddings")
        starts = range(0, len(ids), 256)
        began = time.process_time()
        for start in starts:
            store.add("encoder", ids[start : start + 256], features[start : start + 256])
        filled = time.process_time() - began
        times = best_of({"known": lambda: store.known("encoder", ids), "read": lambda: store.read("encoder", ids)}, 3)
    return {f"keep {len(ids):,} by 256": filled, **times}


def log_of(features: np.ndarray) -> dict[str, dict[str, float]]:
    """A log of all images with its own embeddings, and one that refers to a table: written twice as two versions do,
    compacted, read by selection, and read as a whole."""
    from al_core.strategies.base import Order

    ids = names_of(len(features))
    half, columns = len(ids) // 2, ["image_id", "probs", "embedding"]
    with tempfile.TemporaryDirectory() as folder:
        ledgers, table = DeltaLedgers(Path(folder) / "ledgers"), DeltaEmbeddingStore(Path(folder) / "embeddings")
        own = DeltaPredictionStore(Path(folder) / "own", ledgers)
        log = DeltaPredictionStore(Path(folder) / "refers", ledgers)
        stores = {"own": own, "refers": ReferringPredictionStore(log, lambda: table, lambda name, version: "encoder")}
        found: dict[str, dict[str, float]] = {}

        def times(what: str, work: Callable[[PredictionStore], object], repeats: int = 3) -> None:
            works = {name: partial(work, store) for name, store in stores.items()}
            found[what] = best_of(works, repeats)

        def append(version: int, store: PredictionStore) -> None:
            for start in range(0, len(ids), 500):
                store.append(answers(ids[start : start + 500], features[start : start + 500], version))

        times("rows of a first version, by 500", partial(append, 1), 1)
        times("rows of a second version, by 500", partial(append, 2), 1)
        for store in (own, log, table):
            store.compact()
        for order in (Order("margin"), Order("random", seed=1)):
            asked = partial(lambda order, store: store.eligible("digits", 2, order, half, columns), order)
            times(f"{half:,} of {len(ids):,} by {order.column}", asked)
        times("all of a version", lambda store: sum(part.num_rows for part in store.scan(columns, model_version=2)))
        sizes = {"own": megabytes(own.path), "refers": megabytes(log.path) + megabytes(table.path)}
        print(f"two versions: {sizes['own']:.0f} MB with its own embeddings, {sizes['refers']:.0f} MB referring")
    return found


def answers(ids: list[str], features: np.ndarray, version: int) -> pa.Table:
    """Rows of the log, of ten classes."""
    probs = np.random.default_rng(len(ids)).dirichlet(np.ones(CLASSES), len(ids)).astype(np.float32)
    return prediction_table(
        image_ids=ids, image_uris=[f"images/{one}.png" for one in ids], image_hashes=ids, model_name="digits",
        model_version=version, classes=[str(number) for number in range(CLASSES)], probs=probs, source="batch",
        embeddings=features,
    )  # fmt: skip


def what_is_new(features: np.ndarray) -> dict[str, float]:
    """Finding the images of the store that lack an embedding: all are asked about, or those since the last look."""
    ids = names_of(len(features))
    items = [(one, "") for one in sorted(ids)]
    with tempfile.TemporaryDirectory() as folder:
        store, blobs = DeltaEmbeddingStore(Path(folder) / "embeddings"), FsspecBlobStore(Path(folder) / "blobs")
        for start in range(0, len(ids), 4_096):
            store.add("encoder", ids[start : start + 4_096], features[start : start + 4_096])

        def look() -> None:
            before = EmbeddedBefore(blobs, store, "encoder")
            asked = [image_id for image_id, _ in before.new_among(items)]
            for start in range(0, len(asked), 4_096):
                page = asked[start : start + 4_096]
                before.add([one for one, there in zip(page, store.known("encoder", page), strict=True) if there])
            before.write_down()

        first = best_of({"which lack one, asked about all": look}, 1)
        return first | best_of({"asked about what is new": look}, 3)


def megabytes(folder: Path) -> float:
    """Of all files below."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6


def names_of(count: int) -> list[str]:
    """Image ids, spread as content hashes are."""
    return [f"{number * 0x9E3779B97F4A7C15F39CC0605CEDC835 % (1 << 128):032x}" for number in range(count)]


def round_of(features: np.ndarray, labels: int) -> dict[str, float]:
    """The head on so many labels, its answers to the pool, and the next batch by `auto`."""
    rng = np.random.default_rng(0)
    targets = rng.integers(0, CLASSES, len(features))
    pool = features + 1.5 * rng.normal(size=(CLASSES, features.shape[1])).astype(np.float32)[targets]
    labeled, waiting = pool[:labels], pool[labels:]
    known, weights = torch.from_numpy(targets[:labels]), torch.ones(CLASSES)
    unlabeled = torch.from_numpy(waiting[:MOST_UNLABELED]) if labels <= TAUGHT_UP_TO else None
    head = {}

    def fit() -> None:
        head["found"] = fit_linear_head(torch.from_numpy(labeled), known, weights, unlabeled=unlabeled)

    times = best_of({"head": fit}, 1)
    weight, bias = head["found"].weight, head["found"].bias
    answers: dict[str, np.ndarray] = {}

    def classify() -> None:
        logits = torch.from_numpy(waiting) @ weight.T + bias
        answers["probs"] = (logits / head["found"].temperature).softmax(dim=1).numpy()

    times |= best_of({"answers": classify}, 1)
    ids = np.array([f"{number:032x}" for number in range(len(waiting))])
    whole = Pool(
        ids, probs=answers["probs"], embeddings=waiting, labeled_embeddings=labeled, labeled_targets=targets[:labels]
    )
    return times | best_of({"selection": lambda: Auto().query(whole, 500 if labels >= 500 else 10, seed=0)}, 1)


def clustered(count: int, width: int) -> np.ndarray:
    """Features whose variance falls off as an encoder's does."""
    rng = np.random.default_rng(1)
    scale = 1 / np.sqrt(1 + np.arange(width) / 20)
    return (rng.normal(size=(count, width)) * scale).astype(np.float32)


def best_of(works: dict[str, Callable[[], object]], times: int) -> dict[str, float]:
    """The least processor seconds of each, in turns."""
    best = dict.fromkeys(works, float("inf"))
    for _ in range(times):
        for name, work in works.items():
            began = time.process_time()
            work()
            best[name] = min(best[name], time.process_time() - began)
    return best


if __name__ == "__main__":
    main()
