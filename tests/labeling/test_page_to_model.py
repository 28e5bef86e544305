"""From a key on the labeling page to a model that serves: a live instance, its schedule, its sensor, a browser."""

from __future__ import annotations

from pathlib import Path

import pytest
from digits_project import digits_toml
from person import label_everything, wait_for

from al_cli.dagster_process import free_port, listener_of_ui, scoring_service, start_dagster, write_dagster_home
from al_cli.digits import digit_pngs
from al_cli.processes import Children
from al_cli.running_loop import labeling_page
from al_resources.platform import Platform
from al_resources.settings import load_settings

pytestmark = [pytest.mark.live, pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(600)]

LABELS = 120


def test_digits_labeled_by_keys_become_a_model_that_serves(
    tmp_path: Path, chromium: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "al.toml"
    config.write_text(
        digits_toml(
            labeling_page={"port": free_port(0), "auto_release": True},
            selection={"initial_budget": LABELS},
            serving={"port": free_port(0)},
            sensors={"export_interval_seconds": 1},
        )
    )
    monkeypatch.setenv("AL_CONFIG", str(config))
    platform = Platform(load_settings())
    truth = {platform.images.put(png).image_id: label for png, label in digit_pngs()[:300]}
    write_dagster_home(tmp_path, platform.settings)
    with Children() as children, listener_of_ui(0) as listener:
        children.start(scoring_service(tmp_path, config))
        page, link = labeling_page(tmp_path, config)
        children.start(page)
        dagster = start_dagster(children, tmp_path, config, listener)
        dagster.start_sensor("labeling_export_sensor")
        runs, reason = dagster.tick_schedule("selection_schedule", "selection")
        assert runs, reason
        wait_for("the selection", lambda: dagster.run(runs[0])["status"] in ("SUCCESS", "FAILURE"))
        assert dagster.run(runs[0])["status"] == "SUCCESS"
        label_everything(platform, chromium, link, truth, LABELS)
        wait_for("the model", lambda: platform.endpoint.state().serving_version is not None, seconds=300)
        manifest = platform.registry.manifest(1)
    labels = platform.ledgers.read("labels")
    assert dict(labels.select("image_id", "label").iter_rows()).items() <= truth.items()
    assert labels.height == LABELS
    assert set(labels["mode"]) == {"single"}
    assert manifest.labels > 0
