"""How long a piece of work of the same size takes after a short and after a long history, in the same run.

`python -m benchmarks.growth [--commits 10_000] [--rows 500_000] [--exports 10_000] [--rounds 1_000] [--only TEXT]`

The short history is a hundredth of the long one. Times are medians of the work done in turns on both, so that a busy
machine hits both; beside them, the processor's time of all threads, which says the same of a machine that is busy. What
it costs to write the history is no part of it, and is written without syncing.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import polars as pl

from al_core.records import (
    EXPORTS,
    LABELS,
    LEDGERS,
    DatasetManifest,
    ModelManifest,
    prediction_table,
    table_of,
    utc_now,
)
from al_core.strategies.base import Order
from al_resources.delta_tables import open_table
from al_resources.labeling.inbox import INBOX
from al_resources.labeling.look import InboxCursor, look
from al_resources.ledgers.delta import DeltaLedgers
from al_resources.platform import Platform
from al_resources.prediction_store.delta import DeltaPredictionStore
from al_resources.settings import Settings

GOAL = 2.0
MERGED = 64  # commits after which small files are merged
ON = ["image_id", "annotator", "label"]
Work = Callable[[], object]
_number = count()


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commits", type=int, default=10_000)
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--exports", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=1_000)
    parser.add_argument("--only", default="", help="figures with this in their name")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, long, prepare in _figures(options):
            if options.only not in name:
                continue
            short, begun = long // 100, time.perf_counter()
            with unsynced():
                works = [prepare(Path(folder) / f"{name} {size}".replace(" ", "_"), size) for size in (short, long)]
            prepared = time.perf_counter() - begun
            (before, cpu_before), (after, cpu_after) = _in_turns(*works, repeats=options.repeats)
            ratio, cpu_ratio = after / before, cpu_after / cpu_before
            figures[name] = {
                "short": short, "long": long, "short_s": before, "long_s": after, "ratio": ratio,
                "short_cpu_s": cpu_before, "long_cpu_s": cpu_after, "cpu_ratio": cpu_ratio,
                "prepared_s": prepared, "goal": GOAL,
            }  # fmt: skip
            print(
                f"{name:46} {short:>7} -> {long:>7}: {before * 1000:7.1f} -> {after * 1000:7.1f} ms, x {ratio:5.2f}; "
                f"cpu {cpu_before * 1000:6.1f} -> {cpu_after * 1000:6.1f} ms, x {cpu_ratio:5.2f}"
                f"{'' if ratio <= GOAL else '   above the goal'}",
                flush=True,
            )
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))
    return figures


def _figures(options: argparse.Namespace) -> Iterator[tuple[str, int, Callable[[Path, int], Work]]]:
    """What is measured, the long history, and what prepares a history and gives the work to be done after it."""
    yield "insert of 1 row, by rows", options.rows, lambda folder, size: ledger_of_rows(folder, size, 1)
    yield "insert of 500 rows, by rows", options.rows, lambda folder, size: ledger_of_rows(folder, size, 500)
    yield "look at one new export, by merged exports", options.exports, inbox_of
    yield "next model version, by versions", options.rounds, registry_of
    yield "who waits for what, by rounds", options.rounds, lambda folder, size: waits(home_of(folder, size))
    yield "what people are alerted of, by rounds", options.rounds, lambda folder, size: alerted(home_of(folder, size))
    yield "the newest round's model, by rounds", options.rounds, lambda folder, size: challenger(home_of(folder, size))
    yield "insert of 1 row, by commits", options.commits, ledger_of_commits
    yield "append of 10 answers, by commits", options.commits, lambda folder, size: appended(log(folder, size))
    yield "50 for people, by commits and answers", options.commits, lambda folder, size: eligible(log(folder, size))


def log(folder: Path, commits: int) -> DeltaPredictionStore:
    """One history for both figures of the log."""
    return log_of_commits(folder.with_name(f"log_{commits}"), commits)


# ---------------------------------------------------------------------- histories, and the work after them
def ledger_of_rows(folder: Path, rows: int, inserted: int) -> Work:
    """Insert some labels into a ledger that a thousand merges of large exports would have left."""
    ledgers = DeltaLedgers(folder)
    for start in range(0, rows, 50_000):
        ledgers.insert_new("labels", _labels(min(50_000, rows - start)), ON)
    return lambda: ledgers.insert_new("labels", _labels(inserted), ON)


def ledger_of_commits(folder: Path, commits: int) -> Work:
    """Insert a label into a ledger that people label into, one answer a commit."""
    from deltalake import write_deltalake

    ledgers = DeltaLedgers(folder)
    for number in range(0, commits, MERGED):
        ledgers.insert_new("labels", _labels(1), ON)  # merges files where it is time
        aged(folder / "labels")
        table = open_table(folder / "labels")
        assert table is not None
        for _ in range(min(MERGED, commits - number) - 1):
            place = pl.lit(table.version() + 1, pl.Int64).alias("_commit"), pl.lit(0, pl.Int64).alias("_row")
            write_deltalake(table, pl.DataFrame(_labels(1)).with_columns(*place).to_arrow(), mode="append")
    return lambda: ledgers.insert_new("labels", _labels(1), ON)


@cache
def log_of_commits(folder: Path, commits: int) -> DeltaPredictionStore:
    """A log of 10 answers a commit that nobody has compacted."""
    store = DeltaPredictionStore(folder / "predictions", DeltaLedgers(folder / "ledgers"))
    for number in range(commits):
        store.append(_predictions(10))
        if number % MERGED == 0:
            aged(folder / "predictions")
    return store


def eligible(store: DeltaPredictionStore) -> Work:
    """Choose 50."""
    return lambda: store.eligible("digits", 1, Order("margin"), 50, ["image_uri"])


def appended(store: DeltaPredictionStore) -> Work:
    """Log 10 more."""
    return lambda: store.append(_predictions(10))


def aged(table: Path) -> None:
    """What was committed so far is a day old: nobody makes ten thousand commits in an hour."""
    day_ago = time.time() - 86_400
    for file in (table / "_delta_log").iterdir():
        os.utime(file, (day_ago, day_ago))


def inbox_of(folder: Path, exports: int) -> Work:
    """A tick's look at an inbox in which one export is new and all others are on record."""
    platform = Platform(Settings(home=folder))
    platform.blobs.write(f"{INBOX}/new.jsonl", b'{"image_url": "' + b"a" * 32 + b'.png", "label": "7"}\n')
    place = next(path for path in folder.rglob("new.jsonl")).parent
    for number in range(exports):
        (place / f"{number}.jsonl").write_text("{}\n")
    merged = [blob for blob in platform.inbox.exports() if not blob.path.endswith("new.jsonl")]
    rows = [{"path": blob.path, "etag": blob.etag, "status": "merged", "new_labels": 0} for blob in merged]
    platform.ledgers.insert_new("exports", table_of(EXPORTS, rows), ["path", "etag"])
    return lambda: look(platform.inbox, InboxCursor(), limit=5, now=utc_now())


def registry_of(folder: Path, versions: int) -> Work:
    """Publish one more version."""
    registry = Platform(Settings(home=folder)).registry
    weights = folder / "weights"
    weights.parent.mkdir(parents=True, exist_ok=True)
    weights.write_bytes(b"weights")
    for _ in range(versions):
        registry.register(weights, _manifest())
    return lambda: registry.register(weights, _manifest())


def waits(home: Platform) -> Work:
    """What the sensor of rounds does each minute."""
    from al_loop.waiting import standing

    return lambda: standing(home)


def alerted(home: Platform) -> Work:
    """What the sensor of alerts does each minute, where a day ago somebody was told."""
    from al_loop.alerts import alerts

    return lambda: alerts(home, utc_now() - timedelta(days=1), utc_now())


def challenger(home: Platform) -> Work:
    """Find the model of the newest round, as the checks and the deployment of a round do."""
    from al_loop.deploying import challenger_of_round

    newest = home.registry.versions()[-1] - 1
    return lambda: challenger_of_round(home, newest)


def home_of(folder: Path, rounds: int) -> Platform:
    """What so many rounds of 50 images leave in the ledgers, the inbox, the registry and the datasets."""
    platform = Platform(Settings(home=folder))
    at = utc_now() - timedelta(hours=36)
    for round_ in range(rounds):
        platform.blobs.write(f"{INBOX}/{round_}.json", b"{}")
    etags = {blob.path: blob.etag for blob in platform.inbox.exports()}
    for name, key, rows in _ledgers(rounds, at, etags):
        platform.ledgers.insert_new(name, table_of(LEDGERS[name], rows), [key])
    weights = folder / "weights"
    weights.write_bytes(b"weights")
    for round_ in range(rounds):
        manifest = DatasetManifest(
            version=f"{round_}", sequence=round_ + 1, parent=None, round=round_, classes=("7",), counts={"train": 50},
            holdout="", created_at=at,
        )  # fmt: skip
        platform.blobs.write(f"datasets/{round_}/manifest.json", manifest.model_dump_json().encode())
        made = _manifest().model_copy(update={"round": round_, "dataset_version": f"{round_}"})
        platform.registry.register(weights, made)
    return platform


def _ledgers(rounds: int, at: datetime, etags: dict[str, str]) -> Iterator[tuple[str, str, list[dict[str, Any]]]]:
    """Rows of the ledgers, and the column that tells them apart."""
    ids = [_ids(50) for _ in range(rounds)]
    yield (
        "selections",
        "image_id",
        [
            {"round": round_, "image_id": one, "reason": "strategy", "selected_at": at}
            for round_ in range(rounds)
            for one in ids[round_]
        ],
    )
    yield (
        "labels",
        "image_id",
        [
            {"image_id": one, "annotator": "ana", "label": "7", "labeled_at": at, "export_id": f"{round_}"}
            for round_ in range(rounds)
            for one in ids[round_]
        ],
    )
    yield "exports", "path", [
        {"export_id": f"{n}", "path": path, "etag": etag, "status": "merged", "new_labels": 50, "recorded_at": at}
        for n, (path, etag) in enumerate(etags.items())
    ]  # fmt: skip
    yield "decisions", "decision_id", [
        {"decision_id": f"{n}", "action": "keep", "model_version": n + 1, "round": n, "person": "loop",
         "verdict": '{"outcome": "worse"}', "decided_at": at}
        for n in range(rounds)
    ]  # fmt: skip


def _labels(rows: int) -> Any:
    return table_of(LABELS, [{"image_id": one, "annotator": "ana", "label": "7"} for one in _ids(rows)])


def _predictions(rows: int) -> Any:
    probs = np.random.default_rng(next(_number)).dirichlet(np.ones(10), rows).astype(np.float32)
    ids = _ids(rows)
    return prediction_table(
        image_ids=ids,
        image_uris=[f"images/{one}.png" for one in ids],
        image_hashes=ids,
        model_name="digits",
        model_version=1,
        classes=tuple("0123456789"),
        probs=probs,
        source="online",
        logged_at=utc_now(),
    )


def _manifest() -> ModelManifest:
    from al_core.learning.networks import preprocessing_for

    return ModelManifest(
        name=Settings().model.name, version=0, architecture="small_cnn", classes=tuple("0123456789"),
        preprocessing=preprocessing_for("small_cnn", size=16, channels=1), dataset_version="none",
        training_key=f"training {next(_number)}", code_version="benchmark", labels=0, created_at=utc_now(),
        weights_sha256="",
    )  # fmt: skip


def _ids(rows: int) -> list[str]:
    digits = np.random.default_rng(next(_number)).bytes(16 * rows).hex()
    return [digits[32 * n : 32 * n + 32] for n in range(rows)]


def _in_turns(short: Work, long: Work, *, repeats: int) -> list[tuple[float, float]]:
    """Median seconds of both, by the clock and of the processor; the first time of each is left out, as it pays for
    what is kept afterwards."""
    times: list[list[tuple[float, float]]] = [[], []]
    for turn in range(repeats + 1):
        for work, taken in zip((short, long), times, strict=True):
            begun, cpu = time.perf_counter(), time.process_time()
            work()
            if turn:
                taken.append((time.perf_counter() - begun, time.process_time() - cpu))
    return [(statistics.median(wall for wall, _ in one), statistics.median(cpu for _, cpu in one)) for one in times]


@contextmanager
def unsynced() -> Iterator[None]:
    """Nothing waits for the disk meanwhile: a history is only to be there, not to survive."""
    with mock.patch("os.fsync"), mock.patch("os.fdatasync"):
        yield


if __name__ == "__main__":
    main()
