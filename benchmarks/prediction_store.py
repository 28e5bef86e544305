"""Selecting from the prediction log: bare Polars top-k, `eligible`, and pandas on the same table.

    python -m benchmarks.prediction_store [--rows 10_000_000] [--no-compact] [--json OUT]

Every reader runs in a process of its own, so that its peak of memory is its own. Times are medians in seconds.
pandas is asked up to 20 million rows: above that its strings alone fill the memory.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import re
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

CLASSES = tuple("0123456789")
BUDGET = 500
CHUNK = 50_000  # rows per append
DAYS = 10
REPEATED = 0.05  # share of images that are scored a second time
MOST_OF_PANDAS = 20_000_000  # rows
TAKEN = 4_000  # images with the smallest margins that were selected and labeled before


def write_log(folder: Path, rows: int) -> float:
    """A log as scoring services would have written it over ten days; returns the seconds spent in `append`."""
    from al_core.records import LABELS, SELECTIONS, prediction_table, table_of
    from al_resources.ledgers.delta import DeltaLedgers
    from al_resources.prediction_store.delta import DeltaPredictionStore

    generator = np.random.default_rng(0)
    ledgers = DeltaLedgers(folder / "ledgers")
    store = DeltaPredictionStore(folder / "predictions", ledgers)
    spent = 0.0
    again: list[str] = []
    for start in range(0, rows, CHUNK):
        count = min(CHUNK, rows - start)
        digits = generator.bytes(16 * count).hex()
        ids = again + [digits[32 * n : 32 * n + 32] for n in range(count - len(again))]
        again = ids[-int(REPEATED * count) :]
        probs = generator.standard_exponential((count, len(CLASSES)), np.float32)
        table = prediction_table(
            image_ids=ids,
            image_uris=[f"file:///data/images/{i[:2]}/{i}.png" for i in ids],
            image_hashes=ids,
            model_name="digits",
            model_version=3,
            classes=CLASSES,
            probs=probs / probs.sum(1, keepdims=True),
            source="online",
            logged_at=datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=DAYS * start / rows),
        )
        begun = time.perf_counter()
        store.append(table)
        spent += time.perf_counter() - begun
    from al_core.strategies.base import Order

    taken = store.eligible("digits", 3, Order("margin"), TAKEN, [])["image_id"].to_pylist()
    chosen = [{"round": 1, "image_id": i, "model_version": 3} for i in taken]
    ledgers.insert_new("selections", table_of(SELECTIONS, chosen), ["image_id"])
    ledgers.insert_new("labels", table_of(LABELS, [{"image_id": i, "label": "7"} for i in taken]), ["image_id"])
    return spent


# ---------------------------------------------------------------------- the readers
def bare_polars(folder: Path) -> int:
    import polars as pl

    log = pl.scan_delta(str(folder / "predictions"))
    return len(log.select("margin").bottom_k(BUDGET, by="margin").collect())


def ours(folder: Path) -> int:
    from al_core.strategies.base import Order
    from al_resources.ledgers.delta import DeltaLedgers
    from al_resources.prediction_store.delta import DeltaPredictionStore

    store = DeltaPredictionStore(folder / "predictions", DeltaLedgers(folder / "ledgers"))
    columns = ["image_uri", "image_hash", "prediction_id", "predicted_label"]
    return store.eligible("digits", 3, Order("margin"), BUDGET, columns).num_rows


def ours_random(folder: Path) -> int:
    from al_core.strategies.base import Order
    from al_resources.ledgers.delta import DeltaLedgers
    from al_resources.prediction_store.delta import DeltaPredictionStore

    store = DeltaPredictionStore(folder / "predictions", DeltaLedgers(folder / "ledgers"))
    columns = ["image_uri", "image_hash", "prediction_id"]
    return store.eligible("digits", 3, Order("random", seed=1), BUDGET, columns).num_rows


def ours_count(folder: Path) -> int:
    from al_resources.ledgers.delta import DeltaLedgers
    from al_resources.prediction_store.delta import DeltaPredictionStore

    return DeltaPredictionStore(folder / "predictions", DeltaLedgers(folder / "ledgers")).count_eligible("digits", 3)


READERS = {
    "bare Polars top-k": bare_polars,
    "eligible, 500 by margin": ours,
    "eligible, 500 at random": ours_random,
    "count_eligible": ours_count,
}


def pandas(folder: Path) -> int:
    """In pandas' favour: file by file, so that ten million Python arrays never live at once."""
    import pandas as pd
    from deltalake import DeltaTable

    parts = []
    for file in DeltaTable(folder / "predictions").file_uris():
        frame = pd.read_parquet(file, columns=["image_id", "probs"])
        best = np.partition(np.stack(frame["probs"].to_numpy()), -2, axis=1)[:, -2:]
        parts.append(pd.DataFrame({"image_id": frame["image_id"], "margin": best[:, 1] - best[:, 0]}))
    return len(pd.concat(parts).sort_values("margin").head(BUDGET))


def _measured(reader: Callable[[Path], int], folder: Path, repeats: int, answers: Any) -> None:
    reader(folder) if repeats > 1 else None  # the first call pays for imports
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        found = reader(folder)
        times.append(time.perf_counter() - begun)
    # Not ru_maxrss: a new process inherits that from the one that started it.
    peak = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    answers.put({"seconds": statistics.median(times), "peak_mb": int(peak[1]) / 1024 if peak else 0, "rows": found})


def measure(reader: Callable[[Path], int], folder: Path, repeats: int = 7) -> dict[str, float]:
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    process = context.Process(target=_measured, args=(reader, folder, repeats, answers))
    process.start()
    answer = answers.get()
    process.join()
    return answer


def run(rows: int, folder: Path, *, compact: bool = True) -> dict[str, Any]:
    from al_resources.ledgers.delta import DeltaLedgers
    from al_resources.prediction_store.delta import DeltaPredictionStore

    facts: dict[str, Any] = {"rows": rows, "append_seconds": write_log(folder, rows)}
    facts["as appended"] = {name: measure(reader, folder) for name, reader in READERS.items()}
    if rows <= MOST_OF_PANDAS:
        facts["as appended"]["pandas"] = measure(pandas, folder, repeats=1)
    if not compact:  # needs as much of the disk again
        return facts
    begun = time.perf_counter()
    facts["compaction"] = DeltaPredictionStore(folder / "predictions", DeltaLedgers(folder / "ledgers")).compact()
    facts["compaction_seconds"] = time.perf_counter() - begun
    facts["after compact()"] = {name: measure(reader, folder) for name, reader in READERS.items()}
    return facts


def show(facts: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(title=f"Selecting {BUDGET} of {facts['rows']:,} predictions, {len(CLASSES)} classes")
    for column in ("log", "reader", "seconds", "x bare top-k", "pandas is slower by", "peak MB"):
        table.add_column(column, justify="left" if column in ("log", "reader") else "right")
    slow = facts["as appended"].get("pandas", {"seconds": float("nan")})["seconds"]
    for state in [state for state in ("as appended", "after compact()") if state in facts]:
        bare = facts[state]["bare Polars top-k"]["seconds"]
        for reader, answer in facts[state].items():
            seconds = answer["seconds"]
            figures = (
                f"{seconds:.3f}",
                f"{seconds / bare:.1f}",
                "not asked" if math.isnan(slow) else f"{slow / seconds:.0f}x",
                f"{answer['peak_mb']:.0f}",
            )
            table.add_row(state, reader, *figures)
    console.print(table)
    console.print(f"append: {facts['rows'] / facts['append_seconds']:,.0f} rows/s")
    if "compaction" in facts:
        console.print(f"compact: {facts['compaction_seconds']:.1f} s, {facts['compaction']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--no-compact", action="store_true", help="leave the log as it was appended")
    parser.add_argument("--json", type=Path, help="write the figures there")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        facts = run(arguments.rows, Path(folder), compact=not arguments.no_compact)
    show(facts)
    if arguments.json:
        arguments.json.write_text(json.dumps(facts, indent=2))


if __name__ == "__main__":
    main()
