"""A Dagster instance of one's own: its home and its processes."""

from __future__ import annotations

import socket
import time
from contextlib import suppress
from pathlib import Path

import httpx

from al_cli.dagster_api import LOCATION, DagsterApi, DagsterError
from al_cli.dagster_services import TOKEN_VARIABLE
from al_cli.processes import Child, Children
from al_resources.profiles import profile_of
from al_resources.settings import Settings
from al_serving.guard import link_with, new_token

HERE, UI_PORT = "127.0.0.1", 3000

DAGSTER_YAML = """\
# One machine: SQLite below this folder, runs queued by the daemon.
telemetry:
  enabled: false
nux:
  enabled: false
run_launcher:
  module: al_assets.run_launcher
  class: WatchfulRunLauncher
run_coordinator:
  module: dagster.core.run_coordinator
  class: QueuedRunCoordinator
  config:
    dequeue_interval_seconds: 1
concurrency:
  pools:
    granularity: run
    default_limit: 1          # one selection and one training at a time; pools are named on the assets
  runs:
    max_concurrent_runs: 4
run_monitoring:
  enabled: true               # a killed worker's run is noticed ...
  start_timeout_seconds: 180
  poll_interval_seconds: 10
  free_slots_after_run_end_seconds: 60  # slots of a pool that a cancelled run did not give back
retention:                    # of ticks; two sensors that look every few seconds would fill the disk
  schedule:
    purge_after_days: 90
  sensor:
    purge_after_days:
      skipped: 2
      success: 90
      failure: 90
run_retries:
  enabled: true               # ... and started again; a refused challenger is not
  max_retries: 2
  retry_on_asset_or_op_failure: false
"""

WORKSPACE_YAML = f"""\
load_from:
  - python_module:
      module_name: al_assets.definitions
      location_name: {LOCATION}
"""


def write_dagster_home(folder: Path, settings: Settings | None = None) -> None:
    """dagster.yaml and workspace.yaml in `folder`; files that are there already are left alone.

    The profile of the settings adds what it keeps elsewhere, like the logs of runs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    besides = profile_of(settings).dagster_yaml(settings) if settings else ""
    for name, text in (("dagster.yaml", DAGSTER_YAML + besides), ("workspace.yaml", WORKSPACE_YAML)):
        if not (folder / name).exists():
            (folder / name).write_text(text)


def export_sensor(settings: Settings) -> str:
    """The name of the sensor that sees exports: by events, where they announce themselves."""
    return "labeling_export_events_sensor" if profile_of(settings).hears_events else "labeling_export_sensor"


def free_port(preferred: int) -> int:
    """The preferred port on loopback, or another one where it is taken."""
    for port in (preferred, 0):
        with suppress(OSError), socket.create_server((HERE, port)) as probe:
            return int(probe.getsockname()[1])
    raise DagsterError(f"no free port on {HERE}")


def listener_of_ui(port: int | None) -> socket.socket:
    """A socket that listens for the UI's pages: on `port`, 0 any, or None the usual one if it is free.

    Raises:
        DagsterError: the port that was asked for is taken.
    """
    try:
        return socket.create_server((HERE, free_port(UI_PORT) if port is None else port))
    except OSError as error:
        raise DagsterError(
            f"port {port} on {HERE} cannot be had ({error.strerror}); name another with --port, 0 takes any"
        ) from error


def scoring_service(home: Path, config: Path) -> Child:
    """`al serve` on a home."""
    return Child(
        "the scoring service", ["al_cli.main", "serve"], home / "log" / "serve.log", {"AL_CONFIG": str(config)}
    )


def start_dagster(children: Children, home: Path, config: Path, listener: socket.socket) -> Dagster:
    """Start webserver, daemon and code location, and return when they answer.

    The pages are behind a guard: `Dagster.link` lets a person in.

    Raises:
        DagsterError: they do not come up.
        ChildEnded: one of the children ended meanwhile.
    """
    token = new_token()
    log = home / "log" / "dagster.log"
    services = [
        *("al_cli.dagster_services", "--workspace", str(home / "workspace.yaml")),
        *("--listener", str(listener.fileno()), "--log", str(log)),
    ]
    environment = {"DAGSTER_HOME": str(home), "AL_CONFIG": str(config), TOKEN_VARIABLE: token}
    child = children.start(Child("Dagster", services, log, environment, (listener.fileno(),)))
    dagster = Dagster(f"http://{HERE}:{listener.getsockname()[1]}", child.process.pid, token)
    dagster.wait_until_up(children, log)
    return dagster


class Dagster(DagsterApi):
    """An instance that was started here."""

    def __init__(self, url: str, process_group: int, token: str) -> None:
        super().__init__(url, token)
        self.link = link_with(url, token)  # for people: opens the pages
        self.process_group = process_group  # of webserver, daemon and code location; runs have their own

    def wait_until_up(self, children: Children, log: Path, timeout: float = 900) -> None:
        """Return when the code location is loaded and the daemons are healthy. Raises as `start_dagster` does."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            children.check()
            with suppress(httpx.HTTPError, KeyError, TypeError, ValueError):  # not there yet
                if self._is_up():
                    return
            time.sleep(0.3)
        raise DagsterError(f"Dagster did not come up within {timeout:.0f} s; see {log}")

    def _is_up(self) -> bool:
        answer = self._asked(
            10,
            "{ workspaceOrError { __typename ... on Workspace { locationEntries { locationOrLoadError "
            "{ __typename ... on PythonError { message } } } } } instance { daemonHealth { allDaemonStatuses "
            "{ daemonType required healthy } } } }",
        )
        entries = answer["workspaceOrError"]["locationEntries"]
        loaded = [entry["locationOrLoadError"] for entry in entries]
        for location in loaded:
            if location and location["__typename"] == "PythonError":
                raise DagsterError(f"the code location does not load: {location['message']}")
        daemons = answer["instance"]["daemonHealth"]["allDaemonStatuses"]
        healthy = all(daemon["healthy"] for daemon in daemons if daemon["required"])
        return bool(loaded) and all(loaded) and healthy
