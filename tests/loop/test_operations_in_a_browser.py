"""What docs/operations.md tells people to click, clicked in Chromium on a live instance: rounds by hand."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from digits_project import digits_toml, oracle
from playwright.sync_api import Page, TimeoutError, expect, sync_playwright
from running_dagster import running_dagster
from tenacity import retry, retry_if_exception_type, stop_after_attempt

from al_assets.definitions import build_definitions
from al_cli.dagster_process import Dagster, write_dagster_home
from al_cli.digits import store_digits
from al_cli.oracle import answer_waiting
from al_resources.labeling.projects.oracle import OracleLabeling
from al_resources.platform import Platform
from al_resources.settings import load_settings

pytestmark = [pytest.mark.slow, pytest.mark.live, pytest.mark.browser, pytest.mark.timeout(3600)]

ENDED = ("SUCCESS", "FAILURE", "CANCELED")


@dataclass
class Desk:
    """A person at the pages of Dagster."""

    page: Page
    dagster: Dagster
    platform: Platform

    def launch(self, job: str, config: dict[str, Any], partition: str = "") -> dict[str, Any]:
        """The launchpad of a job: its partition chosen, its configuration typed, its button clicked."""
        self.page.evaluate("localStorage.clear()")  # the launchpad would come back to what was typed for the last run
        self.page.goto(f"{self.dagster.url}/locations/active_learning/jobs/{job}/playground")
        editor = self.page.locator(".CodeMirror").first
        expect(editor).to_be_visible()
        if partition:
            self.page.get_by_placeholder("Partition").click()
            self.page.get_by_text(partition, exact=True).last.click()
        editor.evaluate("(box, text) => box.CodeMirror.setValue(text)", json.dumps({"ops": config}))
        return self._ended_after("Launch Run")

    def materialize(self, asset: str, partition: str = "") -> dict[str, Any]:
        """The button of an asset's page; of a round's page, the dialog that it opens, too."""
        shown = f"?view=partitions&partition={partition}" if partition else ""
        self.page.goto(f"{self.dagster.url}/assets/{asset}{shown}")
        if not partition:
            return self._ended_after("Materialize$")
        self.page.get_by_role("button", name=re.compile("Materialize")).first.click()
        return self._ended_after("Launch 1 run")

    def reads(self, asset: str, partition: str, *texts: str) -> None:
        """What the page of an asset's round says."""
        self.page.goto(f"{self.dagster.url}/assets/{asset}?view=partitions&partition={partition}")
        for text in texts:
            expect(self.page.get_by_text(re.compile(text)).first).to_be_visible()

    def _ended_after(self, button: str) -> dict[str, Any]:
        run_id = self._launched_by(button)
        deadline = time.monotonic() + 900
        while True:
            run = self.dagster.run(run_id)
            tags = {tag["key"]: tag["value"] for tag in run["tags"]}
            again = tags.get("dagster/auto_retry_run_id")
            if again:  # a busy machine may start a run too late for Dagster, which then starts it once more
                run_id = again
            elif run["status"] in ENDED and (run["status"] != "FAILURE" or tags.get("dagster/will_retry") != "true"):
                return run
            assert time.monotonic() < deadline, f"the run that {button!r} started did not end: {run}"
            time.sleep(0.5)

    @retry(retry=retry_if_exception_type(TimeoutError), stop=stop_after_attempt(3), reraise=True)
    def _launched_by(self, name: str) -> str:
        button = self.page.get_by_role("button", name=re.compile(name)).first
        expect(button).to_be_enabled()
        launches = "launchPipelineExecution", "launchMultipleRuns"
        with self.page.expect_response(
            lambda response: any(launch in (response.request.post_data or "") for launch in launches), timeout=30_000
        ) as launch:
            button.click()
        found = re.search(r'"(?:runId|id)":\s*"([0-9a-f-]{36})"', launch.value.text())
        assert found, launch.value.text()
        return found[1]

    def photograph(self, name: str) -> None:
        if folder := os.environ.get("DOCS_IMAGES"):
            self.page.screenshot(path=Path(folder) / f"{name}.png")


@pytest.fixture(scope="module")
def desk(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """Two rounds are trained and the third waits for people; then the pages, with no sensor on."""
    home = tmp_path_factory.mktemp("desk")
    config = home / "al.toml"
    config.write_text(
        digits_toml(
            labeling=oracle(home),
            selection={"initial_budget": 120, "budget": 20, "pool_scoring_limit": 600},
            holdout={"reserve": 0.4, "share": 0.3},
            training={"epochs": 4},
        )
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AL_CONFIG", str(config))
        platform = Platform(load_settings())
        write_dagster_home(home, platform.settings)
        store_digits(platform)
        _play(home, platform)
        with running_dagster(home, config) as dagster, sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
            page = browser.new_page(viewport={"width": 1500, "height": 1000})
            page.set_default_timeout(90_000)
            expect.set_options(timeout=90_000)
            page.goto(dagster.link)
            page.wait_for_load_state("networkidle")  # it goes on to another page by itself
            yield Desk(page, dagster, platform)
            browser.close()


def _play(home: Path, platform: Platform) -> None:
    definitions = build_definitions(platform)
    with dg.DagsterInstance.from_config(str(home)) as instance:

        def run(job: str, key: str) -> None:
            instance.add_dynamic_partitions("round", [key])
            assert definitions.resolve_job_def(job).execute_in_process(partition_key=key, instance=instance).success

        for key in ("0000", "0001"):
            run("selection", key)
            answer_waiting(platform)
            run("training_deployment", key)
        run("selection", "0002")


def test_a_round_that_is_selected_says_so_when_it_is_asked_for_again(desk: Desk) -> None:
    before = desk.platform.ledgers.read("selections", round=2)
    assert desk.materialize("selected_candidates", "0002")["status"] == "SUCCESS"
    desk.reads("selected_candidates", "0002", "selected before", "against random", "margin: ")
    assert desk.platform.ledgers.read("selections", round=2).equals(before)


def test_the_contact_sheet_is_seen_in_place_and_opens_at_a_click(desk: Desk) -> None:
    desk.reads("selected_candidates", "0002", "contact sheet")
    sheet = desk.page.locator("img[src^='/loop/files/reports/0002/contact_sheet.png']").first
    expect(sheet).to_be_visible()
    assert sheet.evaluate("image => image.complete && image.naturalWidth") > 300
    desk.photograph("selected-candidates")
    link = desk.page.locator("a[href^='/loop/files/reports/0002/contact_sheet.png']").first
    answer = desk.page.request.get(f"{desk.dagster.url}{link.get_attribute('href')}")
    assert answer.headers["content-type"] == "image/png"
    outside = desk.page.context.browser.new_context()  # type: ignore[union-attr]
    assert outside.request.get(f"{desk.dagster.url}{link.get_attribute('href')}").status == 401
    outside.close()


def test_another_strategy_chooses_anew_what_nobody_answered(desk: Desk) -> None:
    config = {"selected_candidates": {"config": {"strategy": "entropy", "reselect": True}}}
    assert desk.launch("selection", config, "0002")["status"] == "SUCCESS"
    chosen = desk.platform.ledgers.read("selections", round=2).filter(reason="strategy")
    assert chosen["strategy"].unique().to_list() == ["entropy"]
    desk.reads("selected_candidates", "0002", "selected anew", "entropy: ")


def test_images_that_came_in_are_scored_at_a_click(desk: Desk) -> None:
    version = desk.platform.endpoint.state().serving_version
    rows = desk.platform.predictions.watermark("classifier", version).rows
    assert desk.materialize("prediction_log")["status"] == "SUCCESS"
    assert desk.platform.predictions.watermark("classifier", version).rows > rows
    desk.page.goto(f"{desk.dagster.url}/assets/prediction_log?view=events")
    for text in ("the loop waits for", "images that wait for a prediction", "predictions of the last 24 hours"):
        expect(desk.page.get_by_text(text).first).to_be_visible()
    expect(desk.page.locator("img[src^='/loop/files/reports/prediction_log/']").first).to_be_visible()
    desk.photograph("prediction-log")


def test_an_export_is_merged_by_hand(desk: Desk) -> None:
    assert isinstance(desk.platform.labeling, OracleLabeling)
    path = desk.platform.labeling.answer(2)
    config = {"labeled_dataset": {"config": {"export": path}}}
    assert desk.launch("training_deployment", config, "0002")["status"] == "SUCCESS"
    desk.reads("labeled_dataset", "0002", "what changed", "class balance", "labeling_page.overlap")
    desk.reads("model_checkpoint", "0002", "accuracy, 95 % interval", "against parent", "against random")
    for figure in ("learning_curve", "confusion_matrix", "calibration"):
        picture = desk.page.locator(f"img[src^='/loop/files/reports/0002/{figure}.png']").first
        picture.scroll_into_view_if_needed()
        expect(picture).to_be_visible()
    desk.photograph("model-checkpoint")
    desk.reads("deployment", "0002", "who serves", "serving since", "to go back", "labels paid")


def test_late_labels_of_an_earlier_round_are_merged_with_all_that_waits(desk: Desk) -> None:
    row = desk.platform.ledgers.read("labels", round=1).row(0, named=True)
    other = str((int(row["label"]) + 1) % 10)
    line = {"image_url": f"{row['image_id']}.png", "label": other, "annotator": "ann"}
    desk.platform.blobs.write("labeling/exports/late.jsonl", json.dumps(line).encode() + b"\n")
    assert desk.launch("training_deployment", {}, "0002")["status"] == "SUCCESS"
    merged = desk.platform.ledgers.read("exports", path="labeling/exports/late.jsonl")
    assert merged["new_labels"].to_list() == [1]
    desk.reads("labeled_dataset", "0002", "late.jsonl")


def test_the_deployment_of_an_older_round_is_refused_in_words(desk: Desk) -> None:
    serving = desk.platform.endpoint.state().serving_version
    assert desk.materialize("deployment", "0000")["status"] == "SUCCESS"
    assert desk.platform.endpoint.state().serving_version == serving
    said = "v1 serves already" if serving == 1 else f"v{serving} stays: v1 is older"
    desk.reads("deployment", "0000", said)


def test_a_version_is_promoted_with_a_reason(desk: Desk) -> None:
    newest = desk.platform.registry.versions()[-1]
    other = newest if desk.platform.endpoint.state().serving_version != newest else 1
    config = {"promote_version": {"config": {"version": other, "reason": "the fair needs it", "person": "ann"}}}
    assert desk.launch("promote", config)["status"] == "SUCCESS"
    assert desk.platform.endpoint.state().serving_version == other
    desk.page.goto(f"{desk.dagster.url}/assets/deployment?view=events")
    expect(desk.page.get_by_text(f"promoted v{other}").first).to_be_visible()


def test_a_study_is_run_and_its_report_opens_from_the_page(desk: Desk) -> None:
    for strategy in ("random", "margin"):
        config = {"simulate": {"config": {"strategy": strategy, "rounds": 1, "score_sample": 100}}}
        run = desk.launch("simulation", config)
        assert run["status"] == "SUCCESS"
    desk.page.goto(f"{desk.dagster.url}/runs/{run['runId']}")
    report = desk.page.locator("a[href^='/loop/files/reports/studies/']").first
    expect(report).to_be_visible()
    answer = desk.page.request.get(f"{desk.dagster.url}{report.get_attribute('href')}")
    assert answer.headers["content-type"].startswith("text/html")
