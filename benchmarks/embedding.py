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
from pathlib import Path

import numpy as np
import torch

from al_core.learning.embedding import Embedder
from al_core.learning.networks import build_network, preprocessing_for
from al_core.learning.preprocessing import normalise
from al_core.learning.settings import TrainingSettings
from al_core.learning.softmax_regression import MOST_UNLABELED, TAUGHT_UP_TO, fit_linear_head
from al_core.strategies.auto import Auto
from al_core.strategies.base import Pool
from al_resources.embedding_store.delta import DeltaEmbeddingStore

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
    ids = [f"{number * 0x9E3779B97F4A7C15F39CC0605CEDC835 % (1 << 128):032x}" for number in range(len(features))]
    with tempfile.TemporaryDirectory() as folder:
        store = DeltaEmbeddingStore(Path(folder) / "embeddings")
        starts = range(0, len(ids), 256)
        began = time.process_time()
        for start in starts:
            store.add("encoder", ids[start : start + 256], features[start : start + 256])
        filled = time.process_time() - began
        times = best_of({"known": lambda: store.known("encoder", ids), "read": lambda: store.read("encoder", ids)}, 3)
    return {f"keep {len(ids):,} by 256": filled, **times}


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
