"""`al launch`: have a Dagster that runs elsewhere look now, as its schedule and its sensor do, and wait for its runs.

For schedulers of other people, like GitHub's. Needs click and httpx only: `python -m al_cli.launch` runs in a
checkout where nothing else is installed.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import click
import httpx

from al_cli.dagster_api import DagsterApi, DagsterError, NotLetIn
from al_core.errors import ActiveLearningError

URL, TOKEN = "DAGSTER_URL", "DAGSTER_TOKEN"
POLL_SECONDS = 5.0
ENDED = ("SUCCESS", "FAILURE", "CANCELED")
SENSOR = "labeling_export"  # how the sensors that look for exports begin; a profile has one of them


@click.command()
@click.argument("what", type=click.Choice(["selection", "training"]))
@click.option("--url", envvar=URL, required=True, help=f"Of Dagster's web server.  [or ${URL}]")
@click.option("--minutes", type=click.FloatRange(0), help="Wait no longer; the runs go on.  [default: to their end]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text; progress goes to standard error.")
def launch(what: str, url: str, minutes: float | None, as_json: bool) -> None:
    """Have a Dagster that runs elsewhere look now, and wait for what it starts.

    selection: is a round due? training: are there exports to merge, train on and deploy? The schedule and the
    sensor of that instance answer, so a reason to wait, or nothing new, is said and is no failure. What lets you
    in, the token of `al ui`'s link or one of the login before the page, is read from $DAGSTER_TOKEN.
    """
    import os

    api = DagsterApi(url.rstrip("/"), os.environ.get(TOKEN, ""))
    with _told(url):
        runs, reason = _look(api, what)
        reason = "" if runs else reason or "nothing was requested"
        if reason and not as_json:
            click.echo(reason)
        for run in runs:
            click.echo(f"{api.url}/runs/{run}", err=as_json)
        failed, told = _wait(api, runs, None if minutes is None else time.monotonic() + 60 * minutes, as_json)
    if as_json:
        rows = [{"run": run, "url": f"{api.url}/runs/{run}", "status": status} for run, status in told.items()]
        click.echo(json.dumps({"runs": rows, "reason": reason, "failed": failed}, indent=2))
    if failed:
        raise DagsterError(f"{len(failed)} of {len(runs)} runs failed: {', '.join(failed)}")


def _look(api: DagsterApi, what: str) -> tuple[list[str], str]:
    if what == "selection":
        return api.tick_schedule("selection_schedule", "selection")
    sensors = [name for name in api.sensors() if name.startswith(SENSOR)]
    if len(sensors) != 1:
        raise DagsterError(f"{api.url} has {len(sensors)} sensors called {SENSOR}..., expected one")
    return api.tick_sensor(sensors[0], "training_deployment")


def _wait(
    api: DagsterApi, runs: list[str], deadline: float | None, to_stderr: bool
) -> tuple[list[str], dict[str, str]]:
    """Those that ended badly, and how each stands; a run that Dagster starts anew is followed."""
    failed, told = list[str](), dict[str, str]()
    waiting = list(runs)
    while waiting:
        for id_ in list(waiting):
            run = api.run(id_)
            if told.get(id_) != run["status"]:
                told[id_] = run["status"]
                click.echo(f"{run['jobName']} {id_[:8]}: {run['status'].lower().replace('_', ' ')}", err=to_stderr)
            if run["status"] not in ENDED:
                continue
            waiting.remove(id_)
            tags = {tag["key"]: tag["value"] for tag in run["tags"]}
            if again := tags.get("dagster/auto_retry_run_id"):
                waiting.append(again)
            elif run["status"] != "SUCCESS" and tags.get("dagster/will_retry") == "true":
                waiting.append(id_)  # its retry is not on record yet
            elif run["status"] != "SUCCESS":
                failed.append(f"{api.url}/runs/{id_}")
        if waiting and deadline is not None and time.monotonic() > deadline:
            click.echo(f"still at work: {', '.join(f'{api.url}/runs/{id_}' for id_ in waiting)}", err=to_stderr)
            break
        if waiting:
            time.sleep(POLL_SECONDS)
    return failed, told


@contextmanager
def _told(url: str) -> Iterator[None]:
    """What the way there answers, in words."""
    try:
        yield
    except NotLetIn as error:
        raise DagsterError(
            f"{error}; ${TOKEN} is to hold the token of its login, or of the link that `al ui` printed"
        ) from error
    except httpx.HTTPError as error:
        raise DagsterError(f"Dagster at {url} cannot be asked: {error}") from error
    except ValueError as error:
        raise DagsterError(f"{url} answers no GraphQL; ${URL} is to be the address of Dagster's web server") from error


def main() -> None:
    """Entry point where the rest of the platform is not installed."""
    try:
        launch()
    except ActiveLearningError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
