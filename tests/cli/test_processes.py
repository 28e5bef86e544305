"""What a command starts beside itself ends with it, however it ends; one command a home."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from al_cli.dagster_api import DagsterError
from al_cli.dagster_process import listener_of_ui
from al_cli.processes import Child, ChildEnded, Children, HomeInUse, signals_end_it, sole_use

COMMAND = """
import sys, time
from pathlib import Path
from al_cli.processes import Child, Children, signals_end_it
folder = Path(sys.argv[1])
with signals_end_it(), Children() as children:
    children.start(Child("a child", ["beside"], folder / "child.log", {"FOLDER": str(folder)}))
    while True:
        time.sleep(0.05)
"""
# a child that starts something with a process group of its own, as the code server does with runs
BESIDE = """
import os, subprocess, sys, time
from pathlib import Path
run = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
Path(os.environ["FOLDER"], "pids.tmp").write_text(f"{os.getpid()} {run.pid}")
os.replace(Path(os.environ["FOLDER"], "pids.tmp"), Path(os.environ["FOLDER"], "pids"))
time.sleep(600)
"""


def until(what: str, ready: Callable[[], bool], timeout: float = 40) -> None:
    deadline = time.monotonic() + timeout
    while not ready():
        assert time.monotonic() < deadline, f"{what} did not come within {timeout} s"
        time.sleep(0.05)


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.fixture
def command(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], list[int]]]:
    """A command with a child and a grandchild: (its process, their ids)."""
    (tmp_path / "beside.py").write_text(BESIDE)
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', Path.cwd())}"}
    process = subprocess.Popen([sys.executable, "-c", COMMAND, str(tmp_path)], env=environment)
    until("the child", (tmp_path / "pids").exists)
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    yield process, pids
    for pid in [process.pid, *pids]:
        if not is_gone(pid):
            os.kill(pid, signal.SIGKILL)
    process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_everything_that_was_started(
    command: tuple[subprocess.Popen[bytes], list[int]], number: signal.Signals
) -> None:
    process, pids = command
    process.send_signal(number)
    assert process.wait(40) != 0
    assert [pid for pid in pids if not is_gone(pid)] == []


def test_a_child_does_not_outlive_a_command_that_was_killed(
    command: tuple[subprocess.Popen[bytes], list[int]],
) -> None:
    process, pids = command
    process.kill()
    until("the end of the child", lambda: is_gone(pids[0]))


def test_a_child_that_dies_young_ends_the_command_with_the_reason(tmp_path: Path) -> None:
    with Children() as children:
        children.start(Child("the daemon", ["no_such_module"], tmp_path / "log"))
        with pytest.raises(ChildEnded, match=r"the daemon ended with exit code 1(?s:.*)no_such_module"):
            until("the end", lambda: bool(children.check()))


def test_the_end_of_a_child_is_told_without_the_colours_of_its_log(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.DEVNULL)
    ended.wait()
    (tmp_path / "log").write_text("\x1b[32mone\x1b[0m\ntwo\n")
    child = Child("the Dagster daemon", ["x"], tmp_path / "log")
    child.process = ended
    assert child.told_end().endswith("says last:\n  one\n  two")


def test_a_child_that_dies_later_is_started_again_and_that_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("al_cli.processes.STEADY_SECONDS", 0)
    with Children() as children:
        child = children.start(Child("the service", ["http.server", "0", "-b", "127.0.0.1"], tmp_path / "log"))
        first = child.process.pid
        assert children.check() == []
        child.process.kill()
        child.process.wait()
        (told,) = children.check()
        assert "the service ended with exit code -9" in told
        assert child.process.pid != first
        assert children.check() == []


def test_a_log_is_bounded_while_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("al_cli.processes.LONGEST_LOG", 10_000)
    (tmp_path / "talks.py").write_text("import time\nfor n in range(10**9): print(n, flush=True), time.sleep(1e-4)")
    environment = {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', Path.cwd())}"}
    log = tmp_path / "log"
    with Children() as children:
        children.start(Child("a talker", ["talks"], log, environment))
        until("a full log", lambda: log.stat().st_size > 10_000)
        children.check()
        until("more", lambda: log.stat().st_size > 0)
        assert log.stat().st_size < 10_000
    lines = log.read_text().splitlines()
    assert int(lines[-1]) > int(lines[0]), "it is written on at its new end, without a hole"
    assert 5_000 <= (tmp_path / "log.1").stat().st_size < 5_100, "its end, and what came while it was copied"


def test_a_home_is_used_by_one_command_at_a_time_and_the_other_is_told_by_whom(tmp_path: Path) -> None:
    with (
        sole_use(tmp_path, "al ui"),
        pytest.raises(HomeInUse, match=rf"in use by `al ui` \(process {os.getpid()}, since"),
        sole_use(tmp_path, "al demo"),
    ):
        pass
    with sole_use(tmp_path, "al demo"):
        pass


def test_a_home_whose_command_was_killed_is_free(tmp_path: Path) -> None:
    holding = "from al_cli.processes import *\nimport sys, os\nwith sole_use(Path(sys.argv[1]), 'al ui'): os._exit(9)"
    assert subprocess.run([sys.executable, "-c", holding, str(tmp_path)], check=False).returncode == 9
    with sole_use(tmp_path, "al ui"):
        pass


def test_a_port_that_is_taken_is_an_error_where_it_was_asked_for() -> None:
    with listener_of_ui(0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(DagsterError, match=f"port {port} .* name another with --port"):
            listener_of_ui(port)


def test_signals_are_heard_as_before_when_the_block_has_ended() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit), signals_end_it():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before
