"""How long the commands take from the prompt to the prompt, as a ratio to a bare interpreter in the same run.

`python -m benchmarks.commands [--home DEMO] [--json OUT]`: with `--home`, `al status` on the home of a finished demo,
otherwise on an empty one.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

RUNS = 9
GOALS = {"al --help": 0.3, "al status": 1.0}  # seconds on idle cores


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        config = (options.home or Path(folder)) / "al.toml"
        if options.home is None:
            config.write_text('home = "data"\n')
        result = measured(config)
    result["home"] = "an empty one" if options.home is None else str(options.home.name)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))
    return result


def measured(config: Path) -> dict[str, Any]:
    """Median seconds on the clock and of the processor, for each command and for an interpreter that does nothing."""
    command = [sys.executable, "-m", "al_cli.main"]
    programs = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "al --help": [*command, "--help"],
        "al status": [*command, "--config", str(config), "status"],
    }
    for program in programs.values():
        _seconds(program)  # so that all find their byte code
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in programs}
    for _ in range(RUNS):  # in turn, so that a drift of the machine's speed hits all
        for name, program in programs.items():
            taken[name].append(_seconds(program))
    result: dict[str, Any] = {"load_average": os.getloadavg()[0], "cores": os.cpu_count()}
    for name, times in taken.items():
        wall, processor = (statistics.median(column) for column in zip(*times, strict=True))
        result[name] = {"wall_s": round(wall, 3), "processor_s": round(processor, 3), "goal_s": GOALS.get(name)}
        goal = f"   goal {GOALS[name]:g} s on idle cores" if name in GOALS else ""
        print(f"{name:16} {wall:6.2f} s on the clock, {processor:5.2f} s of the processor{goal}")
    return result


def _seconds(program: list[str]) -> tuple[float, float]:
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(program, check=True, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
