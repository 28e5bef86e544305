"""How long Dagster takes to load the definitions, as a ratio to `import dagster` in the same run.

`python -m benchmarks.definitions [--json OUT]`
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

RUNS = 7
GOAL = 2.0


def main(arguments: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    bare, ours = [], []
    for _ in range(RUNS):  # in turn, so that a drift of the machine's speed hits both
        bare.append(_seconds("import dagster"))
        ours.append(_seconds("import al_assets.definitions"))
    ratios = [one / other for one, other in zip(ours, bare, strict=True)]
    result = {
        "import_dagster_s": statistics.median(bare),
        "load_definitions_s": statistics.median(ours),
        "ratio": statistics.median(ratios),
        "goal": GOAL,
    }
    print(f"import dagster     {result['import_dagster_s']:.2f} s")
    print(f"load definitions   {result['load_definitions_s']:.2f} s   ratio {result['ratio']:.2f}, goal below {GOAL:g}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))
    return result


def _seconds(program: str) -> float:
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", program], check=True)
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
