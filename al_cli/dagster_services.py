"""Dagster on one machine: code servers, the daemon, and the web server behind a guard.

What `dagster dev` starts, except that nothing listens to whoever asks: Dagster's web server looks neither at Host
nor at Origin, so any page in another tab could start runs and read logs. The guard stands in the same process;
there is no second port behind it.
"""

from __future__ import annotations

import ctypes
import os
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from al_cli.processes import Child, ChildEnded, Children, signals_end_it

if TYPE_CHECKING:
    import uvicorn
    from dagster import DagsterInstance

FILES = "/loop/files"
TOKEN_VARIABLE = "DAGSTER_GUARD_TOKEN"
WATCH_SECONDS = 1.0
ADOPT = 36  # PR_SET_CHILD_SUBREAPER of <linux/prctl.h>
GRACE_SECONDS = 3  # open WebSockets do not end by themselves


@click.command()
@click.option("--workspace", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=True)
@click.option("--listener", type=int, required=True, help="File descriptor of the socket that listens.")
@click.option("--log", type=click.Path(dir_okay=False, path_type=Path), required=True, help="Of the daemon.")
def main(workspace: Path, listener: int, log: Path) -> None:
    """Serve until a signal, or until the daemon cannot be kept alive."""
    token = os.environ.pop(TOKEN_VARIABLE)  # what is started from here has no use for it
    _adopt_orphans()
    from dagster import DagsterInstance

    from al_assets.views import PAGES_VARIABLE
    from al_resources.settings import CONFIG_VARIABLE

    if CONFIG_VARIABLE in os.environ:  # one loop: of several, the pages know no store to look into
        os.environ[PAGES_VARIABLE] = FILES  # code servers and runs learn that their pictures can be linked to
    with (
        signals_end_it(),
        DagsterInstance.get() as instance,
        _code_servers(instance, workspace) as servers,
        Children() as children,
    ):
        children.start(
            Child("the Dagster daemon", ["al_cli.dagster_daemon", "run", "-w", str(servers)], log, own_group=False)
        )
        _serve(instance, servers, socket.socket(fileno=listener), token, children)


def _adopt_orphans() -> None:
    """Runs that outlive the daemon which forked them stay below this process, and end with it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(ADOPT, 1, 0, 0, 0)


@contextmanager
def _code_servers(instance: DagsterInstance, workspace: Path) -> Iterator[Path]:
    """The code locations of a workspace, each loaded once; gives a workspace that leads to them."""
    import yaml
    from dagster._cli.proxy_server_manager import ProxyServerManager
    from dagster._core.workspace.load_target import WorkspaceFileTarget

    with (
        ProxyServerManager(instance, WorkspaceFileTarget([str(workspace)]), "WARNING") as servers,
        tempfile.TemporaryDirectory() as folder,
    ):
        leading = Path(folder) / "workspace.yaml"
        leading.write_text(yaml.safe_dump({"load_from": [dict(spec) for spec in servers.get_code_server_specs()]}))
        yield leading


def _serve(
    instance: DagsterInstance, workspace: Path, listening: socket.socket, token: str, children: Children
) -> None:
    """The web server, until it is told to end. Exits with 1 where the daemon cannot be kept alive."""
    import uvicorn
    from dagster import __version__
    from dagster._core.workspace.context import WorkspaceProcessContext
    from dagster._core.workspace.load_target import WorkspaceFileTarget
    from dagster_webserver.app import create_app_from_workspace_process_context

    from al_assets.resources import this_process_platform
    from al_assets.rounds import checking_rounds
    from al_cli.loop_files import files_route
    from al_serving.guard import PageGuard

    with WorkspaceProcessContext(
        checking_rounds(instance), WorkspaceFileTarget([str(workspace)]), version=__version__
    ) as context:
        pages = create_app_from_workspace_process_context(context)
        pages.router.routes.insert(0, files_route(FILES, lambda: this_process_platform().blobs))
        guarded = PageGuard(pages, token, way_in="open the link that `al ui` or `al demo` printed")
        server = uvicorn.Server(
            uvicorn.Config(guarded, log_level="warning", access_log=False, timeout_graceful_shutdown=GRACE_SECONDS)
        )
        problems: list[str] = []
        threading.Thread(target=_watch, args=(children, server, problems), daemon=True).start()
        server.run(sockets=[listening])
    if problems:
        raise SystemExit(1)


def _watch(children: Children, server: uvicorn.Server, problems: list[str]) -> None:
    """Keep the daemon alive; where it cannot be, the pages end, too, rather than show a loop that stands still."""
    while not server.should_exit:
        time.sleep(WATCH_SECONDS)
        try:
            for line in [] if server.should_exit else children.check():
                print(line, file=sys.stderr, flush=True)
        except ChildEnded as error:
            print(str(error).splitlines()[0], file=sys.stderr, flush=True)  # its last lines stand above: it is one log
            problems.append(str(error))
            server.should_exit = True


if __name__ == "__main__":
    main()
