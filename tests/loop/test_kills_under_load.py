"""The daemon, the code server and run workers are killed while people deliver: what was delivered is there once."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from dagster_questions import active_runs
from digits_project import digits_toml, oracle
from running_dagster import kill_run_workers, running_dagster, wait_for

from al_cli.dagster_api import DagsterError
from al_cli.dagster_process import Dagster, free_port
from al_cli.digits import store_digits
from al_cli.oracle import answer_waiting
from al_cli.processes import ChildEnded
from al_loop.claims import check_claims
from al_resources.platform import Platform
from al_resources.settings import load_settings

pytestmark = [pytest.mark.slow, pytest.mark.live, pytest.mark.timeout(3600)]

KILLS = int(os.environ.get("KILLS", "20"))
SEED = int(os.environ.get("KILLS_SEED", "1"))
SENSORS = ("labeling_export_sensor", "next_round_sensor")


@dataclass
class People:
    """Label what is staged, and correct what was labeled; what the inbox took is acknowledged."""

    platform: Platform
    chance: random.Random
    answered: list[str] = field(default_factory=list)
    corrected: dict[str, tuple[str, str]] = field(default_factory=dict)  # by annotator: (image, label)

    def deliver(self) -> None:
        self.answered += answer_waiting(self.platform)
        labeled = self.platform.ledgers.read("labels")["image_id"]
        if labeled.is_empty() or self.platform.inbox.unmerged() or self.chance.random() < 0.6:
            return  # while it trains on corrections no round opens
        for _ in range(self.chance.randint(1, 3)):
            self.correct(self.chance.choice(labeled.to_list()))

    def correct(self, image: str) -> None:
        """One answer, in a file of its own."""
        annotator, label = f"corrector {len(self.corrected)}", str(self.chance.randrange(10))
        line = {"image_url": f"{image}.png", "label": label, "annotator": annotator}
        path = f"labeling/exports/correction-{len(self.corrected)}.jsonl"
        self.platform.blobs.write(path, json.dumps(line).encode() + b"\n")
        self.corrected[annotator] = (image, label)

    def answer_one_more(self) -> bool:
        new = answer_waiting(self.platform)
        self.answered += new
        return bool(new)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, al: Callable[..., Any]) -> Path:
    project = digits_toml(
        model={"name": "digits"},
        labeling=oracle(tmp_path),
        selection={"initial_budget": 60, "budget": 30},
        holdout={"reserve": 0.5},
        training={"epochs": 3},
        serving={"port": free_port(0)},
        deployment={"watch_seconds": 0.5},
        sensors={"export_interval_seconds": 1, "round_interval_seconds": 1},
    )
    (tmp_path / "al.toml").write_text(project)
    assert al("init", str(tmp_path)).returncode == 0
    monkeypatch.setenv("AL_CONFIG", str(tmp_path / "al.toml"))
    return tmp_path


def test_twenty_kills_under_load_lose_nothing_and_double_nothing(
    home: Path, record_property: Callable[[str, object], None]
) -> None:
    platform, chance = Platform(load_settings()), random.Random(SEED)
    store_digits(platform)
    people, killed = People(platform, chance), Counter[str]()
    while killed.total() < KILLS:
        with instance(home) as dagster:
            while killed.total() < KILLS and answers(dagster):
                people.deliver()
                time.sleep(chance.uniform(0, 5))
                kill_one(home, dagster, killed, chance)
    with instance(home) as dagster:
        wait_for("all that was delivered to be merged", lambda: not platform.inbox.unmerged(), timeout=600)
        wait_for("the last run to end", lambda: at_rest(dagster), timeout=600)
        wait_for("another round, as if nothing had been", people.answer_one_more, timeout=600)
        wait_for("its labels to be merged", lambda: not platform.inbox.unmerged(), timeout=600)
        wait_for("its run to end", lambda: at_rest(dagster), timeout=600)
    print(
        f"\nseed {SEED}: {dict(killed)}, {len(people.answered)} rounds, {len(people.corrected)} corrections delivered"
    )
    record_property("tries", killed.total())
    assert people.answered
    assert [claim for claim in check_claims(platform) if not claim.holds] == []
    assert_every_label_is_there_once(platform, people)
    assert_every_round_is_whole(platform)
    assert platform.endpoint.state().serving_version in platform.registry.versions()


def assert_every_label_is_there_once(platform: Platform, people: People) -> None:
    labels = platform.ledgers.read("labels")
    said = Counter(labels.select("image_id", "annotator", "label").rows())
    truth = json.loads(Path(platform.settings.labeling.oracle_labels).read_text())
    selected = list[str]()
    for path in people.answered:
        round_ = int(Path(path).name.partition("-")[0])
        selected += platform.ledgers.read("selections").filter(round=round_)["image_id"].to_list()
    expected = {(image, "oracle", truth[image]) for image in selected}
    expected |= {(image, annotator, label) for annotator, (image, label) in people.corrected.items()}
    assert said == Counter(expected)


def assert_every_round_is_whole(platform: Platform) -> None:
    selections = platform.ledgers.read("selections")
    assert selections["image_id"].is_unique().all()
    sizes = dict(selections.group_by("round").len().iter_rows())
    assert sorted(sizes) == list(range(len(sizes)))
    assert sizes == {round_: 60 if round_ == 0 else 30 for round_ in sizes}


# ---------------------------------------------------------------------- killing
def kill_one(home: Path, dagster: Dagster, killed: Counter[str], chance: random.Random) -> None:
    """Whoever was killed least; of run workers only one that is at work."""
    victims = {"run worker": kill_run_workers, "daemon": kill_daemon, "code server": kill_code_server}
    name = min(victims, key=lambda victim: killed[victim])
    if name == "run worker":
        with suppress(DagsterError, httpx.HTTPError, pytest.fail.Exception):
            wait_for("a run", lambda: ended(dagster) or active_runs(dagster), timeout=30)
            time.sleep(chance.uniform(0, 6))
    if victims[name](home):
        killed[name] += 1
        print(f"kill {killed.total()}: {name}", flush=True)


def kill_daemon(home: Path) -> list[int]:
    return kill_processes(home, b"dagster_daemon")


def kill_code_server(home: Path) -> list[int]:
    return kill_processes(home, b"grpc")


def kill_processes(home: Path, word: bytes) -> list[int]:
    """Of this instance, those with the word among their arguments."""
    killed = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            mine = f"DAGSTER_HOME={home}".encode() in (process / "environ").read_bytes().split(b"\0")
            if mine and word in (process / "cmdline").read_bytes():
                os.kill(int(process.name), signal.SIGKILL)
                killed.append(int(process.name))
    return killed


# ---------------------------------------------------------------------- the instance, as whoever supervises it sees it
@contextmanager
def instance(home: Path) -> Iterator[Dagster]:
    """Started, its sensors on. What dies young ends the whole, as `al ui` does; it is started again."""
    with suppress(ChildEnded), running_dagster(home, home / "al.toml") as dagster:
        for sensor in SENSORS:
            dagster.start_sensor(sensor)
        yield dagster


def answers(dagster: Dagster, patience: float = 30) -> bool:
    """Whether it is up, or is so again in a while."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline and not ended(dagster):
        with suppress(httpx.HTTPError, DagsterError, KeyError, TypeError, ValueError):
            if dagster._is_up():
                return True
        time.sleep(0.5)
    return False


def ended(dagster: Dagster) -> bool:
    """Whether what held its processes together is gone, or is a zombie that nobody has waited for yet."""
    try:
        state = Path(f"/proc/{dagster.process_group}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    return state == "Z"


def at_rest(dagster: Dagster) -> bool:
    with suppress(httpx.HTTPError, DagsterError):
        return not active_runs(dagster)
    return False
