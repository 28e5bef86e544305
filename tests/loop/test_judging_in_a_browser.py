"""Who serves, as a person sees and decides it in the UI: a refusal, duels, a promotion, a hold and a rollback."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from desk import Desk, Run, desk_of
from digits_project import digits_toml, oracle
from playwright.sync_api import expect

from al_core.dataset import JUDGES
from al_loop.status import progress
from al_resources.labeling.projects.oracle import OracleLabeling
from al_resources.platform import Platform

pytestmark = [pytest.mark.slow, pytest.mark.live, pytest.mark.browser, pytest.mark.timeout(3600)]

LAST = 12  # rounds after which it would have to have happened


@pytest.fixture(scope="module")
def desk(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """In the first round after the seed all that teaches is answered wrongly; in the next everything is put right."""
    home = tmp_path_factory.mktemp("judging")
    project = digits_toml(
        labeling=oracle(home),
        selection={"initial_budget": 120, "budget": 60, "pool_scoring_limit": 900},
        holdout={"reserve": 0.5, "share": 0.4},
        gate={"duel_labels": 30},
        training={"epochs": 6},
    )
    with desk_of(chromium, home, project, _play) as desk:
        yield desk


def _play(platform: Platform, run: Run) -> None:
    """Until a version was refused for being worse, one was put to duels, and one was promoted afterwards."""
    truth = json.loads(Path(platform.settings.labeling.oracle_labels).read_text())
    reserved = set(platform.settings.holdout.judges.among(list(truth)))
    wrong = {image: label if image in reserved else str((int(label) + 1) % 10) for image, label in truth.items()}
    for round_ in range(LAST):
        run("selection", f"{round_:04d}")
        answers = wrong if round_ == 1 else truth
        OracleLabeling(platform.blobs, answers).answer(round_)
        if round_ in (1, 2):
            _answer_again(platform, answers)
        run("training_deployment", f"{round_:04d}")
        outcomes = [row["outcome"] for row in rounds(platform)]
        if "worse" in outcomes and "promoted" in outcomes[2:] and duels(platform).height:
            return
    pytest.fail(f"after {LAST} rounds: {outcomes}, {duels(platform).height} duels")


def _answer_again(platform: Platform, answers: dict[str, str]) -> None:
    """All images that were answered so far, once more."""
    images = sorted(set(platform.ledgers.read("labels")["image_id"]))
    lines = [{"image_url": f"{image}.png", "label": answers[image], "annotator": "oracle"} for image in images]
    content = "".join(f"{json.dumps(line)}\n" for line in lines)
    platform.blobs.write(f"labeling/exports/again-{len(images)}.jsonl", content.encode())


def rounds(platform: Platform) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = progress(platform)["rounds"]
    return found


def duels(platform: Platform) -> pl.DataFrame:
    return platform.ledgers.read("selections").filter(reason="duel")


def the_round(desk: Desk, outcome: str, *, after: int = 0) -> dict[str, Any]:
    return next(row for row in rounds(desk.platform) if row["outcome"] == outcome and row["round"] >= after)


def test_a_refusal_is_green_and_says_who_serves_and_why(desk: Desk) -> None:
    refused = the_round(desk, "worse")
    partition, version = f"{refused['round']:04d}", refused["model_version"]
    desk.reads("deployment", partition, "who serves", rf"v{version} is worse", "outcome")
    runs = desk.dagster.runs(dagster__partition=partition)
    assert {run["status"] for run in runs} <= {"SUCCESS"}
    desk.photograph("refusal")


def test_the_batch_after_an_open_verdict_holds_images_on_which_two_versions_disagree(desk: Desk) -> None:
    asked = duels(desk.platform)
    desk.reads("selected_candidates", f"{asked['round'].min():04d}", "duel")
    judged = desk.platform.datasets.latest()
    assert judged is not None
    splits = judged.rows.filter(pl.col("image_id").is_in(asked["image_id"].implode()))["split"]
    assert set(splits) <= set(JUDGES), "what decides between two versions teaches none"


def test_the_version_that_was_proven_better_serves(desk: Desk) -> None:
    promoted = the_round(desk, "promoted", after=2)
    version = promoted["model_version"]
    desk.reads("deployment", f"{promoted['round']:04d}", rf"v{version} is better", "serving since", "to go back")
    assert desk.platform.endpoint.state().serving_version == version
    desk.photograph("promotion")


def test_a_held_loop_says_who_holds_it_and_why_and_goes_on_when_it_is_released(desk: Desk) -> None:
    config = {"hold_deployments": {"config": {"reason": "a fair is on", "person": "ann"}}}
    assert desk.launch("hold", config)["status"] == "SUCCESS"
    newest = f"{rounds(desk.platform)[-1]['round']:04d}"
    assert desk.materialize("deployment", newest)["status"] == "SUCCESS"
    desk.reads("deployment", newest, "a fair is on")
    config = {"release_deployments": {"config": {"reason": "the fair is over", "person": "ann"}}}
    assert desk.launch("release", config)["status"] == "SUCCESS"


def test_a_rollback_brings_back_who_served_before(desk: Desk) -> None:
    config = {"roll_back": {"config": {"reason": "complaints", "person": "ann"}}}
    assert desk.launch("rollback", config)["status"] == "SUCCESS"
    assert desk.platform.endpoint.state().serving_version == 1
    desk.page.goto(f"{desk.dagster.url}/assets/deployment?view=events")
    expect(desk.page.get_by_text("rolled back to v1").first).to_be_visible()
    by_whom = desk.platform.ledgers.read("decisions").filter(person="ann")
    assert by_whom["reason"].to_list()[-1] == "complaints"
