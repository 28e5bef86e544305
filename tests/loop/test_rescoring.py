"""The newest asks, the proven serves: rounds on digits whose challenger does not serve yet."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from al_cli.digits import digit_pngs
from al_core.learning.settings import TrainingSettings
from al_core.reading_ahead import ahead
from al_core.records import PREDICTIONS
from al_core.strategies.base import Order
from al_core.strategies.registry import STRATEGIES
from al_loop.answering import predictor_of
from al_loop.claims import check_claims
from al_loop.deploying import decide, deploy
from al_loop.labeling import merge_exports, publish_dataset
from al_loop.questions import Window, ask
from al_loop.rescoring import _First, asking_version, rescored
from al_loop.selecting import Wishes, choose, preview, stage
from al_loop.training import train_challenger
from al_resources.labeling.projects.oracle import OracleLabeling
from al_resources.platform import Platform
from al_resources.settings import (
    DeploymentSettings,
    GateSettings,
    HoldoutSettings,
    LabelingSettings,
    SelectionSettings,
    ServingSettings,
    Settings,
)
from al_serving.batch import NamedFile, score_files
from al_serving.collector import Collector
from al_serving.scoring import Scorer

PNGS = digit_pngs()[:400]
BUDGET = 12
NOW = datetime.now(UTC)


def quiet(line: str) -> None:
    """Nobody listens."""


def settings_of(home: Path, *, frozen: bool, **selection: Any) -> Settings:
    truth = str(home / "truth.json")
    return Settings(
        home=home,
        labeling=LabelingSettings(project="oracle", oracle_labels=truth, classes=tuple("0123456789")),
        selection=SelectionSettings(**{"initial_budget": 100, "budget": BUDGET, **selection}),
        holdout=HoldoutSettings(reserve=0.4, share=0.3, validation_share=0.1),
        training=TrainingSettings(architecture="small_cnn", image_size=16, channels=1, epochs=5, frozen=frozen),
        serving=ServingSettings(log_embeddings=frozen),
        deployment=DeploymentSettings(watch_seconds=0),
        gate=GateSettings(duel_labels=4),
    )


def play(platform: Platform, round_: int, *, deploys: bool) -> None:
    """A round as the assets play it; one that does not deploy leaves its model a challenger."""
    chosen, _ = choose(platform, round_, Wishes(), quiet)
    stage(platform, round_, chosen, quiet)
    assert isinstance(platform.labeling, OracleLabeling)
    platform.labeling.answer(round_)
    merge_exports(platform, "", quiet)
    manifest = train_challenger(platform, publish_dataset(platform, round_), run_id="run", log=quiet)
    if deploys and (better := decide(platform, manifest).deploy):
        deploy(platform, better, run_id="run", log=quiet)


def with_a_challenger(home: Path, *, frozen: bool) -> Platform:
    """v1 serves and logged every digit, v2 is newer and not proven worse."""
    platform = Platform(settings_of(home, frozen=False))
    truth = {platform.images.put(png).image_id: label for png, label in PNGS}
    (home / "truth.json").write_text(json.dumps(truth))
    play(platform, 0, deploys=True)
    platform = Platform(settings_of(home, frozen=frozen))  # v2 has the encoder that v1 learned
    with Collector.of(platform) as collector:
        files = [NamedFile(str(number), lambda png=png: png) for number, (png, _) in enumerate(PNGS)]
        score_files(Scorer.of(platform, platform.registry.fetch(1), collector), files, collector)
        assert collector.flush()
    play(platform, 1, deploys=False)
    assert (platform.endpoint.state().serving_version, platform.registry.versions()) == (1, [1, 2])
    return platform


@pytest.fixture(scope="module", params=[False, True], ids=["trained whole", "frozen encoder"])
def platform(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Platform:
    return with_a_challenger(tmp_path_factory.mktemp("rescoring"), frozen=request.param)


def waiting(platform: Platform) -> int:
    return platform.predictions.count_eligible("classifier", 1, platform.settings.holdout.teaching)


def test_the_answers_are_those_of_the_asking_version(platform: Platform) -> None:
    found = rescored(platform, 2, 1, Order("margin"), 20, seed=3)
    rows = pl.DataFrame(found.rows)
    assert rows["image_id"].n_unique() == rows.height
    assert (rows["model_version"] == 2).all()
    predictor = predictor_of(platform, 2)
    own = predictor.classify(np.array(rows["embedding"].to_list(), np.float32))
    assert rows["probs"].to_list() == pytest.approx(own, abs=5e-3)  # embeddings are of half precision in the log
    if platform.settings.training.frozen:
        everything = pl.DataFrame(rescored(platform, 2, 1, Order("margin"), 10_000, seed=3).rows)
        assert everything.height == found.images == waiting(platform)
        best = everything.sort("margin", "image_id").head(20)
        assert rows["image_id"].to_list() == best["image_id"].to_list()
    else:
        assert rows.height == found.images == waiting(platform)


def test_what_may_be_scored_is_bounded_where_the_images_are_read_again(platform: Platform) -> None:
    few = Platform(settings_of(platform.settings.home, frozen=platform.settings.training.frozen, rescore_limit=BUDGET))
    found = rescored(few, 2, 1, Order("random", seed=1), 30, seed=1)
    expected = 30 if platform.settings.training.frozen else BUDGET
    assert (found.rows.num_rows, found.waiting) == (expected, waiting(platform))


def test_the_serving_version_asks_where_too_few_may_be_scored_and_the_round_says_so(platform: Platform) -> None:
    home, frozen = platform.settings.home, platform.settings.training.frozen
    rows, facts = preview(Platform(settings_of(home, frozen=frozen, rescore_limit=BUDGET - 1)), Wishes())
    assert set(rows.filter(reason="strategy")["model_version"]) == ({2} if frozen else {1})
    assert ("rescore_limit" in facts["asked by"]) is not frozen


def test_a_challenger_that_is_proven_worse_does_not_ask(platform: Platform) -> None:
    assert asking_version(platform, 1) == 2
    settings = settings_of(platform.settings.home, frozen=platform.settings.training.frozen)
    too_large = GateSettings(size_mb=1e-6)
    assert asking_version(Platform(settings.model_copy(update={"gate": too_large})), 1) == 1


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
def test_every_strategy_chooses_from_what_was_scored_again(platform: Platform, strategy: str) -> None:
    rows, facts = preview(platform, Wishes(strategy=strategy))
    asked = rows.filter(reason="strategy")
    assert asked.height > 0
    assert set(asked["model_version"]) == {2}
    assert facts["asked by"].startswith("v2, the newest")
    assert not platform.settings.holdout.judges.among(asked["image_id"].to_list())


def test_what_was_scored_again_says_so_and_is_no_traffic(platform: Platform) -> None:
    window = Window("classifier", NOW - timedelta(days=1), NOW + timedelta(days=1))
    before = platform.predictions.watermark(), ask(platform.predictions, "volume", window).rows()
    chosen, _ = choose(platform, 2, Wishes(), quiet)
    logged = pl.concat(pl.DataFrame(batch) for batch in platform.predictions.scan(PREDICTIONS.names, model_version=2))
    asked = chosen.filter(reason="strategy")
    assert set(logged["source"]) == {"rescore"}
    assert sorted(logged["prediction_id"]) == sorted(asked["prediction_id"])
    assert set(chosen.filter(reason="control")["model_version"]) == {1}
    after = platform.predictions.watermark(), ask(platform.predictions, "volume", window).rows()
    assert after == before
    assert platform.predictions.watermark("classifier", 2).rows == 0
    assert platform.predictions.count_eligible("classifier", 2) == 0
    assert [claim for claim in check_claims(platform) if not claim.holds] == []


def test_a_selection_that_was_killed_before_it_was_on_record_doubles_nothing(platform: Platform) -> None:
    found = rescored(platform, 2, 1, Order("margin"), 20, seed=0)
    batch = found.rows.slice(0, 5)
    for _ in range(2):
        found.record(platform, batch)
    logged = platform.predictions.rows_of(
        batch["image_id"].to_pylist(), ["prediction_id", "model_version", "embedding"]
    )
    rows = pl.DataFrame(logged).filter(model_version=2)
    assert sorted(rows["prediction_id"]) == sorted(batch["prediction_id"].to_pylist())
    assert rows["embedding"].is_null().all() is not platform.settings.serving.log_embeddings


@given(
    values=st.lists(st.tuples(st.integers(0, 15), st.integers(0, 5)), max_size=60),
    keep=st.integers(1, 12),
    size=st.integers(1, 9),
)
def test_the_first_of_a_stream_are_the_first_of_all_however_it_is_cut(
    values: list[tuple[int, int]], keep: int, size: int
) -> None:
    place_of = dict(values)  # equal images stand in equal places
    rows = pl.DataFrame(
        {"image_id": [f"{image:02d}" for image, _ in values], "n": [place_of[image] for image, _ in values]},
        schema={"image_id": pl.String, "n": pl.Int64},
    )
    first = _First(Order("margin"), keep, 1)
    for part in rows.iter_slices(size):
        embeddings = part["image_id"].cast(pl.Float32).to_numpy().reshape(-1, 1)
        first.add(part, embeddings, part["n"].to_numpy())
    expected = rows.unique("image_id").sort("n", "image_id").head(keep)
    found, embeddings = first.rows()
    assert found["image_id"].to_list() == expected["image_id"].to_list()
    assert embeddings[:, 0].tolist() == [float(image_id) for image_id in expected["image_id"]]


def test_a_stream_is_read_ahead_by_one_and_its_error_comes_in_its_place() -> None:
    made = []

    def stream() -> Iterator[int]:
        for number in range(3):
            made.append(number)
            yield number
        raise OSError("the disk is gone")

    coming = ahead(stream())
    seen = [next(coming) for _ in range(3)]
    with pytest.raises(OSError, match="the disk is gone"):
        next(coming)
    assert seen == made == [0, 1, 2]
    assert list(ahead([])) == []
