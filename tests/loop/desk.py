"""A person at the pages of Dagster on a live instance: what they launch, and what they read."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from playwright.sync_api import Page, TimeoutError, expect, sync_playwright
from running_dagster import let_in, running_dagster
from tenacity import retry, retry_if_exception_type, stop_after_attempt

from al_assets.definitions import build_definitions
from al_cli.dagster_process import Dagster, write_dagster_home
from al_cli.digits import store_digits
from al_resources.platform import Platform
from al_resources.settings import load_settings

ENDED = ("SUCCESS", "FAILURE", "CANCELED")
Run = Callable[[str, str], None]  # a job for a round, played in this process


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


@contextmanager
def desk_of(chromium: str, home: Path, project: str, played: Callable[[Platform, Run], None]) -> Iterator[Desk]:
    """A home on digits whose first rounds are `played` in this process; then the pages, with no sensor on."""
    config = home / "al.toml"
    config.write_text(project)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AL_CONFIG", str(config))
        platform = Platform(load_settings())
        write_dagster_home(home, platform.settings)
        store_digits(platform)
        with dg.DagsterInstance.from_config(str(home)) as instance:
            played(platform, _playing(platform, instance))
        with running_dagster(home, config) as dagster, sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
            page = browser.new_page(viewport={"width": 1500, "height": 1000})
            page.set_default_timeout(90_000)
            expect.set_options(timeout=90_000)
            let_in(page, dagster)
            page.wait_for_load_state("networkidle")
            yield Desk(page, dagster, platform)
            browser.close()


def _playing(platform: Platform, instance: dg.DagsterInstance) -> Run:
    definitions = build_definitions(platform)

    def run(job: str, key: str) -> None:
        instance.add_dynamic_partitions("round", [key])
        assert definitions.resolve_job_def(job).execute_in_process(partition_key=key, instance=instance).success

    return run
