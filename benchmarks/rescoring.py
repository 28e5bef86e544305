"""Scoring the log's embeddings again, beside the time of reading them: one matrix product over a stream.

    python -m benchmarks.rescoring [--rows 10_000_000] [--repeats 3] [--json OUT]

Both read the same columns from the same table in the same process, in turns; and so they do of the same log whose rows
refer to the table of embeddings. Either takes about 1.1 KB an image on the disk at 512 values of half precision, 11 GB
at ten million.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

if TYPE_CHECKING:
    from al_core.learning.inference import Predictor
    from al_resources.platform import Platform

DIMENSION, CLASSES, KEEP, CHUNK = 512, 100, 50_000, 50_000


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), options.rows, options.repeats)
    print(
        f"{options.rows:,} embeddings of {DIMENSION}: read in {result['read']:.1f} s, "
        f"scored for {CLASSES} classes in {result['scored']:.1f} s, {result['ratio']:.2f} times that "
        f"({result['read_cpu']:.1f} and {result['scored_cpu']:.1f} s of a core); "
        f"{result['peak_gb']:.1f} GB of memory at most"
    )
    print(
        f"referring to the table of embeddings: read in {result['refer_read']:.1f} s, scored in "
        f"{result['refer_scored']:.1f} s, {result['refer_scored'] / result['scored']:.2f} times that of its own "
        f"({result['refer_read_cpu']:.1f} and {result['refer_scored_cpu']:.1f} s of a core)"
    )
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))
    return result


def measure(folder: Path, rows: int, repeats: int) -> dict[str, float]:
    """Medians in seconds, their ratio, and the peak of this process' memory."""
    from al_core.strategies.base import Order
    from al_loop.rescoring import _EMBEDDED, _from_log
    from al_resources.platform import Platform
    from al_resources.settings import Settings

    class Frozen(Platform):
        """Whose rows refer to the table."""

        def encoder_of(self, model_name: str, version: int) -> str | None:
            return "encoder"

    platforms = {"": Platform(Settings(home=folder / "own")), "refer_": Frozen(Settings(home=folder / "refer"))}
    for platform in platforms.values():
        write_log(platform, rows)
        platform.predictions.compact()
        platform.embeddings.compact()
    head = predictor()

    def read(platform: Platform) -> None:
        for batch in platform.predictions.scan(_EMBEDDED, model_name="classifier", model_version=1):
            assert batch.num_rows

    def scored(platform: Platform) -> None:
        _from_log(platform, head, 1, Order("margin"), KEEP, rows)

    times: dict[str, list[float]] = {}
    for _ in range(repeats):
        for which, platform in platforms.items():
            for name, call in (("read", read), ("scored", scored)):
                wall, cpu = seconds(partial(call, platform))
                times.setdefault(f"{which}{name}", []).append(wall)
                times.setdefault(f"{which}{name}_cpu", []).append(cpu)
    medians = {name: statistics.median(values) for name, values in times.items()}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return medians | {"ratio": medians["scored"] / medians["read"], "peak_gb": peak}


def write_log(platform: Platform, rows: int) -> None:
    """As scoring services would have written it."""
    from al_core.records import prediction_table

    generator = np.random.default_rng(0)
    for start in range(0, rows, CHUNK):
        count = min(CHUNK, rows - start)
        digits = generator.bytes(16 * count).hex()
        ids = [digits[32 * n : 32 * n + 32] for n in range(count)]
        probs = generator.standard_exponential((count, 2), np.float32)
        table = prediction_table(
            image_ids=ids,
            image_uris=[f"images/{one}.png" for one in ids],
            image_hashes=ids,
            model_name="classifier",
            model_version=1,
            classes=["a", "b"],
            probs=probs / probs.sum(1, keepdims=True),
            source="online",
            embeddings=generator.standard_normal((count, DIMENSION), np.float32),
        )
        platform.predictions.append(table)


def predictor() -> Predictor:
    """A head of another version on the same embeddings, as `Predictor.classify` has it."""
    import torch

    head = torch.nn.Linear(DIMENSION, CLASSES)

    @torch.inference_mode()
    def classify(embeddings: np.ndarray) -> np.ndarray:
        return head(torch.from_numpy(embeddings)).softmax(dim=1).numpy()  # type: ignore[no-any-return]

    classes = tuple(str(number) for number in range(CLASSES))
    named = {"name": "classifier", "version": 2, "classes": classes}
    return cast("Predictor", SimpleNamespace(dimension=DIMENSION, classify=classify, **named))


def seconds(call: Callable[[], None]) -> tuple[float, float]:
    """By the clock, and of all cores together."""
    begun, spent = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - begun, time.process_time() - spent


if __name__ == "__main__":
    main()
