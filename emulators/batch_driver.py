"""Runs a scoring script over many files as a batch job does. Reads a task as JSON, writes the rows as JSON.

Standard library only: what the script needs, it has to bring itself.
"""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
import os
import sys
import traceback
from concurrent.futures import ProcessPoolExecutor
from typing import Any

_script: Any = None


def start(path: str) -> None:
    global _script  # noqa: PLW0603 - one script per process
    spec = importlib.util.spec_from_file_location("entry", path)
    assert spec is not None
    assert spec.loader is not None
    _script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(_script)
    _script.init()


def run(script: str, files: list[str], tries: int) -> list[str]:
    if _script is None:
        start(script)  # where it fails, the whole job fails
    return run_mini_batch(_script, files, tries)


def run_mini_batch(script: Any, files: list[str], tries: int) -> list[str]:
    for _ in range(tries):
        try:
            return [str(row) for row in script.run(files)]
        except Exception:  # noqa: BLE001 - whatever a script raises, the batch goes on
            traceback.print_exc()
    return []


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the script prints is no answer
    task = json.load(sys.stdin)
    size = task["mini_batch"]
    files = task["files"]
    batches = [(task["script"], files[at : at + size], task["tries"]) for at in range(0, len(files), size)]
    with ProcessPoolExecutor(task["processes"], multiprocessing.get_context("spawn")) as pool:
        rows = [row for batch in pool.map(run, *zip(*batches, strict=True)) for row in batch]
    json.dump(rows, answers)
    answers.close()


if __name__ == "__main__":
    main()
