"""What docs/operations.md tells people to click, clicked in Chromium on a live instance: rounds by hand."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from desk import Desk, Run, desk_of
from digits_project import digits_toml, oracle
from playwright.sync_api import expect

from al_cli.oracle import answer_waiting
from al_resources.labeling.projects.oracle import OracleLabeling
from al_resources.platform import Platform

pytestmark = [pytest.mark.slow, pytest.mark.live, pytest.mark.browser, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def desk(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """Two rounds are trained and the third waits for people."""
    home = tmp_path_factory.mktemp("desk")
    project = digits_toml(
        labeling=oracle(home),
        selection={"initial_budget": 120, "budget": 20, "pool_scoring_limit": 600},
        holdout={"reserve": 0.4, "share": 0.3},
        training={"epochs": 4},
    )
    with desk_of(chromium, home, project, _play) as desk:
        yield desk


def _play(platform: Platform, run: Run) -> None:
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
