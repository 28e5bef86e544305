"""What a command starts beside itself: children that end with it, however it ends; one command a home."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING

from click import unstyle

from al_core.errors import ActiveLearningError

if TYPE_CHECKING:
    import psutil

ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STEADY_SECONDS = 60.0  # a child that lived so long is started again; one that dies younger would only die again
LOCK, OWNER = ".al-running.lock", ".al-running.json"
MARKER = ".al-demo"  # in folders that a demo made, and only those does the next demo replace; holds its profile
EMULATED = "azure-emulated"  # the profile of a demo whose stores end with it
LONGEST_LOG = 20_000_000  # bytes
TOLD_LINES = 5  # of a dead child's log


class ChildEnded(ActiveLearningError):
    """A process that the command needs ended by itself."""


class HomeInUse(ActiveLearningError):
    """Another command runs on this home."""


@contextmanager
def signals_end_it() -> Iterator[None]:
    """SIGTERM and SIGHUP end the block as Ctrl-C does: what was started in it is stopped.

    While that happens further signals are passed over, so that nothing stays behind half-stopped.
    """

    def end(number: int, frame: FrameType | None) -> None:
        for each in ENDING_SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread hears signals
        return
    before = {number: signal.signal(number, end) for number in ENDING_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def sole_use(home: Path, command: str) -> Iterator[None]:
    """Nobody else runs on this home while the block does.

    Raises:
        HomeInUse: somebody does; says who.
    """
    from filelock import FileLock, Timeout

    home.mkdir(parents=True, exist_ok=True)
    lock, owner = FileLock(home / LOCK), home / OWNER
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise HomeInUse(f"{home} is in use by {_told_owner(owner)}; end that first, or name another --home") from error
    try:
        owner.write_text(json.dumps({"command": command, "pid": os.getpid(), "since": time.strftime("%F %T")}))
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()


def _told_owner(owner: Path) -> str:
    try:
        told = json.loads(owner.read_text())
        return f"`{told['command']}` (process {told['pid']}, since {told['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another command that has just begun"


@dataclass
class Child:
    """One process beside the command."""

    name: str
    arguments: Sequence[str]  # python -m ...
    log: Path
    environment: dict[str, str] = field(default_factory=dict)
    pass_fds: tuple[int, ...] = ()
    own_group: bool = True
    started: float = 0.0

    def start(self) -> None:
        """Start it; it ends when this process is gone."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.started = time.monotonic()
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "al_cli.tethered", *self.arguments],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                # idle threads must not spin: the processes share the machine's cores
                env={"OMP_WAIT_POLICY": "PASSIVE"} | os.environ | self.environment,
                pass_fds=self.pass_fds,
                start_new_session=self.own_group,
            )

    def stop(self) -> None:
        """End it and everything it started, runs too."""
        started = _descendants(self.process.pid)
        stop(self.process, group=self.own_group)
        _end(started)
        if self.process.stdin is not None:
            with suppress(OSError):
                self.process.stdin.close()

    def bound_log(self) -> None:
        """Keep the newest part of a log that has grown long, once more beside it. Children write at its end."""
        with suppress(OSError):
            if self.log.stat().st_size <= LONGEST_LOG:
                return
            with self.log.open("r+b") as log:
                log.seek(-LONGEST_LOG // 2, os.SEEK_END)
                self.log.with_name(f"{self.log.name}.1").write_bytes(log.read())
                log.truncate(0)

    def told_end(self) -> str:
        """How it ended, with the last lines of its log."""
        with suppress(OSError):
            lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
            last = "".join(f"\n  {unstyle(line)[:300]}" for line in lines[-TOLD_LINES:])
            return f"{self.name} ended with exit code {self.process.returncode}; {self.log} says last:{last}"
        return f"{self.name} ended with exit code {self.process.returncode}"


class Children:
    """The processes beside a command: started in order, watched, stopped in reverse order at the end."""

    def __init__(self) -> None:
        self._children: list[Child] = []
        self._stack = ExitStack()

    def __enter__(self) -> Children:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def start(self, child: Child) -> Child:
        """Start one more."""
        child.start()
        self._children.append(child)
        self._stack.callback(child.stop)
        return child

    def check(self) -> list[str]:
        """Start again what died, and say so: a line each.

        Raises:
            ChildEnded: one died soon after its start; says how.
        """
        told = []
        for child in self._children:
            child.bound_log()
            if child.process.poll() is None:
                continue
            lived = time.monotonic() - child.started
            if lived < STEADY_SECONDS:
                raise ChildEnded(child.told_end())
            child.stop()  # what it left
            told.append(f"{child.told_end()}\n  it ran for {lived:.0f} s and is started again")
            child.start()
        return told


def stop(process: subprocess.Popen[bytes], patience: float = 20.0, *, group: bool = True) -> None:
    """Ask a process to end, insist after `patience` seconds, and sweep up what is left of its group."""
    for how, seconds in ((signal.SIGTERM, patience), (signal.SIGKILL, 5)):
        process.send_signal(how)
        try:
            process.wait(seconds)
            break
        except subprocess.TimeoutExpired:
            continue
    if group:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _descendants(pid: int) -> list[psutil.Process]:
    import psutil

    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).children(recursive=True)
    return []


def _end(processes: list[psutil.Process]) -> None:
    """What has a group of its own, like a run, does not end with the group that started it."""
    import psutil

    _, left = psutil.wait_procs(processes, timeout=1)
    for process in left:
        for each in [process, *_descendants(process.pid)]:  # it may have started more since
            with suppress(psutil.NoSuchProcess):
                each.kill()
