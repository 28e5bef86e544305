"""Refusal, duel, hold, promotion, rollback and drift on a live instance, as a person sees and does them in Chromium."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageOps
from playwright.sync_api import Page, TimeoutError, expect, sync_playwright
from running_dagster import running_dagster
from tenacity import retry, retry_if_exception_type, stop_after_attempt

from al_cli.dagster_process import Dagster
from al_cli.digits import digit_pngs
from al_core.records import GateVerdict
from al_loop.deploying import challenger_of_round
from al_loop.judging import verdict_on
from al_resources.platform import Platform
from al_resources.settings import load_settings

pytestmark = [pytest.mark.slow, pytest.mark.live, pytest.mark.browser, pytest.mark.timeout(7200)]

# so that no challenger passes on the few labels of two rounds; afterwards the gate is the usual one
STRICT = {"AL_GATE__TOLERANCE": "0", "AL_GATE__CONFIDENCE": "0.9999"}


@dataclass
class Scene:
    page: Page
    dagster: Dagster
    platform: Platform
    home: Path

    def launch(self, job: str, step: str, **config: Any) -> dict[str, Any]:
        """A job of the launchpad, its configuration typed and its button clicked; the run that it became."""
        self.page.goto(f"{self.dagster.url}/locations/active_learning/jobs/{job}/playground")
        editor = self.page.locator(".CodeMirror").first
        expect(editor).to_be_visible()
        editor.evaluate("(box, text) => box.CodeMirror.setValue(text)", json.dumps({"ops": {step: {"config": config}}}))
        button = self.page.get_by_role("button", name=re.compile("Launch Run"))
        expect(button).to_be_enabled()
        return self.ended(self._launched_by(button))

    def materialize(self, asset: str) -> dict[str, Any]:
        """The button of the asset's page."""
        self.page.goto(f"{self.dagster.url}/assets/{asset}")
        button = self.page.get_by_role("button", name=re.compile("Materialize$"))
        expect(button).to_be_enabled()
        return self.ended(self._launched_by(button))

    @retry(retry=retry_if_exception_type(TimeoutError), stop=stop_after_attempt(3), reraise=True)
    def _launched_by(self, button: Any) -> str:
        launches = "launchPipelineExecution", "launchMultipleRuns"
        with self.page.expect_response(
            lambda response: any(name in (response.request.post_data or "") for name in launches), timeout=20_000
        ) as launch:
            button.click()
        found = re.search(r'"(?:runId|id)":\s*"([0-9a-f-]{36})"', launch.value.text())
        assert found, launch.value.text()
        return found[1]

    def ended(self, run_id: str) -> dict[str, Any]:
        return _until(f"run {run_id}", lambda: _done(self.dagster.run(run_id)))

    def correct(self, number: int) -> dict[str, Any]:
        """An export in which somebody takes an answer back; the run that the sensor requests for it."""
        row = self.platform.ledgers.read("labels").filter(annotator="oracle").row(-number, named=True)
        other = str((int(row["label"]) + 1) % 10)
        line = {"image_url": f"{row['image_id']}.png", "label": other, "annotator": "oracle"}
        path = f"labeling/exports/correction-{number}.jsonl"
        self.platform.blobs.write(path, json.dumps(line).encode() + b"\n")
        runs = _until("the sensor", lambda: self.dagster.runs(al__export=path))
        return self.ended(runs[0]["runId"])

    def partition(self, asset: str, round_: int) -> None:
        """The page of an asset's round."""
        self.page.goto(f"{self.dagster.url}/assets/{asset}?view=partitions&partition={round_:04d}")

    def sees(self, *texts: str) -> None:
        for text in texts:
            expect(self.page.get_by_text(re.compile(text)).first).to_be_visible(timeout=60_000)


def _done(run: dict[str, Any]) -> dict[str, Any] | None:
    return run if run["status"] in ("SUCCESS", "FAILURE", "CANCELED") else None


def _until(what: str, ready: Any, timeout: float = 1200) -> Any:
    deadline = time.monotonic() + timeout
    while not (found := ready()):
        assert time.monotonic() < deadline, f"{what} did not come within {timeout:.0f} s"
        time.sleep(0.5)
    return found


def picture(page: Page, name: str) -> None:
    if folder := os.environ.get("DOCS_IMAGES"):
        page.screenshot(path=Path(folder) / f"{name}.png")


@pytest.fixture(scope="module")
def scene(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """A demo of two rounds by a gate that nobody passes; then its instance and the usual gate, in a browser."""
    home = tmp_path_factory.mktemp("judged") / "home"
    command = [sys.executable, "-m", "al_cli.main", "demo", "--home", str(home), "--rounds", "2", "--port", "0"]
    done = subprocess.run(
        [*command, "--json"], env=os.environ | STRICT, capture_output=True, text=True, timeout=3000, check=False
    )
    assert done.returncode == 0, done.stderr
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AL_CONFIG", str(home / "al.toml"))
        with running_dagster(home, home / "al.toml") as dagster, sync_playwright() as playwright:
            dagster.start_sensor("labeling_export_sensor")
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
            page = browser.new_page(viewport={"width": 1500, "height": 900})
            page.set_default_timeout(60_000)
            page.goto(dagster.link)
            yield Scene(page, dagster, Platform(load_settings()), home)
            browser.close()


def test_a_refusal_is_green_and_the_page_says_who_serves_and_why(scene: Scene) -> None:
    run = scene.dagster.runs(dagster__partition="0001", dagster__sensor_name="labeling_export_sensor")[0]
    assert run["status"] == "SUCCESS"
    scene.partition("deployment", 1)
    scene.sees("who serves", r"open: .* points against v1")
    scene.page.goto(f"{scene.dagster.url}/assets/deployment?view=checks&checkDetail=challenger_serves")
    scene.sees("challenger_serves", "Warning|warning|WARN|Failed")
    picture(scene.page, "refusal")


def test_the_next_batch_holds_duels_and_the_page_says_so(scene: Scene) -> None:
    duels = scene.platform.ledgers.read("selections", round=2).filter(reason="duel")
    assert duels.height > 0
    scene.partition("selected_candidates", 2)
    scene.sees("duel")
    picture(scene.page, "duel")


def test_a_hold_from_the_launchpad_keeps_who_serves_while_the_loop_trains_on(scene: Scene) -> None:
    before = scene.platform.registry.versions()
    assert scene.launch("hold", "hold_deployments", reason="a fair is on", person="ann")["status"] == "SUCCESS"
    scene.page.goto(f"{scene.dagster.url}/assets/deployment?view=events")
    scene.sees("held: the loop selects and trains, and deploys nothing")
    assert scene.correct(1)["status"] == "SUCCESS"
    assert len(scene.platform.registry.versions()) == len(before) + 1
    assert scene.platform.endpoint.state().serving_version == 1
    scene.partition("deployment", 2)
    scene.sees("held by ann since .*: a fair is on")
    picture(scene.page, "held")
    assert scene.launch("release", "release_deployments", reason="it is over", person="ann")["status"] == "SUCCESS"


def test_with_the_labels_of_its_duels_a_challenger_is_promoted(scene: Scene) -> None:
    assert scene.correct(2)["status"] == "SUCCESS"
    serving = scene.platform.endpoint.state().serving_version
    assert serving is not None
    assert serving > 1
    scene.partition("deployment", 2)
    scene.sees("who serves", f"^v{serving}$", r"better: .* points against v1")
    picture(scene.page, "promotion")


def test_the_verdict_that_promoted_is_the_same_when_it_is_taken_again(scene: Scene) -> None:
    decisions = scene.platform.ledgers.read("decisions", action="promote").filter(against_version=1)
    row = decisions.row(-1, named=True)
    stored = GateVerdict.model_validate_json(row["verdict"])
    assert stored.outcome == "better"
    assert (stored.won or 0) + (stored.lost or 0) > 0
    assert verdict_on(scene.platform, scene.platform.registry.manifest(row["model_version"]), 1) == stored
    assert challenger_of_round(scene.platform, 2).version >= row["model_version"]


def test_a_rollback_from_the_launchpad_is_seen_with_who_and_why(scene: Scene) -> None:
    run = scene.launch("rollback", "roll_back", reason="worse on Mondays", person="bob")
    assert run["status"] == "SUCCESS"
    assert scene.platform.endpoint.state().serving_version == 1
    scene.page.goto(f"{scene.dagster.url}/assets/deployment?view=events")
    scene.sees("rolled back to v1", "worse on Mondays", "bob")
    picture(scene.page, "rollback")


def test_a_stream_that_drifts_raises_the_check_of_the_instance(scene: Scene) -> None:
    """Negatives of the digits, scored by `al score`: the check on the log warns, and the run stays green."""
    folder = scene.home / "negatives"
    folder.mkdir()
    for number, (png, _) in enumerate(digit_pngs()[:600]):
        ImageOps.invert(Image.open(io.BytesIO(png)).convert("L")).save(folder / f"{number}.png")
    command = [sys.executable, "-m", "al_cli.main", "--config", str(scene.home / "al.toml"), "score", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert scene.materialize("prediction_log")["status"] == "SUCCESS"
    scene.page.goto(f"{scene.dagster.url}/assets/prediction_log?view=checks&checkDetail=traffic_looks_as_before")
    scene.sees("the traffic of v1 differs from its reference since")
    picture(scene.page, "drift")
