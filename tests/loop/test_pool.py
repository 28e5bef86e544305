"""What was ingested is the pool: scored by who serves, a part a run; and a round that is selected anew on request."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import polars as pl
import pytest

from al_cli.digits import digit_pngs
from al_core.learning.settings import TrainingSettings
from al_core.records import utc_now
from al_loop.claims import check_claims
from al_loop.deploying import decide, deploy
from al_loop.labeling import merge_exports, publish_dataset
from al_loop.scoring import score_pool, unscored
from al_loop.selecting import Wishes, choose, stage
from al_loop.training import train_challenger
from al_resources.labeling.answers import Answer, AnswerLog
from al_resources.labeling.projects.oracle import OracleLabeling
from al_resources.labeling.staging import round_folder, staged_images
from al_resources.platform import Platform
from al_resources.settings import (
    DeploymentSettings,
    HoldoutSettings,
    LabelingSettings,
    SelectionSettings,
    ServingSettings,
    Settings,
)

LIMIT, BUDGET = 70, 12


def quiet(line: str) -> None:
    """Nobody listens."""


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Platform:
    """300 digits in the store, a model of the 100 of the seed round serves, and it has scored nothing yet."""
    home = tmp_path_factory.mktemp("pool")
    platform = Platform(
        Settings(
            home=home,
            labeling=LabelingSettings(project="oracle", oracle_labels=str(home / "truth.json")),
            selection=SelectionSettings(initial_budget=100, budget=BUDGET, pool_scoring_limit=LIMIT),
            holdout=HoldoutSettings(reserve=0.4, share=0.3),
            training=TrainingSettings(architecture="small_cnn", image_size=16, channels=1, epochs=3),
            serving=ServingSettings(flush_rows=20),
            deployment=DeploymentSettings(watch_seconds=0),
        )
    )
    truth = {platform.images.put(png).image_id: label for png, label in digit_pngs()[:300]}
    (home / "truth.json").write_text(json.dumps(truth))
    chosen, _ = choose(platform, 0, Wishes(), quiet)
    stage(platform, 0, chosen)
    assert isinstance(platform.labeling, OracleLabeling)
    platform.labeling.answer(0)
    merge_exports(platform, "", quiet)
    manifest = train_challenger(platform, publish_dataset(platform, 0), run_id="run", log=quiet)
    assert decide(platform, manifest).deploy is not None
    deploy(platform, manifest, run_id="run", log=quiet)
    return platform


class TestThePool:
    """In this order: each test goes on where the one before stopped, as runs do."""

    def test_a_run_scores_so_many_of_what_the_serving_version_has_not_seen(self, platform: Platform) -> None:
        assert len(list(unscored(platform, 1))) == 200, "the seed round's images are out of the question"
        summary = score_pool(platform, log=quiet)
        assert summary is not None
        assert (summary.scored, summary.model_version) == (LIMIT, 1)
        assert platform.predictions.count_eligible("classifier", 1) == LIMIT

    def test_a_run_that_is_killed_is_gone_on_with_and_nothing_is_scored_twice(
        self, platform: Platform, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from al_serving import batch

        def dies(*arguments: Any, **options: Any) -> Any:
            batch_of_20 = arguments[1][:20]
            whole(arguments[0], batch_of_20, *arguments[2:], **options)
            raise KeyboardInterrupt

        whole = batch.score_files
        with monkeypatch.context() as killing:
            killing.setattr(batch, "score_files", dies)
            with pytest.raises(KeyboardInterrupt):
                score_pool(platform, log=quiet)
        said: list[str] = []
        score_pool(platform, log=said.append)
        score_pool(platform, log=said.append)
        score_pool(platform, log=said.append)
        assert said[0].startswith(f"{LIMIT} images of the store are scored by v1")
        log = pl.concat([pl.DataFrame(part) for part in platform.predictions.scan(["image_id"], model_version=1)])
        assert log.height == log["image_id"].n_unique() == 200
        assert set(log["image_id"]).isdisjoint(platform.ledgers.read("selections")["image_id"])

    def test_when_all_is_scored_there_is_nothing_to_do(self, platform: Platform) -> None:
        assert score_pool(platform, log=quiet) is None
        assert list(unscored(platform, 1)) == []
        assert len(list(unscored(platform, 2))) == 200, "the next version has seen none of them"

    def test_zero_leaves_the_log_to_the_traffic(self, platform: Platform) -> None:
        selection = platform.settings.selection.model_copy(update={"pool_scoring_limit": 0})
        traffic = Platform(platform.settings.model_copy(update={"selection": selection}))
        traffic.images.put(digit_pngs()[301][0])
        assert score_pool(traffic, log=quiet) is None


class TestARoundThatIsSelected:
    def test_it_says_so_and_names_the_way_out_where_something_else_was_asked_for(self, platform: Platform) -> None:
        first, _ = choose(platform, 1, Wishes(strategy="margin"), quiet)
        stage(platform, 1, first)
        again, facts = choose(platform, 1, Wishes(), quiet)
        assert again["image_id"].to_list() == first["image_id"].to_list()
        assert "reselect" not in facts["selected before"]
        again, facts = choose(platform, 1, Wishes(strategy="entropy"), quiet)
        assert again["image_id"].to_list() == first["image_id"].to_list()
        assert "what this run asks for was not used. reselect = true" in facts["selected before"]

    def test_reselect_replaces_what_nobody_has_answered_and_keeps_the_rest(self, platform: Platform) -> None:
        first = platform.ledgers.read("selections", round=1).sort("rank")
        answered = first["image_id"].to_list()[:3]
        log = AnswerLog(platform.blobs, 1)
        for image in answered:
            log.append(
                Answer(
                    event_id=str(uuid4()), round=1, image_id=image, annotator="ann", kind="label", label="1",
                    at=utc_now(),
                )
            )  # fmt: skip
        chosen, facts = choose(platform, 1, Wishes(strategy="random", seed=5, reselect=True), quiet)
        stage(platform, 1, chosen)
        assert facts["selected anew"] == "9 images; 3 stay, which are answered"
        assert chosen["image_id"].to_list()[:3] == answered
        assert chosen.height == chosen["image_id"].n_unique() == BUDGET
        assert chosen["rank"].is_unique().all()
        assert set(chosen["strategy"].to_list()[3:]) <= {"random", "margin"}
        assert {image.image_id for image in staged_images(platform.blobs, 1)} == set(chosen["image_id"])
        copies = {Path(blob.path).stem for blob in platform.blobs.list(round_folder(1))} - {"_manifest"}
        assert copies == set(chosen["image_id"]), "what was taken back does not lie about to be labeled"
        assert all(claim.holds for claim in check_claims(platform))

    def test_a_run_that_was_killed_after_it_took_back_is_ended_by_the_next(self, platform: Platform) -> None:
        kept = platform.ledgers.read("selections", round=1).sort("rank")["image_id"].to_list()
        platform.ledgers.erase("selections", kept[3:])
        chosen, _ = choose(platform, 1, Wishes(reselect=True), quiet)
        assert chosen["image_id"].to_list()[:3] == kept[:3]
        assert chosen.height == BUDGET
