"""The Dagster UI as a person uses it, in headless Chromium, on the finished demo's instance.

With DOCS_IMAGES set to a folder, the pictures of the README are taken on the way.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster_questions import automation_status
from playwright.sync_api import Locator, Page, Response, TimeoutError, expect, sync_playwright
from running_al import FinishedDemo
from running_dagster import let_in, running_dagster
from tenacity import retry, retry_if_exception_type, stop_after_attempt

from al_cli.dagster_process import Dagster

pytestmark = [pytest.mark.live, pytest.mark.browser, pytest.mark.timeout(1800)]
expect.set_options(timeout=60_000)  # the web server begins its first page on a machine that does other things, too

ASSETS = ["prediction_log", "selected_candidates", "labeled_dataset", "model_checkpoint", "deployment"]
SWITCHES = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def dagster(finished_demo: FinishedDemo) -> Iterator[Dagster]:
    with running_dagster(finished_demo.home, finished_demo.config) as dagster:
        yield dagster


@pytest.fixture(scope="module")
def page(chromium: str, dagster: Dagster) -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=SWITCHES)
        page = browser.new_page(viewport={"width": 1500, "height": 900})
        page.set_default_timeout(30_000)
        let_in(page, dagster)
        yield page
        browser.close()


def picture(page: Page, name: str) -> None:
    if folder := os.environ.get("DOCS_IMAGES"):
        page.screenshot(path=Path(folder) / f"{name}.png")


def test_the_graph_shows_the_five_assets(page: Page, dagster: Dagster) -> None:
    page.goto(f"{dagster.url}/asset-groups")
    for asset in ASSETS:
        expect(page.get_by_text(asset, exact=True).first).to_be_visible()
    page.wait_for_timeout(2000)  # until the graph has settled for the picture
    picture(page, "asset-graph")


def test_a_contact_sheet_is_seen_on_a_selection(page: Page, dagster: Dagster) -> None:
    page.goto(f"{dagster.url}/assets/selected_candidates?view=events")
    page.goto(f"{dagster.url}/assets/selected_candidates?view=partitions&partition=0002")
    row = page.locator("tr", has_text="contact sheet").first
    expect(row).to_be_visible()
    picture(page, "selected-candidates-facts")
    sheet = row.locator("img").first
    sheet.scroll_into_view_if_needed()
    expect(sheet).to_be_visible()
    page.wait_for_function("image => image.complete && image.naturalWidth > 300", arg=sheet.element_handle())
    page.wait_for_timeout(500)
    picture(page, "selected-candidates")


def test_a_materialization_is_started_from_the_ui(page: Page, dagster: Dagster) -> None:
    page.goto(f"{dagster.url}/assets/prediction_log")
    button = page.get_by_role("button", name=re.compile("Materialize$"))
    expect(button).to_be_enabled()
    run_id = _launched_by(page, button)
    deadline = time.monotonic() + 120
    while (run := dagster.run(run_id))["status"] not in ("SUCCESS", "FAILURE", "CANCELED"):
        assert time.monotonic() < deadline, f"the run that the button started did not end: {run}"
        time.sleep(0.5)
    assert run["status"] == "SUCCESS", run


@retry(retry=retry_if_exception_type(TimeoutError), stop=stop_after_attempt(3), reraise=True)
def _launched_by(page: Page, button: Locator) -> str:
    """The run that a click starts; a click that comes before the page listens is made again, as people do."""
    with page.expect_response(_is_launch, timeout=15_000) as launch:
        button.click()
    return str(launch.value.json()["data"]["launchPipelineExecution"]["run"]["id"])


def _is_launch(response: Response) -> bool:
    return "launchPipelineExecution" in (response.request.post_data or "")


@pytest.mark.parametrize(("kind", "name"), [("schedules", "selection_schedule"), ("sensors", "labeling_export_sensor")])
def test_schedule_and_sensor_are_switched_off_and_on(page: Page, dagster: Dagster, kind: str, name: str) -> None:
    page.goto(f"{dagster.url}/locations/active_learning/{kind}/{name}")
    switch = page.get_by_role("checkbox").first
    switch.wait_for(state="attached")
    was_on = switch.is_checked()
    for wanted in (not was_on, was_on):
        switch.dispatch_event("click")
        _wait_for_status(dagster, kind, name, "RUNNING" if wanted else "STOPPED")
        expect(switch).to_be_checked(checked=wanted)


def _wait_for_status(dagster: Dagster, kind: str, name: str, status: str) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if automation_status(dagster, kind, name) == status:
            return
        time.sleep(0.3)
    pytest.fail(f"{name} is {automation_status(dagster, kind, name)}, expected {status}")
