"""`al demo`: the whole loop on handwritten digits, on a live Dagster instance.

The demo does what the outside world does - it sends traffic and answers as the people who label - and watches.
Selection, training, the gate and deployment are requested by the real schedule and the real sensor and run by
the instance's daemon. Cron has a resolution of a minute, so the demo asks for the schedule's tick by itself.

On emulators of Azure the traffic goes to the workspace's endpoint, somebody labels at the labeling page instead of an
oracle's export, and in the end a folder is scored by the batch endpoint.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import httpx
import numpy as np
from rich.box import SIMPLE
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from al_cli.console import console, print_json
from al_cli.dagster_api import DagsterError
from al_cli.dagster_process import (
    Dagster,
    export_sensor,
    free_port,
    listener_of_ui,
    scoring_service,
    start_dagster,
    write_dagster_home,
)
from al_cli.digits import WRITERS, store_digits
from al_cli.emulators import ENVIRONMENT, EmulatedAzure, emulated_azure
from al_cli.oracle import answer_waiting
from al_cli.people import PageRefused, PersonAtThePage
from al_cli.processes import EMULATED, LOCK, MARKER, OWNER, Children, signals_end_it, sole_use
from al_cli.running_loop import labeling_page
from al_cli.status import rounds_table
from al_cli.traffic import scoring_address
from al_resources.platform import Platform
from al_resources.settings import CONFIG_VARIABLE, load_settings

PATIENCE_SECONDS = 300.0  # without any sign of work
EMULATED_PATIENCE_SECONDS = 1800.0  # every job and deployment is a process of its own: minutes on a busy machine
TELL_SECONDS = 60.0
MODEL = "digits"
BATCH_IMAGES, BATCH_PREFIX = 200, "incoming"
PAGE_TOML = """
[labeling_page]
port = {port}
auto_release = true         # when every picture of a round is answered
"""
DEMO_TOML = """\
# Written by `al demo`.
home = "data"
profile = "{profile}"

[model]
name = "{model}"

[labeling]
project = "{project}"
oracle_labels = "{home}/data/oracle/labels.json"
classes = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]

[selection]
strategy = "{strategy}"
budget = {budget}
initial_budget = 120
control_share = 0.1
cron = "* * * * *"
min_new_predictions = 50
pool_scoring_limit = 0      # the traffic is the pool

[holdout]
reserve = 0.5               # of all images may judge: there are 1 797 in all
share = 0.3                 # of the seed round measures
validation_share = 0.1

[training]
architecture = "small_cnn"
image_size = 16
channels = 1

[deployment]
endpoint = "digits"
watch_seconds = 0.5

[serving]
port = {serving_port}
flush_seconds = 0.5
log_embeddings = true       # what strategies of diversity choose by

[monitoring]
reference_days = 0          # a version answers for minutes here

[sensors]
export_interval_seconds = 1

{azure}"""


@click.command()
@click.option("--home", type=click.Path(file_okay=False, path_type=Path), default="demo", show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=7, show_default=True, help="Rounds after the seed round.")
@click.option("--budget", type=click.IntRange(4), default=40, show_default=True, help="Labels per round.")
@click.option("--traffic", type=click.IntRange(50), default=900, show_default=True, help="Images scored per round.")
@click.option("--strategy", default="margin", show_default=True, help="Query strategy.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help="Of the Dagster UI; 0: any, for scoring, too.  [default: 3000, or another where that is taken]",
)
@click.option(
    "--profile",
    type=click.Choice(["local", EMULATED]),
    default="local",
    show_default=True,
    help="azure-emulated: storage, events, Data Explorer and a workspace, as the emulators of the tests have them.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def demo(
    home: Path, rounds: int, budget: int, traffic: int, strategy: str, port: int | None, profile: str, as_json: bool
) -> None:
    """Watch a model learn from the right labels: the whole loop on handwritten digits.

    Traffic goes through the HTTP scoring service, predictions are logged, the schedule selects, an oracle
    labels, the sensor sees the export, the dataset grows, the challenger is trained, gated and deployed.
    Everything stays in HOME; open it afterwards with `al ui`.
    """
    from al_core.strategies.registry import get_strategy

    try:
        get_strategy(strategy)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--strategy") from error
    home = home.resolve()
    console.quiet = as_json
    _refuse_another_folder(home)
    config = home / "al.toml"
    with ExitStack() as stack:
        stack.enter_context(signals_end_it())
        stack.enter_context(sole_use(home, "al demo"))
        (home / MARKER).write_text(profile)
        _empty(home)
        write_dagster_home(home)
        listener = stack.enter_context(listener_of_ui(port))
        azure = None
        if profile == EMULATED:
            console.print(
                "Every job and every deployment is a process of its own here: minutes a round, and the first time the "
                "emulators are installed. 963 s in all were seen on a busy machine with two cores."
            )
            with console.status("starting the emulators: storage, Data Explorer, a workspace"):
                azure = stack.enter_context(emulated_azure(home, MODEL))
        config.write_text(
            DEMO_TOML.format(
                home=home.as_posix(),
                model=MODEL,
                profile="azure" if azure else "local",
                project="page" if azure else "oracle",
                strategy=strategy,
                budget=budget,
                serving_port=free_port(0 if port == 0 else 8808),
                azure=azure.toml + PAGE_TOML.format(port=free_port(0 if port == 0 else 8809)) if azure else "",
            )
        )
        os.environ[CONFIG_VARIABLE] = str(config)
        platform = Platform(load_settings())
        started = time.monotonic()
        running = Demo(home, platform, rounds, traffic, listener, azure)
        timings = running.run()
        _report(running, timings, time.monotonic() - started, as_json=as_json)


def _refuse_another_folder(home: Path) -> None:
    if home.exists() and any(home.iterdir()) and not (home / MARKER).exists():
        raise click.ClickException(f"{home} holds something else than a demo; name another folder with --home")


def _empty(home: Path) -> None:
    """Remove the demo before; what says that this one runs stays."""
    for path in home.iterdir():
        if path.name in (LOCK, OWNER, MARKER):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


@dataclass
class Timing:
    """Seconds of one round by part."""

    round: int
    parts: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add the time of the block to a part."""
        begun = time.monotonic()
        try:
            yield
        finally:
            self.parts[name] = self.parts.get(name, 0.0) + time.monotonic() - begun

    @property
    def overhead(self) -> float:
        """What is neither scoring nor training."""
        return sum(seconds for name, seconds in self.parts.items() if name not in ("scoring", "training"))


@dataclass
class Demo:
    """One demo on one instance."""

    home: Path
    platform: Platform
    rounds: int
    traffic: int
    listener: socket.socket  # of the UI
    azure: EmulatedAzure | None = None
    batch: dict[str, Any] | None = None  # what the batch endpoint did

    def run(self) -> list[Timing]:
        """All rounds; returns where the time of each went.

        Raises:
            DagsterError: it came to nothing; names what is left to read.
        """
        try:
            return self._run()
        except (httpx.HTTPError, PageRefused) as error:
            raise DagsterError(f"{error}; what everything printed is in {self.home / 'log'}") from error

    def _run(self) -> list[Timing]:
        with console.status("writing 1 797 digits into the image store"):
            self.digits = store_digits(self.platform)
        config = self.home / "al.toml"
        timings = []
        with Children() as self.children:
            if self.azure is None:
                self.children.start(scoring_service(self.home, config))
            else:  # the endpoint's deployments answer
                page, link = labeling_page(self.home, config)
                self.children.start(page)
                console.print(f"labeling page while the demo runs: [link]{link}[/]", soft_wrap=True)
                truth = json.loads(Path(self.platform.settings.labeling.oracle_labels).read_text())
                self.person = PersonAtThePage(link, truth)
            with console.status("starting Dagster: webserver, daemon, code location"):
                dagster = start_dagster(self.children, self.home, config, self.listener)
            dagster.start_sensor(export_sensor(self.platform.settings))
            console.print(f"Dagster UI while the demo runs: [link]{dagster.link}[/]", soft_wrap=True)
            with _progress() as progress:
                for round_ in range(self.rounds + 1):
                    timings.append(self._round(dagster, progress, round_))
                if self.azure is not None:
                    self.person.close()
                    self.batch = self._score_batch(dagster, progress)
        return timings

    def _round(self, dagster: Dagster, progress: Progress, round_: int) -> Timing:
        timing = Timing(round_)
        bar = progress.add_task(f"round {round_}", total=5, step="")

        def step(text: str) -> None:
            progress.update(bar, advance=1 if text != "traffic" else 0, step=text)
            _line(f"round {round_}: {text}")

        if round_ > 0:
            step("traffic")
            with timing.part("scoring"):
                self._send_traffic(round_)
        step("selection")
        self._select(dagster, timing)
        step("labeling")
        with timing.part("labeling"):
            self._label(round_)
        step("training, gate, deployment")
        self._train_and_deploy(dagster, timing, round_)
        step("done")
        outcome = self._outcome()
        progress.update(bar, advance=1, step=outcome)
        _line(f"round {round_}: {outcome}")
        return timing

    def _label(self, round_: int) -> None:
        """The oracle exports, or on Azure somebody answers picture after picture at the page, which releases them."""
        if self.azure is None:
            answer_waiting(self.platform)
            return
        self._wait("the labeling page", self.person.is_let_in)
        self._wait(f"round {round_} on the labeling page", lambda: self.person.is_asked(round_))
        self.person.label(round_)

    def _score_batch(self, dagster: Dagster, progress: Progress) -> dict[str, Any]:
        """A folder of the container, by a job of the batch endpoint; returns what became of it."""
        bar = progress.add_task("batch", total=3, step=f"{BATCH_IMAGES} pictures into {BATCH_PREFIX}/")
        _line(f"batch: {BATCH_IMAGES} pictures below {BATCH_PREFIX}/, by a job of the batch endpoint")
        begun = time.monotonic()
        with ThreadPoolExecutor(WRITERS) as pool:
            write = self.platform.blobs.write
            list(pool.map(lambda one: write(f"{BATCH_PREFIX}/{one[0]}.png", one[1]), self.digits[:BATCH_IMAGES]))
        progress.update(bar, advance=1, step="a job of the batch endpoint")
        run_id = dagster.materialize("prediction_log", {"prefix": BATCH_PREFIX})
        run = self._wait("the batch", lambda: _finished(dagster.run(run_id)), sign=time.monotonic)
        if run["status"] != "SUCCESS":
            raise DagsterError(f"the batch failed: {dagster.url}/runs/{run_id}; see {self.home}/log")
        progress.update(bar, advance=1, step="its answers in the log")
        self._wait("the batch in the log", lambda: self._batch_rows() >= BATCH_IMAGES, sign=self._batch_rows)
        progress.update(bar, advance=1, step=f"{self._batch_rows()} answers are in the log")
        job = json.loads(self.platform.blobs.read(f"batch/{run_id}/job.json"))["name"]
        seconds = round(time.monotonic() - begun, 1)
        return {"job": job, "images": BATCH_IMAGES, "rows_in_log": self._batch_rows(), "seconds": seconds}

    def _batch_rows(self) -> int:
        return sum(part["source"].to_pylist().count("batch") for part in self.platform.predictions.scan(["source"]))

    def _send_traffic(self, round_: int) -> None:
        """Score the next images over HTTP and wait until the log has them; after the last comes the first again."""
        stream = np.random.default_rng(0).permutation(len(self.digits))
        sample = np.take(stream, range((round_ - 1) * self.traffic, round_ * self.traffic), mode="wrap")
        before = self.platform.predictions.watermark().rows
        url, caller = scoring_address(self.platform)
        with httpx.Client(timeout=PATIENCE_SECONDS, **caller) as client:
            for index in sample:
                client.post(url, content=self.digits[index][1]).raise_for_status()
        rows = before

        def all_logged() -> bool:
            nonlocal rows
            rows = self.platform.predictions.watermark().rows
            return rows >= before + len(sample)

        self._wait("the prediction log", all_logged, sign=lambda: rows)

    def _select(self, dagster: Dagster, timing: Timing) -> dict[str, Any]:
        with timing.part("schedule tick"):
            runs, reason = dagster.tick_schedule("selection_schedule", "selection")
        if not runs:
            raise DagsterError(f"the schedule did not open a round: {reason}")
        run = self._wait("the selection run", lambda: _finished(dagster.run(runs[0])), sign=time.monotonic)
        _add_run_times(timing, run, training_step=None)
        if run["status"] != "SUCCESS":
            raise DagsterError(f"selection failed: {dagster.url}/runs/{run['runId']}; see {self.home}/log")
        return run

    def _train_and_deploy(self, dagster: Dagster, timing: Timing, round_: int) -> dict[str, Any]:
        """The sensor sees the export by itself; wait for the run that it requests."""
        sensor = export_sensor(self.platform.settings)
        tags = {"dagster__sensor_name": sensor, "dagster__partition": f"{round_:04d}"}
        with timing.part("sensor tick"):
            self._wait("the sensor", lambda: dagster.runs(**tags))
        # A run that is not finished is at work: Dagster watches its process, and ends one that was killed.
        run = self._wait("the training run", lambda: _finished(dagster.runs(**tags)[0]), sign=time.monotonic)
        _add_run_times(timing, run, training_step="model_checkpoint")
        if run["status"] != "SUCCESS":
            raise DagsterError(f"round {round_} failed: {dagster.url}/runs/{run['runId']}; see {self.home}/log")
        return run

    def _wait(self, what: str, ready: Callable[[], Any], sign: Callable[[], object] = lambda: None) -> Any:
        """What `ready` returns as soon as it is true, while everything beside the demo lives.

        However long it takes: it gives up where `sign`, which changes while work goes on, has stood still for long.
        """
        patience = PATIENCE_SECONDS if self.azure is None else EMULATED_PATIENCE_SECONDS
        begun = moved = told = time.monotonic()
        seen = sign()
        while not (answer := ready()):
            for line in self.children.check():
                console.print(line, style="yellow", markup=False)
            if self.azure is not None:
                self.azure.emulators.check()
            now = time.monotonic()
            if (last := sign()) != seen:
                seen, moved = last, now
            if now - moved > patience:
                raise DagsterError(
                    f"{what} took {now - begun:.0f} s, the last {patience:.0f} s without any sign of work; "
                    f"what everything printed is in {self.home / 'log'}"
                )
            if now - told > TELL_SECONDS:
                told = now
                console.print(
                    f"{what}: {now - begun:.0f} s so far; what goes on is in {self.home / 'log'}", markup=False
                )
            time.sleep(0.2)
        return answer

    def _outcome(self) -> str:
        """What became of the newest version, and how good it is."""
        version = self.platform.registry.versions()[-1]
        serving = self.platform.endpoint.state().serving_version
        outcome = "deployed" if version == serving else f"[yellow]v{serving} stays[/]"
        return f"{outcome}  v{version}: accuracy {self.platform.registry.manifest(version).metrics['accuracy']}"


def _line(text: str) -> None:
    """What the bars say, for a file or a pipe, in which nothing moves."""
    if not console.is_terminal:
        console.print(f"{time.strftime('%H:%M:%S')} {text}")


def _progress() -> Progress:
    return Progress(
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=24), TimeElapsedColumn(),
        TextColumn("{task.fields[step]}"), console=console,
    )  # fmt: skip


def _finished(run: dict[str, Any]) -> dict[str, Any] | None:
    return run if run["status"] in ("SUCCESS", "FAILURE", "CANCELED") else None


def _add_run_times(timing: Timing, run: dict[str, Any], training_step: str | None) -> None:
    """A run's time by part: waiting in the queue, starting a process, steps, training."""
    steps = {step["stepKey"]: (step["endTime"] or 0) - (step["startTime"] or 0) for step in run["stepStats"]}
    first = min((step["startTime"] for step in run["stepStats"] if step["startTime"]), default=run["endTime"])
    parts = {
        "queue and start": first - run["creationTime"],
        "training": steps.get(training_step, 0.0) if training_step else 0.0,
        "steps": sum(seconds for key, seconds in steps.items() if key != training_step),
        "run end": run["endTime"] - first - sum(steps.values()),
    }
    for name, seconds in parts.items():
        timing.parts[name] = timing.parts.get(name, 0.0) + max(seconds, 0.0)


def _report(done: Demo, timings: list[Timing], seconds: float, *, as_json: bool) -> None:
    from al_assets.views import learning_curve_png
    from al_cli.known_truth import bought_table, true_accuracies, what_labels_bought
    from al_loop.status import progress

    home, platform = done.home, done.platform
    facts = progress(platform)
    bought = what_labels_bought(facts["rounds"], true_accuracies(platform))
    curve = home / "learning_curve.png"
    curve.write_bytes(learning_curve_png(platform))
    if as_json:
        parts = [{"round": t.round, "overhead": round(t.overhead, 2), **_rounded(t.parts)} for t in timings]
        more = {"seconds": round(seconds, 1), "timings": parts, "learning_curve": str(curve)}
        print_json(facts | {"what_labels_bought": bought} | more | ({"batch": done.batch} if done.batch else {}))
        return
    console.print(rounds_table(facts["rounds"]))
    console.print(bought_table(bought))
    console.print(_timing_table(timings))
    where = os.path.relpath(home)
    console.print(f"{seconds:.0f} s in all. The learning curve: {os.path.relpath(curve)}")
    if done.batch:
        console.print(
            "Batch: {images} pictures scored by {job}, {rows_in_log} answers in the log, {seconds:.0f} s. "
            "docs/azure.md: the same in a subscription".format(**done.batch),
            soft_wrap=True,
        )
        console.print(
            f"\nWhat to type next:\n"
            f"  al ui --home {where}                            the emulators again on what they kept, and the loop\n"
            f"  . {where}/{ENVIRONMENT} && al --config {where}/al.toml status   beside it, how it stands"
        )
        return
    console.print(
        f"\nWhat to type next:\n"
        f"  al ui --home {where}                            the same instance in the Dagster UI, the loop goes on\n"
        f"  al --config {where}/al.toml status              how it stands\n"
        f"  al --config {where}/al.toml trace latest        what the last deployment is made of"
    )


def _rounded(parts: dict[str, float]) -> dict[str, float]:
    return {name: round(seconds, 2) for name, seconds in parts.items()}


def _timing_table(timings: list[Timing]) -> Table:
    names = list(dict.fromkeys(name for timing in timings for name in timing.parts))
    table = Table(
        caption="seconds per round; overhead: neither scoring nor training",
        box=SIMPLE,
        padding=(0, 1),
        pad_edge=False,
        header_style="bold",
    )
    table.add_column("")
    for timing in timings:
        table.add_column(str(timing.round), justify="right")
    for name in names:
        table.add_row(name, *(f"{timing.parts.get(name, 0):.1f}" for timing in timings))
    table.add_section()
    table.add_row("overhead", *(f"[bold]{timing.overhead:.1f}[/]" for timing in timings))
    return table
