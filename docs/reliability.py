"""The page of faults: what was done to the loop, how often, and what was lost.

`python docs/reliability.py [--long] [--fault WORD]` runs the tests of faults and writes `docs/reliability.md` from what
they count. With `--long`, also those that `make test` leaves out. With `--fault`, only the faults that are told with
this word are run anew; each line says when it was. A test counts its tries by `record_property("tries", n)`; one
that does not is one try. A test passes only where everything that was acknowledged is there once, so what was lost is
what failed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs/reliability.md"
COUNTS = PAGE.with_suffix(".json")  # what the page was made from


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
        "the daemon dies at each of Dagster's own crash points of a sensor's look",
        "that every run that was asked for is begun, and begun once",
        "tests/sensors/test_crash_points_of_the_daemon.py",
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
Short tests are what `make test` runs; long ones take the rest, too. Of the writes of a round, a short run makes every
13th fail (`FAIL_EVERY=1` tries all).

Not done at all so far, and so not known:

- disks that acknowledge a sync and lose it all the same.
"""


@dataclass
class Count:
    """What came of the tests of a fault, and when."""

    tries: int = 0
    failed: int = 0
    left_out: int = 0
    at: str = ""
    machine: str = ""


def main() -> int:
    """Run the tests and write the page; 1 where one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--fault", default="")
    options = parser.parse_args()
    counts = run_tests([fault for fault in FAULTS if options.fault in fault.told], long=options.long)
    before = json.loads(COUNTS.read_text()) if COUNTS.exists() else {}
    known = before | {fault.told: asdict(count) for fault, count in counts.items()}
    known = {fault.told: known[fault.told] for fault in FAULTS if fault.told in known}
    COUNTS.write_text(json.dumps(known, indent=1) + "\n")
    PAGE.write_text(page({fault: Count(**known.get(fault.told, {})) for fault in FAULTS}))
    print(f"wrote {PAGE}")
    return int(any(count.failed for count in counts.values()))


def run_tests(faults: Sequence[Fault], *, long: bool) -> dict[Fault, Count]:
    """Run the tests of these faults; what came of each."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        files = sorted({fault.file for fault in faults})
        marks = ["-m", ""] if long else []
        options = ["-q", f"--junitxml={report}", "-o", "junit_family=xunit1", *marks]
        subprocess.run([sys.executable, "-m", "pytest", *options, *files], cwd=ROOT, check=False)
        counts = counted(ET.parse(report).getroot())
    at = f"{datetime.now(UTC):%Y-%m-%d %H:%M}, {'long' if long else 'short'}"
    machine = f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}"
    return {fault: replace(counts[fault], at=at, machine=machine) for fault in faults}


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


def page(counts: dict[Fault, Count]) -> str:
    """The page, whole."""
    machines = sorted({count.machine for count in counts.values() if count.machine})
    lines = [
        "# Reliability",
        "",
        "What was done to the loop, how often, and what of that which somebody was told is safe was lost or doubled.",
        "Made by `python docs/reliability.py`; a test passes only where nothing was.",
        "",
        f"{'; '.join(machines)}. Times are UTC.",
        "",
        "| fault | looked at afterwards | tries | lost or doubled | run |",
        "|---|---|--:|---|---|",
    ]
    for fault, count in counts.items():
        lost = f"**{count.failed} tests failed**" if count.failed else "0" if count.tries else "not run"
        left_out = f" ({count.left_out} left out)" if count.left_out else ""
        lines.append(f"| {fault.told} | {fault.looked_at} | {count.tries}{left_out} | {lost} | {count.at} |")
    return "\n".join(lines) + "\n" + NOT_RUN


if __name__ == "__main__":
    sys.exit(main())
