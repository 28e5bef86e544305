"""What all tests share: a clean environment, a platform on a temporary folder, one finished demo, a browser."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, settings
from leaving_out import LEFT_OUT, leave_out
from running_al import FinishedDemo, call_al, run_al

from al_resources.platform import Platform
from al_resources.settings import LabelingSettings, Settings
from emulators.node_packages import NotInstalled

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FILES_OF_THE_DEMO = {"tests/loop/test_demo.py", "tests/loop/test_ui.py"}
EMULATED = ("azure", "duckdb_kql")  # packages without which whole files and adapters are left out
RAM_DISK, ROOM = Path("/dev/shm"), 6 << 30  # bytes


# a busy machine is no fault of what is tested
settings.register_profile("shared-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared-machine")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[LEFT_OUT] = []
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as a shell has it for what it starts in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if RAM_DISK.is_dir() and os.access(RAM_DISK, os.W_OK) and shutil.disk_usage(RAM_DISK).free > ROOM:
        # everything that is published is synced to the disk: thousands of times, where nobody minds a power cut
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(RAM_DISK))
    for name in [name for name in os.environ if name.startswith("AL_")]:
        del os.environ[name]  # a developer's own settings must not decide a test
    os.environ.pop("DAGSTER_HOME", None)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # idle threads must not spin: tests share the cores
    if os.environ.get("REQUIRE_EMULATORS") and (missing := [name for name in EMULATED if find_spec(name) is None]):
        names = ", ".join(missing)
        raise pytest.UsageError(f"REQUIRE_EMULATORS is set without {names}: pip install '.[azure,emulators,dev]'")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    """A test whose emulator cannot be installed is left out, unless emulators are required."""
    if call.excinfo is None or os.environ.get("REQUIRE_EMULATORS"):
        return
    if isinstance(reason := call.excinfo.value, NotInstalled):
        hint = f"the tests on emulators; {reason}"
        item.config.stash[LEFT_OUT].append(hint)
        call.excinfo = pytest.CallInfo.from_call(lambda: pytest.skip(hint), call.when).excinfo


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Quick tests first: a mistake shows before the live instance is up. Several workers begin with the longest."""
    items.sort(key=lambda item: ("browser" in item.keywords, "live" in item.keywords))
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: "live" not in item.keywords)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Tests of one file share a worker, and so do the files that share the finished demo."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "finished demo" if file in FILES_OF_THE_DEMO else file

    return ByFile(config, log)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left out"] = session.config.stash[LEFT_OUT]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    node.config.stash[LEFT_OUT] += getattr(node, "workeroutput", {}).get("left out", [])


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    for line in dict.fromkeys(config.stash[LEFT_OUT]):
        terminalreporter.write_line(f"LEFT OUT: {line}", yellow=True)


@pytest.fixture(scope="session")
def chromium(request: pytest.FixtureRequest) -> str:
    """Path of a Chromium or Chrome; without one the browser tests are left out, unless they are required."""
    for name in BROWSERS:
        if found := shutil.which(name):
            return found
    return leave_out(
        request, "the UI tests in a browser; `apt-get install chromium` (Debian) brings one", "REQUIRE_BROWSER"
    )


@pytest.fixture
def platform(tmp_path: Path) -> Platform:
    """An empty platform of the local profile with default settings."""
    return Platform(Settings(home=tmp_path / "home"))


@pytest.fixture
def make_platform(tmp_path: Path) -> Callable[..., Platform]:
    """A platform whose people label on the page; arguments are the page's settings."""

    def make(classes: tuple[str, ...] = ("cat", "dog", "fox"), **page: Any) -> Platform:
        labeling = LabelingSettings(project="page", classes=classes)
        return Platform(Settings(home=tmp_path / "home", labeling=labeling, labeling_page=page))

    return make


@pytest.fixture
def png() -> bytes:
    """A small picture."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.effect_noise((16, 16), 60).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="session")
def al() -> Callable[..., subprocess.CompletedProcess[str]]:
    """`al("status", "--json", config=...)`."""
    return call_al


@pytest.fixture(scope="session")
def finished_demo(tmp_path_factory: pytest.TempPathFactory) -> FinishedDemo:
    """The demo with two rounds after the seed, once per test run: webserver, daemon, scoring service, all for real.

    Where several workers want it, the first one runs it and the others wait.
    """
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    home, printed = folder / "finished_demo" / "home", folder / "finished_demo.json"
    with FileLock(folder / "finished_demo.lock"):
        if not printed.is_file():
            done = run_al("demo", "--home", str(home), "--rounds", "2", "--traffic", "600", "--port", "0", "--json")
            log = home / "log" / "dagster.log"
            tail = log.read_text()[-3000:] if log.is_file() else ""
            assert done.returncode == 0, f"{done.stderr}\n{tail}"
            printed.write_text(done.stdout)
    return FinishedDemo(home, json.loads(printed.read_text()))
