"""Into the prediction log and out of it, Data Explorer being emulated in a process of its own.

    python -m benchmarks.kusto [--rows 10_000] [--log 100_000] [--json OUT]
    python -m benchmarks.kusto --growth 100_000 200_000 400_000 [--memory 100MB] [--plot OUT.png]
    python -m benchmarks.kusto --images 4_000 [--milliseconds 25]

In: the collector to Delta, to Data Explorer by streaming and through the queue, each against the bare client, which
gets the same rows in the same batches, as JSON lines that Polars wrote. Out: what one selection of 500 asks for and
is answered, in bytes. Emulated ingestion takes longer than any client, so the client's CPU time is told as well.

Growth: the first 500 by margin of ever longer logs, at once and in windows, on an engine with little memory.

Images: how many a second one process stores, where each write takes as long as a container takes.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).parents[1] / "tests"))

BATCH = 500  # rows the collector sends at once
BUDGET = 500
CLASSES = tuple("0123456789")
REPEATS = 3


# ---------------------------------------------------------------------- the service
def serve(orders: Connection, blob_url: str, queue_url: str) -> None:
    """An emulated cluster that does what it is told over the pipe: tell its address or bytes, load rows, end."""
    from emulators.kusto import KustoEmulator

    with KustoEmulator(storage=SimpleNamespace(blob_url=blob_url, queue_url=queue_url)) as emulator:
        orders.send(emulator.url)
        while (order := orders.recv()) is not None:
            if order == "bytes":
                orders.send(emulator.bytes_sent)
            else:
                emulator.load("predictions", log_rows(order))
                orders.send(emulator.rows("predictions"))


def log_rows(count: int) -> Any:
    """A log as it lies in the engine, of so many images."""
    import pyarrow as pa

    rng = np.random.default_rng(0)
    digits = rng.bytes(16 * count).hex()
    ids = [digits[32 * n : 32 * n + 32] for n in range(count)]
    scores = {name: rng.random(count) for name in ("confidence", "margin", "entropy")}
    same = {
        "model_name": "digits",
        "predicted_label": "7",
        "probs": json.dumps([0.1] * len(CLASSES)),
        "embedding": "null",
        "source": "online",
        "logged_at": "2026-01-01T00:00:00",
    }
    return pa.table(
        {
            "prediction_id": ids,
            "image_id": ids,
            "image_key": [int(one[:15], 16) for one in ids],
            "image_uri": [f"https://account.blob.core.windows.net/data/images/{one[:2]}/{one}.png" for one in ids],
            "image_hash": ids,
            "model_version": np.full(count, 3),
            "latency_ms": rng.random(count),
            **scores,
            **{name: pa.array([value] * count) for name, value in same.items()},
        }
    )


@contextmanager
def emulated_cluster() -> Any:
    """Azurite and the emulator; the address of the cluster, and the pipe to it."""
    from emulators.azurite import Azurite

    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    with Azurite.start() as azurite:
        process = context.Process(target=serve, args=(theirs, azurite.blob_url, azurite.queue_url))
        process.start()
        try:
            yield ours.recv(), ours
        finally:
            ours.send(None)
            process.join()


def database_of(url: str, ingestion: str) -> Any:
    from al_resources.azure.data_explorer import KustoDatabase
    from al_resources.settings.azure_data import AzureDataSettings

    return KustoDatabase(AzureDataSettings(kusto_uri=url, kusto_ingest_uri=url, kusto_ingestion=ingestion))


# ---------------------------------------------------------------------- in
def answers(count: int) -> list[Any]:
    """What a service hands to its collector."""
    from PIL import Image

    from al_core.images import content_id
    from al_serving.collector import Prediction

    rng = np.random.default_rng(1)
    found = []
    for probs in rng.dirichlet(np.ones(len(CLASSES)), count).astype(np.float32):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (8, 8), np.uint8)).save(buffer, "PNG")
        image = buffer.getvalue()
        found.append(Prediction(image, content_id(image), content_id(image), "digits", 3, CLASSES, probs, "online"))
    return found


Way = Callable[[list[Any], Path, Path], None]  # answers, a folder of its own, the folder with the images


def collect(store: Any, ledgers: Any, predictions: list[Any], folder: Path, images: Path) -> None:
    """All answers through a collector until its store has taken them; the images are stored already."""
    from al_resources.blobs.local import FsspecBlobStore
    from al_resources.image_store import ImageStore
    from al_serving.collector import Collector

    stored = ImageStore(FsspecBlobStore(images))
    with Collector(store, stored, ledgers, folder / "spool", flush_rows=BATCH) as collector:
        for start in range(0, len(predictions), BATCH):
            assert collector.wait_for_room(60)
            collector.offer(predictions[start : start + BATCH])
        assert collector.flush(600)


def to_delta(predictions: list[Any], folder: Path, images: Path) -> None:
    from al_resources.ledgers.delta import DeltaLedgers
    from al_resources.prediction_store.delta import DeltaPredictionStore

    ledgers = DeltaLedgers(folder / "ledgers")
    collect(DeltaPredictionStore(folder / "predictions", ledgers), ledgers, predictions, folder, images)


def to_kusto(url: str, ingestion: str, predictions: list[Any], folder: Path, images: Path) -> None:
    from al_resources.ledgers.kusto import KustoLedgers
    from al_resources.prediction_store.kusto import KustoPredictionStore

    database = database_of(url, ingestion)
    collect(KustoPredictionStore(database), KustoLedgers(database), predictions, folder, images)


def by_the_bare_client(url: str, ingestion: str, predictions: list[Any], folder: Path, images: Path) -> None:
    """The shortest program that sends these answers: no spool, no retry, no report of failures."""
    import polars as pl
    from azure.kusto.data import KustoConnectionStringBuilder
    from azure.kusto.data.data_format import DataFormat
    from azure.kusto.ingest import IngestionProperties, KustoStreamingIngestClient, QueuedIngestClient

    from al_core.records import prediction_table

    client = {"streaming": KustoStreamingIngestClient, "queued": QueuedIngestClient}[ingestion](
        KustoConnectionStringBuilder.with_no_authentication(url)
    )
    target = IngestionProperties(
        "active_learning", "predictions", DataFormat.MULTIJSON, ingestion_mapping_reference="columns_by_name"
    )
    for start in range(0, len(predictions), BATCH):
        rows = predictions[start : start + BATCH]
        table = prediction_table(
            image_ids=[row.image_id for row in rows],
            image_uris=[""] * len(rows),
            image_hashes=[row.image_hash for row in rows],
            model_name="digits",
            model_version=3,
            classes=CLASSES,
            probs=np.stack([row.probs for row in rows]),
            source="online",
        )
        times = pl.col("logged_at").dt.strftime("%Y-%m-%dT%H:%M:%S%.6fZ")
        lines = pl.DataFrame(table).with_columns(times).write_ndjson()
        client.ingest_from_stream(io.BytesIO(lines.encode()), target)


def seconds_of(way: Way, predictions: list[Any], images: Path) -> tuple[float, float]:
    """Wall time, and CPU time of this process."""
    with tempfile.TemporaryDirectory() as folder:
        begun, busy = time.perf_counter(), time.process_time()
        way(predictions, Path(folder), images)
        return time.perf_counter() - begun, time.process_time() - busy


def into_the_log(url: str, rows: int) -> dict[str, dict[str, float]]:
    from al_resources.blobs.local import FsspecBlobStore
    from al_resources.image_store import ImageStore

    ways: dict[str, Way] = {
        "bare client, streaming": partial(by_the_bare_client, url, "streaming"),
        "collector to Data Explorer, streaming": partial(to_kusto, url, "streaming"),
        "bare client, queued": partial(by_the_bare_client, url, "queued"),
        "collector to Data Explorer, queued": partial(to_kusto, url, "queued"),
        "collector to Delta": to_delta,
    }
    predictions = answers(rows)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder)
        for prediction in predictions:
            ImageStore(FsspecBlobStore(images)).put(prediction.image)
        for way in ways.values():
            seconds_of(way, predictions[:BATCH], images)  # imports
        for _ in range(REPEATS):  # in turns, so that whatever else the machine does slows all of them
            for name, way in ways.items():
                times[name].append(seconds_of(way, predictions, images))
                wait_until_ingested(url)
    return {
        name: {
            "rows_per_second": rows / statistics.median(wall for wall, _ in runs),
            "seconds": statistics.median(wall for wall, _ in runs),
            "cpu_seconds": statistics.median(busy for _, busy in runs),
        }
        for name, runs in times.items()
    }


def wait_until_ingested(url: str) -> None:
    """What is queued keeps the emulator busy: the next way would pay for it."""
    from al_resources.prediction_store.kusto import KustoPredictionStore

    store, before = KustoPredictionStore(database_of(url, "streaming")), -1
    while (now := store.watermark().rows) != before:
        before = now
        time.sleep(1)


# ---------------------------------------------------------------------- images
def images_a_second(count: int, milliseconds: float, writers: int) -> float:
    """Of a collector with so many writers, whose container answers each write after so long."""
    from al_resources.blobs.local import FsspecBlobStore
    from al_resources.image_store import ImageStore, StoredImage
    from al_resources.ledgers.delta import DeltaLedgers
    from al_resources.prediction_store.delta import DeltaPredictionStore
    from al_serving import collector
    from al_serving.collector import Collector

    class Far(ImageStore):
        def put(self, data: bytes) -> StoredImage:
            time.sleep(milliseconds / 1e3)
            return super().put(data)

    before, collector.IMAGE_WRITERS = collector.IMAGE_WRITERS, writers
    try:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            ledgers = DeltaLedgers(folder / "ledgers")
            log, images = DeltaPredictionStore(folder / "log", ledgers), Far(FsspecBlobStore(folder / "images"))
            predictions = answers(count)
            with Collector(log, images, ledgers, folder / "spool", flush_rows=BATCH) as running:
                begun = time.perf_counter()
                for start in range(0, count, BATCH):
                    assert running.wait_for_room(60)
                    running.offer(predictions[start : start + BATCH])
                assert running.flush(600)
                return count / (time.perf_counter() - begun)
    finally:
        collector.IMAGE_WRITERS = before


# ---------------------------------------------------------------------- out
def out_of_the_log(url: str, orders: Connection, rows: int) -> dict[str, float]:
    from al_core.selection import Rules, select_batch
    from al_core.strategies.registry import get_strategy
    from al_resources.prediction_store.candidates import Candidates
    from al_resources.prediction_store.kusto import KustoPredictionStore

    orders.send(rows)
    in_log = orders.recv()
    candidates = Candidates(KustoPredictionStore(database_of(url, "streaming")), "digits", 3)

    def select(name: str) -> int:
        return select_batch(
            candidates,
            strategy=get_strategy(name),
            budget=BUDGET,
            rules=Rules(control_share=0.1, near_duplicate_distance=4),
            seed=0,
            round_=1,
            model_version=3,
        ).size

    facts: dict[str, float] = {"rows": in_log}
    for name in ("margin", "random"):
        orders.send("bytes")
        before, begun = orders.recv(), time.perf_counter()
        assert select(name) == BUDGET
        facts[f"{name}_seconds"] = time.perf_counter() - begun
        orders.send("bytes")
        facts[f"{name}_bytes"] = orders.recv() - before
    return facts


def run(rows: int, log: int) -> dict[str, Any]:
    from al_resources.azure.data_explorer import setup_commands

    with emulated_cluster() as (url, orders):
        for command in setup_commands():
            database_of(url, "streaming").command(command)
        return {"in": into_the_log(url, rows), "out": out_of_the_log(url, orders, log), "rows": rows}


# ---------------------------------------------------------------------- growth
def growth(lengths: list[int], memory: str, window_rows: int) -> list[dict[str, Any]]:
    """Seconds of a selection from logs of these lengths; None where the engine refused it for want of memory."""
    from al_core.strategies.base import Order
    from al_resources.azure.data_explorer import KustoDatabase, setup_commands
    from al_resources.prediction_store.kusto import KustoPredictionStore
    from emulators.kusto import KustoEmulator

    found = []
    for rows in lengths:
        with KustoEmulator(memory=memory) as emulator:
            database = database_of(emulator.url, "streaming")
            for command in setup_commands():
                database.command(command)
            emulator.load_log(rows, "digits", 3)
            facts: dict[str, Any] = {"rows": rows}
            for way, of_window in (("at once", rows), ("in windows", window_rows)):
                settings = database.settings.model_copy(update={"kusto_window_rows": of_window})
                store = KustoPredictionStore(KustoDatabase(settings))
                facts[way] = seconds_or_refused(
                    lambda store=store: store.eligible("digits", 3, Order("margin"), BUDGET, ["image_id"])  # type: ignore[misc]
                )
            found.append(facts)
            print({name: round(value, 2) if isinstance(value, float) else value for name, value in facts.items()})
    return found


def seconds_or_refused(ask: Callable[[], Any]) -> float | None:
    """The second time: the first one has the analyser read the text."""
    from azure.kusto.data.exceptions import KustoServiceError

    try:
        ask()
        begun = time.perf_counter()
        ask()
    except KustoServiceError as error:
        if "OutOfMemory" not in str(error):
            raise
        return None
    return time.perf_counter() - begun


def plot(found: list[dict[str, Any]], memory: str, window_rows: int, file: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    for way, mark in (("at once", "s"), ("in windows", "o")):
        points = [(facts["rows"], facts[way]) for facts in found if facts[way] is not None]
        axes.plot(*zip(*points, strict=True), marker=mark, label=way) if points else None
    refused = [facts["rows"] for facts in found if facts["at once"] is None]
    axes.plot(refused, [0] * len(refused), "rx", label=f"at once: refused, {memory} of memory")
    axes.set(xlabel="images in the log", ylabel="seconds for 500 by margin", xlim=(0, None), ylim=(0, None))
    axes.set_title(f"emulated engine, windows of {window_rows:,} rows", fontsize=10)
    axes.legend()
    figure.savefig(file, dpi=110)


def show(facts: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(title=f"{facts['rows']:,} predictions into the log, {BATCH} at once")
    for column in ("way", "rows/s", "seconds", "x bare client", "CPU s", "x bare client "):
        table.add_column(column, justify="left" if column == "way" else "right")
    for name, answer in facts["in"].items():
        bare = facts["in"].get(f"bare client, {name.rsplit(', ', maxsplit=1)[-1]}")
        ratios = [f"{answer[one] / bare[one]:.2f}" if bare else "" for one in ("seconds", "cpu_seconds")]
        figures = (f"{answer['rows_per_second']:,.0f}", f"{answer['seconds']:.2f}", ratios[0])
        table.add_row(name, *figures, f"{answer['cpu_seconds']:.2f}", ratios[1])
    console.print(table)
    out = facts["out"]
    for name in ("margin", "random"):
        size, seconds = out[f"{name}_bytes"], out[f"{name}_seconds"]
        console.print(
            f"{BUDGET} by {name} from a log of {out['rows']:,.0f} rows: {size / 1e3:,.0f} kB answered, {seconds:.1f} s"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000, help="that are written, each way")
    parser.add_argument("--log", type=int, default=100_000, help="rows of the log that is selected from")
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--growth", type=int, nargs="+", metavar="ROWS", help="only this, for logs of these lengths")
    parser.add_argument("--memory", default="100MB", help="of the engine, for --growth")
    parser.add_argument("--window", type=int, default=50_000, help="rows of a window, for --growth")
    parser.add_argument("--plot", type=Path, help="draw --growth there")
    parser.add_argument("--images", type=int, metavar="COUNT", help="only this, so many images")
    parser.add_argument("--milliseconds", type=float, default=25, help="that a write takes, for --images")
    arguments = parser.parse_args()
    if arguments.images:
        for writers in (8, 32):
            rate = images_a_second(arguments.images, arguments.milliseconds, writers)
            print(f"{writers} at a time, {arguments.milliseconds:g} ms a write: {rate:,.0f} images a second")
        return
    if arguments.growth:
        found = growth(arguments.growth, arguments.memory, arguments.window)
        if arguments.plot:
            plot(found, arguments.memory, arguments.window, arguments.plot)
        return
    facts = run(arguments.rows, arguments.log)
    show(facts)
    if arguments.json:
        arguments.json.write_text(json.dumps(facts, indent=2))


if __name__ == "__main__":
    main()
