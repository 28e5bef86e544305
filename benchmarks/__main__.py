"""`python -m benchmarks`: every table, one after the other, each in a process of its own."""

import subprocess
import sys
from pathlib import Path

for module in sorted(Path(__file__).parent.glob("[a-z]*.py")):
    print(f"\n== {module.stem}", flush=True)
    subprocess.run([sys.executable, "-m", f"benchmarks.{module.stem}"], check=True)
