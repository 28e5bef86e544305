"""From an answer in a real Label Studio to a model that serves, in a live instance: schedule, sensor, runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from digits_project import digits_toml
from person import wait_for
from running_label_studio import INSTALL_SECONDS, label_studio

from al_cli.dagster_process import free_port, listener_of_ui, scoring_service, start_dagster, write_dagster_home
from al_cli.digits import digit_pngs
from al_cli.processes import Children
from al_resources.labeling.projects.label_studio_client import TOKEN_VARIABLE
from al_resources.platform import Platform
from al_resources.settings import load_settings

pytestmark = [pytest.mark.live, pytest.mark.slow, pytest.mark.timeout(INSTALL_SECONDS + 600)]

LABELS, OPEN = 110, 10
TITLE = "digits by hand"


def test_digits_labeled_in_label_studio_become_a_model_that_serves_and_says_what_it_thinks_of_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "al.toml"
    with label_studio(tmp_path / "label-studio") as server:
        config.write_text(
            digits_toml(
                labeling={"project": "label_studio"},
                label_studio={"url": server.url, "project": TITLE},
                selection={"initial_budget": LABELS + OPEN},
                serving={"port": free_port(0)},
                sensors={"export_interval_seconds": 1},
            )
        )
        monkeypatch.setenv("AL_CONFIG", str(config))
        monkeypatch.setenv(TOKEN_VARIABLE, server.token)
        platform = Platform(load_settings())
        truth = {platform.images.put(png).image_id: label for png, label in digit_pngs()[:300]}
        write_dagster_home(tmp_path, platform.settings)
        with Children() as children, listener_of_ui(0) as listener:
            children.start(scoring_service(tmp_path, config))
            dagster = start_dagster(children, tmp_path, config, listener)
            runs, reason = dagster.tick_schedule("selection_schedule", "selection")
            assert runs, reason
            wait_for("the selection", lambda: dagster.run(runs[0])["status"] in ("SUCCESS", "FAILURE"))
            assert dagster.run(runs[0])["status"] == "SUCCESS"
            tasks = server.tasks(TITLE)
            assert len(tasks) == LABELS + OPEN
            for task in tasks[:LABELS]:
                server.annotate(task, truth[task["data"]["image_id"]])
            dagster.start_sensor("labeling_export_sensor")
            wait_for("the model", lambda: platform.endpoint.state().serving_version is not None, seconds=400)
            manifest = platform.registry.manifest(1)
        labels = platform.ledgers.read("labels")
        assert dict(labels.select("image_id", "label").iter_rows()).items() <= truth.items()
        assert (labels.height, labels["annotator"].n_unique()) == (LABELS, 1)
        assert manifest.labels > 0
        assert server.project(TITLE)["show_collab_predictions"] is False
        waiting = [task for task in server.tasks(TITLE) if not task["annotations"]]
        assert len(waiting) == OPEN
        for task in waiting:
            [prediction] = task["predictions"]
            assert prediction["model_version"] == f"{platform.settings.model.name} v1"
            assert 0 <= prediction["score"] <= 1
