"""The first hour of a person with a folder of pictures, as a browser has it: one command, keys, and a model serves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from person import label_everything, wait_for

from al_cli.digits import digit_pngs
from al_resources.labeling.staging import staged_images
from al_resources.platform import Platform
from al_resources.settings import load_settings

pytestmark = [pytest.mark.live, pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(900)]

ONE_MINUTE, TEN_MINUTES = 60.0, 600.0
DIGITS = digit_pngs()[:300]


@pytest.fixture
def begun(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], Path, float]]:
    """`al start` on a folder of digits, nothing set but the classes."""
    folder, home = tmp_path / "digits", tmp_path / "home"
    folder.mkdir()
    for number, (png, _) in enumerate(DIGITS):
        (folder / f"{number}.png").write_bytes(png)
    classes = [word for digit in "0123456789" for word in ("--class", digit)]
    command = [sys.executable, "-m", "al_cli.main", "start", str(folder), "--home", str(home), "--port", "0"]
    at = time.monotonic()
    process = subprocess.Popen([*command, "--no-open", *classes], stdout=subprocess.PIPE, text=True)
    try:
        yield process, home, at
    finally:
        process.send_signal(signal.SIGINT)
        assert "stopped, with everything it started" in process.communicate(timeout=60)[0]


def test_from_a_folder_to_a_model_that_serves_and_the_next_round_in_ten_minutes(
    begun: tuple[subprocess.Popen[str], Path, float], chromium: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    process, home, at = begun
    assert process.stdout is not None
    link, said = "", []
    while not link:
        said.append(line := process.stdout.readline())
        assert line, "".join(said)
        link = line.partition("labeling page: ")[2].strip()
    wait_for("the labeling page", lambda: answers(link))
    to_first_picture = time.monotonic() - at

    monkeypatch.setenv("AL_CONFIG", str(home / "al.toml"))
    platform = Platform(load_settings())
    truth = {platform.images.put(png).image_id: label for png, label in DIGITS}
    staged = len(staged_images(platform.blobs, 0))
    to_first_label = label_everything(platform, chromium, link, truth, staged) - at
    to_last_label = time.monotonic() - at
    wait_for("the model", lambda: platform.endpoint.state().serving_version == 1, seconds=TEN_MINUTES)
    to_model = time.monotonic() - at
    wait_for("the next batch", lambda: platform.ledgers.read("selections", round=1).height, seconds=TEN_MINUTES)
    to_next_batch = time.monotonic() - at
    print(
        f"first picture after {to_first_picture:.0f} s, first label after {to_first_label:.0f} s, "
        f"all labeled after {to_last_label:.0f} s, a model serves after "
        f"{to_model:.0f} s, the next batch is chosen after {to_next_batch:.0f} s"
    )
    assert to_first_label < ONE_MINUTE  # the project is made, the pictures are stored, the first batch is chosen
    assert to_model < TEN_MINUTES
    chosen = platform.ledgers.read("selections", round=1)
    assert chosen["model_version"].drop_nulls().unique().to_list() == [1], "by what the model says of the pool"
    assert platform.predictions.watermark().rows >= len(DIGITS) - staged
    os.environ.pop("AL_CONFIG", None)


def answers(link: str) -> bool:
    try:
        return httpx.get(link, timeout=2).status_code < 500
    except httpx.HTTPError:
        return False
