"""The page of faults: what was done to the loop, how often, and what was lost.

`python docs/reliability.py [--long]` runs the tests of faults and writes `docs/reliability.md` from what they count.
With `--long`, also those that `make test` leaves out. A test counts its tries by `record_property("tries", n)`; one
that does not is one try. A test passes only where everything that was acknowledged is there once, so what was lost is
what failed.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs/reliability.md"


@dataclass(frozen=True)
class Fault:
    """A kind of fault: the tests that bring it about, by file and by what is in their names, and what they look at."""

    told: str
    looked_at: str
    file: str
    names: tuple[str, ...] = ("",)

    def has(self, file: str, test: str) -> bool:
        """Whether a test belongs here."""
        return file == self.file and any(name in test for name in self.names)


LOOP = "labels, exports on record, dataset versions, models, promotions, and every claim of `al doctor --check`"
WRITES = "tests/resources/test_fail_at_every_write.py"
FAULTS = (
    Fault("the n-th write of a round fails with an error", LOOP, WRITES, ("[1-error]",)),
    Fault("the process is killed at the n-th write", LOOP, WRITES, ("[2-kill]",)),
    Fault("killed, and what was not synced is lost", LOOP, WRITES, ("[3-lost]",)),
    Fault("killed, and what was not synced is torn", LOOP, WRITES, ("[4-torn]",)),
    Fault(
        "anything in any order: deliveries again, renamed, corrected, kills, clocks that jump, a cursor that is "
        "reset, rollbacks (tries are steps)",
        "every claim of `al doctor --check`, and that the last new answer to each image stands",
        "tests/resources/test_loop_machine.py",
    ),
    Fault(
        "a table's commit, data file or checkpoint is torn, of 0 bytes or gone after a power cut",
        "rows that were acknowledged, and that what is torn is told",
        "tests/resources/test_power_cut.py",
    ),
    Fault(
        "the power of a disk is cut in the middle (an ext4 image, shut down without its journal, copied and mounted)",
        "selections, predictions, exports, labels, dataset versions, models, who serves, and every claim",
        "tests/resources/test_power_cut_of_a_disk.py",
    ),
    Fault(
        "the daemon, the code server or a run worker is killed (SIGKILL) while rounds go on and people deliver",
        "every label, once; every round, whole; every claim of `al doctor --check`",
        "tests/loop/test_kills_under_load.py",
    ),
    Fault(
        "an export comes again, renamed, reordered, half, or its merge is interrupted",
        "labels of the ledger",
        "tests/resources/test_merge_exactly_once.py",
        ("again", "dies", "same_time", "interrupted", "half", "broken", "resetting", "cumulative", "came_to_nothing"),
    ),
    Fault(
        "clocks that are set back, jump, or are hours apart",
        "exports that are read, labels that stand, rows of log and ledgers",
        "tests/resources/test_merge_exactly_once.py",
        ("clock", "future", "size_and_time"),
    ),
    Fault(
        "writers and readers whose clocks are hours apart",
        "rows of log and ledgers",
        "tests/resources/test_clock_skew.py",
    ),
    Fault(
        "a scoring process is killed (SIGKILL) while it answers (tries are answers)",
        "answered predictions in the log",
        "tests/serving/test_collector.py",
        ("killed",),
    ),
    Fault(
        "stores that are away, fail after they wrote, are full or damaged",
        "answered predictions in the log",
        "tests/serving/test_collector.py",
        ("away", "did_not_take", "after_it_has_written", "left_after", "full", "damaged", "cannot_be_kept"),
    ),
    Fault(
        "a rollout, a batch or a training is killed between its effect and its record",
        "rows of the deployment ledger, predictions of the batch",
        "tests/serving/test_order_of_effects.py",
    ),
    Fault(
        "a rollout fails or is killed at each of its steps",
        "who has the traffic",
        "tests/resources/test_rollout.py",
        ("goes_wrong", "fails", "cancelled", "killed"),
    ),
    Fault(
        "an erasure is interrupted, or the image is delivered again",
        "that nothing of the image is left",
        "tests/loop/test_forgetting.py",
        ("every_claim", "bring_it_back", "interrupted"),
    ),
    Fault(
        "the command, or one of its processes, is killed or signalled",
        "that nothing it started stays, and a next start works",
        "tests/cli/test_processes.py",
        ("signal_ends", "killed", "dies"),
    ),
    Fault(
        "slow, silent, unfinished and too large requests",
        "the answers of everybody else",
        "tests/serving/test_load.py",
    ),
)
NOT_RUN = """
Not done at all so far, and so not known:

- Dagster's own crash points of the daemon,
- disks that acknowledge a sync and lose it all the same.
"""


@dataclass
class Count:
    """What came of the tests of a fault."""

    tries: int = 0
    failed: int = 0
    left_out: int = 0


def main() -> int:
    """Run the tests and write the page; 1 where one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--long", action="store_true")
    options = parser.parse_args()
    counts = run_tests(long=options.long)
    PAGE.write_text(page(counts, long=options.long))
    print(f"wrote {PAGE}")
    return int(any(count.failed for count in counts.values()))


def run_tests(*, long: bool) -> dict[Fault, Count]:
    """Run the tests of all faults; what came of each fault."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        files = sorted({fault.file for fault in FAULTS})
        marks = ["-m", ""] if long else []
        options = ["-q", f"--junitxml={report}", "-o", "junit_family=xunit1", *marks]
        subprocess.run([sys.executable, "-m", "pytest", *options, *files], cwd=ROOT, check=False)
        return counted(ET.parse(report).getroot())


def counted(report: ET.Element) -> dict[Fault, Count]:
    """Tries and failures of each fault, out of pytest's report."""
    counts = {fault: Count() for fault in FAULTS}
    for case in report.iter("testcase"):
        fault = next((one for one in FAULTS if one.has(case.get("file", ""), case.get("name", ""))), None)
        if fault is None:
            continue
        said = {entry.get("name"): entry.get("value", "") for entry in case.iter("property")}
        if case.find("skipped") is not None:
            counts[fault].left_out += 1
        elif case.find("failure") is not None or case.find("error") is not None:
            counts[fault].failed += 1
        else:
            counts[fault].tries += int(said.get("tries", 1))
    return counts


def page(counts: dict[Fault, Count], *, long: bool) -> str:
    """The page, whole."""
    at = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    every = os.environ.get("FAIL_EVERY", "13")
    lines = [
        "# Reliability",
        "",
        "What was done to the loop, how often, and what of that which somebody was told is safe was lost or doubled.",
        "Made by `python docs/reliability.py`; a test passes only where nothing was.",
        "",
        f"{at}; {os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}; "
        f"{'with' if long else 'without'} the tests that `make test` leaves out; of the writes of a round, every "
        f"{'one' if every == '1' else f'{every}th'} was made to fail (`FAIL_EVERY=1` tries all).",
        "",
        "| fault | looked at afterwards | tries | lost or doubled |",
        "|---|---|--:|---|",
    ]
    for fault, count in counts.items():
        lost = f"**{count.failed} tests failed**" if count.failed else "0" if count.tries else "not run"
        left_out = f" ({count.left_out} left out)" if count.left_out else ""
        lines.append(f"| {fault.told} | {fault.looked_at} | {count.tries}{left_out} | {lost} |")
    return "\n".join(lines) + "\n" + NOT_RUN


if __name__ == "__main__":
    sys.exit(main())
