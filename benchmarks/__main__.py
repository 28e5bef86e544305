"""Every table, one after the other, each in a process of its own.

`python -m benchmarks [--only NAME ...] [--record VERSION]`: with `--record`, the figures are kept in
`benchmarks/history/VERSION.json`, with the machine that they are from, so that releases can be compared.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
TABLES = sorted(module.stem for module in HERE.glob("[a-z]*.py"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=TABLES, default=TABLES, metavar="NAME", help=", ".join(TABLES))
    parser.add_argument("--record", metavar="VERSION", help="keep the figures under this version")
    options = parser.parse_args()
    figures = {}
    for name in options.only:
        print(f"\n== {name}", flush=True)
        figures[name] = measured(name)
    if options.record:
        print(f"\nkept in {record(options.record, figures)}")


def measured(name: str) -> Any:
    """Run one table; its figures. Raises `CalledProcessError` where it fails."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "figures.json"
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}", "--json", str(result)], check=True)
        return json.loads(result.read_text()) if result.exists() else None  # None: it said what it lacks


def record(version: str, figures: dict[str, Any]) -> Path:
    """Add the figures to the history of this version; tables measured before stay."""
    file = HERE / "history" / f"{Path(version).name}.json"
    file.parent.mkdir(exist_ok=True)
    before = json.loads(file.read_text())["tables"] if file.exists() else {}
    machine = {
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": processor(),
        "cores": os.cpu_count(),
    }
    at = datetime.now(UTC).isoformat(timespec="minutes")
    tables = before | {
        name: {"measured_at": at, "machine": machine, "figures": found} for name, found in figures.items()
    }
    file.write_text(json.dumps({"version": version, "tables": tables}, indent=1, sort_keys=True) + "\n")
    return file


def processor() -> str:
    """What the processor is called, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


if __name__ == "__main__":
    main()
