"""The whole loop end to end: a live instance, its daemon, schedule tick, sensor, run workers, HTTP scoring."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import told_commands
from dagster_questions import active_runs, sensor_ticks
from running_al import FinishedDemo
from running_dagster import kill_run_workers, running_dagster, wait_for

from al_cli.dagster_process import Dagster
from al_resources.platform import Platform
from al_resources.settings import load_settings

pytestmark = [pytest.mark.live, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.fixture
def platform(finished_demo: FinishedDemo, monkeypatch: pytest.MonkeyPatch) -> Platform:
    """The demo's platform, as another process sees it."""
    monkeypatch.setenv("AL_CONFIG", str(finished_demo.config))
    return Platform(load_settings())


def test_every_round_was_selected_labeled_trained_and_judged(finished_demo: FinishedDemo) -> None:
    rounds = finished_demo.result["rounds"]
    assert [row["round"] for row in rounds] == [0, 1, 2]
    for row in rounds:
        assert row["labeled"] == row["selected"] > 0
        assert row["outcome"] in {"promoted", "passed", "open", "worse"}


def test_the_last_champion_is_good_and_no_worse_than_the_seed_model(finished_demo: FinishedDemo) -> None:
    promoted = [row for row in finished_demo.result["rounds"] if row["outcome"] == "promoted"]
    seed, champion = promoted[0]["accuracy"]["value"], promoted[-1]["accuracy"]["value"]
    assert champion >= 0.93
    assert champion >= seed, "all labels of the seed round but those that judge teach: it is good already"


def test_the_demo_tells_what_its_labels_bought_and_who_serves_is_hardly_behind_the_best(
    finished_demo: FinishedDemo,
) -> None:
    bought = finished_demo.result["what_labels_bought"]
    assert [row["paid"] for row in bought] == [120, 160, 200]
    last = bought[-1]
    best = max(bought, key=lambda row: row["model_accuracy"]["value"])
    assert last["deployed_accuracy"]["value"] >= 0.92, "two rounds may leave the seed's model serving"
    assert best["model_accuracy"]["value"] - last["deployed_accuracy"]["value"] <= 0.05


def test_status_agrees_with_the_demo(finished_demo: FinishedDemo, al: Callable[..., Any]) -> None:
    status = json.loads(al("status", "--json", config=finished_demo.config).stdout)
    assert status["rounds"] == finished_demo.result["rounds"]
    assert status["champion"] == finished_demo.result["champion"]
    assert status["waiting_for_labels"] == 0


def test_the_trace_of_the_last_deployment_names_everything_behind_it(
    finished_demo: FinishedDemo, al: Callable[..., Any]
) -> None:
    found = json.loads(al("trace", "latest", "--json", config=finished_demo.config).stdout)
    champion = finished_demo.result["champion"]
    assert found["deployment"]["model_version"] == champion == found["model"]["version"]
    assert found["dataset"]["version"] == found["model"]["dataset_version"]
    rounds_with_labels = [
        row["round"] for row in finished_demo.result["rounds"] if row["round"] <= found["model"]["round"]
    ]
    assert found["rounds"] == rounds_with_labels
    image = found["example"]
    (selection,) = image["selections"]
    assert {"strategy", "score", "rank", "reason"} <= selection.keys()
    looked_at = [selection["prediction_id"]] if selection["prediction_id"] else []  # the seed round looks at none
    assert [row["prediction_id"] for row in image["predictions"] if row["chosen_on"]] == looked_at
    (label,) = image["labels"]
    assert label["export_id"] in {export["export_id"] for export in image["exports"]}


LOOKS = re.compile(r"al (classes|doctor|export|query \w+|select --dry-run|status|strategies|trace)\b")
FILLED_IN = re.compile(r"\b[A-Z]{2,}\b|[|>]|\.\.\.")  # by a person, or by a shell
ELSEWHERE = re.compile(r"al classes \w+|--send-again|--show-kql")  # changes something, or asks Azure


def test_what_the_pages_tell_people_to_type_for_a_look_answers_on_the_demos_home(
    finished_demo: FinishedDemo, al: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    told = {line for page in PAGES for line in told_commands.of_al(page.read_text())}
    looks = {line for line in told if LOOKS.match(line) and not FILLED_IN.search(line) and not ELSEWHERE.search(line)}
    assert len(looks) > 8
    for line in sorted(looks):
        done = al(*shlex.split(line)[1:], config=finished_demo.config)
        assert done.returncode == 0, (line, done.stdout, done.stderr)
        assert done.stdout.strip(), line


def test_a_model_and_an_image_can_be_traced_back(finished_demo: FinishedDemo, al: Callable[..., Any]) -> None:
    latest = json.loads(al("trace", "--json", config=finished_demo.config).stdout)
    image_id = latest["example"]["image"]
    by_image = json.loads(al("trace", image_id, "--json", config=finished_demo.config).stdout)
    models = {model for dataset in by_image["datasets"] for model in dataset["models"]}
    assert f"v{latest['model']['version']}" in models
    by_id = json.loads(al("trace", latest["deployment"]["deployment_id"], "--json", config=finished_demo.config).stdout)
    assert by_id == latest
    unknown = al("trace", "ffff", config=finished_demo.config)
    assert unknown.returncode == 1
    assert "image 'ffff' is unknown here" in unknown.stderr


def test_the_overhead_of_a_round_is_told_with_its_parts(finished_demo: FinishedDemo) -> None:
    for timing in finished_demo.result["timings"]:
        assert {
            "schedule tick",
            "sensor tick",
            "queue and start",
            "steps",
            "training",
            "overhead",
        } <= timing.keys()


def test_the_holdout_never_met_the_training_data(platform: Platform) -> None:
    ever_held_out: set[str] = set()
    ever_trained: set[str] = set()
    for manifest in platform.datasets.manifests():
        rows = platform.datasets.of_version(manifest.version).rows
        ever_held_out |= set(rows.filter(split="holdout")["image_id"])
        ever_trained |= set(rows.filter(split="train")["image_id"]) | set(rows.filter(split="validation")["image_id"])
    assert ever_held_out
    assert not ever_held_out & ever_trained


def test_delivering_exports_again_under_any_name_or_deleting_them_changes_nothing(
    finished_demo: FinishedDemo, platform: Platform
) -> None:
    before = _state(platform)
    exports = sorted((platform.settings.home / "blobs" / "labeling" / "exports").glob("*.json"))
    first, second = exports[1], exports[2]
    content = second.read_bytes()
    first.unlink()
    with running_dagster(finished_demo.home, finished_demo.config) as dagster:
        dagster.start_sensor("labeling_export_sensor")
        second.write_bytes(content)  # the same name again, another etag
        (second.parent / "renamed.json").write_bytes(content)
        _wait_for_ticks(dagster, 3)
    assert _state(platform) == before


def test_a_kill_in_the_middle_of_a_run_loses_nothing_and_repeats_nothing(
    finished_demo: FinishedDemo, platform: Platform
) -> None:
    """A correction arrives; everything is killed with -9 while the run trains; another instance finishes it."""
    before = _state(platform)
    export = _correction(platform)
    with running_dagster(finished_demo.home, finished_demo.config) as dagster:
        dagster.start_sensor("labeling_export_sensor")
        wait_for("the training step", lambda: _training_started(dagster, export))
        os.killpg(dagster.process_group, signal.SIGKILL)
    kill_run_workers(finished_demo.home)
    with running_dagster(finished_demo.home, finished_demo.config) as dagster:
        wait_for("a finished run", lambda: _finished_after_all(dagster, export), timeout=240)
        _wait_for_ticks(dagster, 2)
    after = _state(platform)
    new_labels = len(after["labels"]) - len(before["labels"])
    assert new_labels == 1
    assert len(after["datasets"]) == len(before["datasets"]) + 1
    assert len(after["models"]) == len(before["models"]) + 1
    assert len(after["deployments"]) - len(before["deployments"]) in (0, 1), "refused, or deployed once"


def _state(platform: Platform) -> dict[str, Any]:
    """Everything that must not change."""
    return {
        "labels": platform.ledgers.read("labels").sort("image_id", "labeled_at").to_dicts(),
        "datasets": [manifest.version for manifest in platform.datasets.manifests()],
        "models": platform.registry.versions(),
        "deployments": platform.ledgers.read("deployments").to_dicts(),
        "endpoint": platform.endpoint.state(),
    }


def _wait_for_ticks(dagster: Dagster, count: int, timeout: float = 60) -> None:
    """Until the export sensor has ticked so many times and no run is left."""
    begun = time.time()
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        ticks = sensor_ticks(dagster, "labeling_export_sensor")
        finished = [tick for tick in ticks if tick["timestamp"] > begun and tick["status"] in ("SKIPPED", "SUCCESS")]
        if len(finished) >= count and not active_runs(dagster):
            return
        time.sleep(0.5)
    pytest.fail(f"the sensor did not tick {count} times within {timeout} s")


def _correction(platform: Platform) -> str:
    """An export in which somebody takes one answer back."""
    row = platform.ledgers.read("labels").filter(annotator="oracle").row(-1, named=True)
    other = str((int(row["label"]) + 1) % 10)
    line = {"image_url": f"{row['image_id']}.png", "label": other, "annotator": "oracle"}
    path = "labeling/exports/correction.jsonl"
    platform.blobs.write(path, json.dumps(line).encode() + b"\n")
    return path


def _training_started(dagster: Dagster, export: str) -> bool:
    return any(
        step["stepKey"] == "model_checkpoint" for run in dagster.runs(al__export=export) for step in run["stepStats"]
    )


def _finished_after_all(dagster: Dagster, export: str) -> bool:
    """The retry of the killed run came to its end; a refusal by the gate is one."""
    runs = dagster.runs(al__export=export)
    return (
        len(runs) > 1
        and all(run["status"] in ("SUCCESS", "FAILURE") for run in runs)
        and any(step["stepKey"] == "model_checkpoint" and step["status"] == "SUCCESS" for step in runs[0]["stepStats"])
    )
