"""A person at the labeling page who knows the answers, and patience with an end."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from playwright.sync_api import expect, sync_playwright

from al_labeling.guard import page_secret
from al_labeling.pictures import Pictures
from al_resources.labeling.staging import round_folder, staged_images
from al_resources.platform import Platform

PATIENCE = 30_000  # milliseconds: Dagster starts beside the page, on a machine that may have other work, too


def label_everything(platform: Platform, chromium: str, link: str, truth: dict[str, str], labels: int) -> float:
    """One key a picture, as a person who knows the digits; when the first label was saved (`time.monotonic`)."""
    first = 0.0
    settings = platform.settings
    pictures = Pictures(
        platform.blobs,
        round_folder(0),
        staged_images(platform.blobs, 0),
        page_secret(settings.labeling_page, settings.home),
    )
    label_of = {f"/picture/0-{pictures.opaque(image)}": label for image, label in truth.items()}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        tab = browser.new_page()
        tab.goto(link)
        for done in range(1, labels + 1):
            image = tab.locator("#stage img")
            expect(image).to_be_visible(timeout=PATIENCE)
            tab.keyboard.press(label_of[str(image.get_attribute("src"))])
            expect(tab.locator("#progress")).to_contain_text(f"{done} of {labels}", timeout=PATIENCE)
            first = first or time.monotonic()
        expect(tab.locator("#message")).to_contain_text(f"{labels} labels were released", timeout=PATIENCE)
        browser.close()
    return first


def wait_for(what: str, ready: Callable[[], Any], seconds: float = 180) -> None:
    """Until it is there; a bound, not a pause."""
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, f"{what} did not come within {seconds:.0f} s"
        time.sleep(0.3)
