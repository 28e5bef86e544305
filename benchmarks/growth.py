"""How long a piece of work of the same size takes after a short and after a long history, in the same run.

`python -m benchmarks.growth [--commits 320] [--rows 500_000] [--exports 10_000] [--versions 1_000] [--json OUT]`

The short history is a hundredth of the long one (of commits, a tenth). Times are medians in seconds of the work done
in turns on both, so that a busy machine hits both. What it costs to write the history is no part of it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from al_core.records import EXPORTS, LABELS, ModelManifest, prediction_table, table_of, utc_now
from al_core.strategies.base import Order
from al_resources.labeling.inbox import INBOX
from al_resources.labeling.look import InboxCursor, look
from al_resources.ledgers.delta import DeltaLedgers
from al_resources.platform import Platform
from al_resources.prediction_store.delta import DeltaPredictionStore
from al_resources.settings import Settings

GOAL = 2.0
ON = ["image_id", "annotator", "label"]
Work = Callable[[], object]
_number = count()


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commits", type=int, default=320)
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--exports", type=int, default=10_000)
    parser.add_argument("--versions", type=int, default=1_000)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, short, long, prepare in _figures(options):
            begun = time.perf_counter()
            works = [prepare(Path(folder) / f"{name} {size}".replace(" ", "_"), size) for size in (short, long)]
            prepared = time.perf_counter() - begun
            before, after = _in_turns(*works, repeats=options.repeats)
            ratio = after / before
            figures[name] = {
                "short": short, "long": long, "short_s": before, "long_s": after, "ratio": ratio,
                "prepared_s": prepared, "goal": GOAL,
            }  # fmt: skip
            print(
                f"{name:46} {short:>7} -> {long:>7}: {before * 1000:8.1f} -> {after * 1000:8.1f} ms, x {ratio:5.2f}"
                f"{'' if ratio <= GOAL else '   above the goal'}",
                flush=True,
            )
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))
    return figures


def _figures(options: argparse.Namespace) -> Iterator[tuple[str, int, int, Callable[[Path, int], Work]]]:
    rows, commits = options.rows, options.commits
    yield "insert of 1 row, by rows", rows // 100, rows, lambda folder, size: ledger_of_rows(folder, size, 1)
    yield "insert of 500 rows, by rows", rows // 100, rows, lambda folder, size: ledger_of_rows(folder, size, 500)
    yield "insert of 1 row, by commits", commits // 10, commits, ledger_of_commits
    yield "eligible, 50 of the same rows, by commits", commits // 10, commits, log_of_commits
    yield "append of 10 answers, by commits", commits // 10, commits, appends_after_commits
    yield "look at one new export, by merged exports", options.exports // 100, options.exports, inbox_of
    yield "next model version, by versions", options.versions // 100, options.versions, registry_of


# ---------------------------------------------------------------------- histories, and the work after them
def ledger_of_rows(folder: Path, rows: int, inserted: int) -> Work:
    """Insert some labels into a ledger that a thousand merges of large exports would have left."""
    ledgers = DeltaLedgers(folder)
    for start in range(0, rows, 50_000):
        ledgers.insert_new("labels", _labels(min(50_000, rows - start)), ON)
    return lambda: ledgers.insert_new("labels", _labels(inserted), ON)


def ledger_of_commits(folder: Path, commits: int) -> Work:
    """Insert a label into a ledger that people label into, one answer a commit."""
    ledgers = DeltaLedgers(folder)
    for _ in range(commits):
        ledgers.insert_new("labels", _labels(1), ON)
    return lambda: ledgers.insert_new("labels", _labels(1), ON)


def log_of_commits(folder: Path, commits: int) -> Work:
    """Choose from 10 000 answers, logged in so many commits that nobody has compacted."""
    store = _log(folder, commits, rows=10_000)
    return lambda: store.eligible("digits", 1, Order("margin"), 50, ["image_uri"])


def appends_after_commits(folder: Path, commits: int) -> Work:
    """Log 10 answers after so many commits."""
    store = _log(folder, commits, rows=10 * commits)
    return lambda: store.append(_predictions(10))


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


def _log(folder: Path, commits: int, rows: int) -> DeltaPredictionStore:
    store = DeltaPredictionStore(folder / "predictions", DeltaLedgers(folder / "ledgers"))
    for _ in range(commits):
        store.append(_predictions(rows // commits))
    return store


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


def _in_turns(short: Work, long: Work, *, repeats: int) -> tuple[float, float]:
    """Median seconds of both; the first time of each is left out, as it pays for what is kept afterwards."""
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(repeats + 1):
        for work, taken in zip((short, long), times, strict=True):
            begun = time.perf_counter()
            work()
            if turn:
                taken.append(time.perf_counter() - begun)
    return statistics.median(times[0]), statistics.median(times[1])


if __name__ == "__main__":
    main()
