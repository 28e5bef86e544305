"""A round on the real assets, in this process: every strategy chooses from a real log, and says what it needs to."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import polars as pl
import pytest

from al_assets import views
from al_assets.definitions import build_definitions
from al_cli.digits import digit_pngs
from al_core.learning.settings import TrainingSettings
from al_core.strategies.cost_aware import CostAware
from al_core.strategies.k_center_greedy import KCenterGreedy
from al_core.strategies.registry import STRATEGIES
from al_loop.batch_facts import against_random
from al_loop.selecting import Wishes, configured_strategy, preview
from al_loop.strategy_inputs import strategy_context
from al_resources.labeling.projects.oracle import OracleLabeling
from al_resources.platform import Platform
from al_resources.settings import HoldoutSettings, LabelingSettings, SelectionSettings, ServingSettings, Settings
from al_serving.batch import NamedFile, score_files
from al_serving.collector import Collector
from al_serving.scoring import Scorer

BUDGET = 12


@pytest.fixture(scope="module")
def instance() -> Any:
    with dg.instance_for_test() as instance:
        yield instance


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory, instance: dg.DagsterInstance) -> tuple[Platform, dict[str, Any]]:
    """A platform after its seed round and a log of 240 digits; and the metadata of its first model."""
    home = tmp_path_factory.mktemp("digits")
    truth_file = home / "truth.json"
    platform = Platform(
        Settings(
            home=home,
            labeling=LabelingSettings(project="oracle", oracle_labels=str(truth_file), classes=tuple("0123456789")),
            selection=SelectionSettings(initial_budget=120, budget=BUDGET),
            holdout=HoldoutSettings(reserve=0.4, share=0.3, validation_share=0.1),
            training=TrainingSettings(architecture="small_cnn", image_size=16, channels=1, epochs=5),
            serving=ServingSettings(log_embeddings=True),
        )
    )
    pngs = digit_pngs()[:400]
    truth = {platform.images.put(png).image_id: label for png, label in pngs}
    truth_file.write_text(json.dumps(truth))
    run(platform, instance, "selection", 0)
    assert isinstance(platform.labeling, OracleLabeling)
    platform.labeling.answer(0)
    trained = run(platform, instance, "training_deployment", 0)
    version = platform.endpoint.state().serving_version
    assert version == 1
    with Collector.of(platform) as collector:
        files = [NamedFile(str(number), lambda png=png: png) for number, (png, _) in enumerate(pngs[:240])]
        score_files(Scorer.of(platform, platform.registry.fetch(version), collector), files, collector)
        assert collector.flush()
    [materialized] = trained.asset_materializations_for_node("model_checkpoint")
    return platform, {name: value.value for name, value in materialized.metadata.items()}


def run(platform: Platform, instance: dg.DagsterInstance, job: str, round_: int, config: Any = None) -> Any:
    key = f"{round_:04d}"
    instance.add_dynamic_partitions("round", [key])
    definitions = build_definitions(platform)
    done = definitions.resolve_job_def(job).execute_in_process(partition_key=key, instance=instance, run_config=config)
    assert done.success
    return done


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_every_strategy_fills_the_budget_with_what_the_log_and_the_models_give_it(digits, name: str):
    platform, _ = digits
    chosen, facts = preview(platform, Wishes(strategy=name))
    again, _ = preview(platform, Wishes(strategy=name))
    assert chosen["reason"].to_list() == ["strategy"] * (BUDGET - 1) + ["control"]
    assert chosen["image_id"].n_unique() == BUDGET
    assert chosen["image_id"].to_list() == again["image_id"].to_list()
    assert facts["budget"] == BUDGET


def test_the_launchpad_takes_a_strategy_with_its_own_settings(digits, instance: dg.DagsterInstance):
    platform, _ = digits
    config = {"strategy": "class_balanced", "strategy_settings": {"base": "entropy"}, "budget": 6}
    run(platform, instance, "selection", 1, {"ops": {"selected_candidates": {"config": config}}})
    chosen = platform.ledgers.read("selections", round=1)
    assert chosen.filter(reason="strategy")["strategy"].unique().to_list() == ["class_balanced"]
    assert chosen.height == 6


def test_the_page_of_the_log_begins_with_what_the_loop_waits_for(digits, instance: dg.DagsterInstance):
    platform, _ = digits
    done = run(platform, instance, "selection", 1)
    [log] = done.asset_materializations_for_node("prediction_log")
    assert next(iter(log.metadata)) == "the loop waits for"
    assert "candidates wait for a label" in str(log.metadata["the loop waits for"].value)
    assert platform.predictions.watermark("classifier", 1).rows >= 400 - 120, "the pool was scored"
    [chosen] = done.asset_materializations_for_node("selected_candidates")
    assert next(iter(chosen.metadata)) == "selected before"


def test_the_page_of_a_batch_says_what_why_and_how_it_differs_from_random(
    digits, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
):
    platform, _ = digits
    monkeypatch.setenv(views.PAGES_VARIABLE, "/loop/files")
    done = run(platform, instance, "selection", 1)
    [page] = done.asset_materializations_for_node("selected_candidates")
    assert "class_balanced:" in str(page.metadata["why"].value)
    sheet = str(page.metadata["contact sheet"].value)
    assert len(sheet) < 1000, "shown in place"
    [path] = re.findall(r"\(/loop/files/(reports/0001/contact_sheet\.png)\?", sheet)[:1]
    assert platform.blobs.read(path).startswith(b"\x89PNG")
    [log] = done.asset_materializations_for_node("prediction_log")
    assert log.metadata["predictions of the last 24 hours"].value >= 240
    assert log.metadata["images that wait for a prediction"].value == "0"


def test_a_batch_of_doubts_differs_from_a_random_one(digits):
    platform, _ = digits
    chosen, _ = preview(platform, Wishes(strategy="margin"))
    table = against_random(platform, chosen)
    margin = table.row(by_predicate=pl.col("what").str.starts_with("margin"), named=True)
    assert float(margin["batch"]) < float(margin["random"])
    assert against_random(platform, chosen.filter(reason="control")).is_empty()


def test_the_page_of_the_model_says_how_good_how_sure_and_against_whom(digits):
    _, metadata = digits
    names = list(metadata)
    assert names[0] == "accuracy, 95 % interval"
    assert re.fullmatch(r"0\.\d{3} \[0\.\d{3}, [01]\.\d{3}\] on the holdout", metadata[names[0]])
    assert metadata["holdout accuracy"] == round(metadata["holdout accuracy"], 4)
    assert metadata["against parent"] == "it has no parent"
    for figure in ("learning curve", "confusion matrix", "calibration"):
        assert "](data:image/png;base64," in metadata[figure], "no web server of ours hands it out"


def test_labels_are_told_by_what_changed_and_by_what_they_corrected(digits, instance: dg.DagsterInstance):
    platform, _ = digits
    platform.labeling.answer(1)
    done = run(platform, instance, "training_deployment", 1)
    [labels] = done.asset_materializations_for_node("labeled_dataset")
    changed = [record.data for record in labels.metadata["what changed"].records]
    assert sum(row["new"] for row in changed) == 6
    assert labels.metadata["new labels"].value == 6
    assert "labeling_page.overlap" in str(labels.metadata["agreement"].value)
    [model] = done.asset_materializations_for_node("model_checkpoint")
    rows = {row.data["reason"]: row.data for row in model.metadata["against random"].records}
    assert rows["strategy"]["labels"] + rows["control"]["labels"] == 6
    assert "holdout images" in str(model.metadata["against parent"].value)
    [served] = done.asset_materializations_for_node("deployment")
    assert "serving since" in served.metadata
    assert list(served.metadata)[:2] == ["who serves", "why"]


def test_the_launchpad_offers_the_strategies_by_name_and_refuses_another(digits, instance: dg.DagsterInstance):
    platform, _ = digits
    config = {"ops": {"selected_candidates": {"config": {"strategy": "nonsense"}}}}
    with pytest.raises(dg.DagsterInvalidConfigError, match="nonsense"):
        run(platform, instance, "selection", 2, config)


def test_what_a_class_costs_comes_from_the_labels_times(digits, monkeypatch: pytest.MonkeyPatch):
    platform, _ = digits
    slow = platform.ledgers.read("labels")
    seconds = [30.0 if label == "8" else 3.0 for label in slow["label"]]
    with_times = slow.with_columns(annotation_seconds=np.array(seconds))
    monkeypatch.setattr(platform.ledgers, "read", lambda name, **_: with_times)
    strategy = CostAware().given(strategy_context(platform, 1))
    assert isinstance(strategy, CostAware)
    assert strategy.seconds is not None
    assert strategy.seconds[8] > 3 * strategy.seconds[1]


def test_embeddings_of_labeled_images_and_their_distances_are_kept_for_the_next_round(
    digits, monkeypatch: pytest.MonkeyPatch
):
    platform, _ = digits
    first, _ = preview(platform, Wishes(strategy="k_center_greedy"))

    def nothing_left_to_compute(_platform: Any, _predictor: Any, images: list[Any]) -> Any:
        assert not images
        return [], np.empty((0, 10), np.float32), np.empty((0, 64), np.float32)

    monkeypatch.setattr("al_loop.strategy_inputs.answers_of", nothing_left_to_compute)
    second, _ = preview(platform, Wishes(strategy="k_center_greedy"))
    assert second["image_id"].to_list() == first["image_id"].to_list()
    strategy = configured_strategy(platform, Wishes()).given(strategy_context(platform, 1))
    assert not isinstance(strategy, KCenterGreedy)  # margin keeps nothing
    assert list(Path(platform.settings.home, "cache", "selection").glob("distances.npz"))


def test_strategies_see_all_that_teaches_in_the_order_in_which_the_labels_came(digits):
    platform, _ = digits
    dataset = platform.datasets.latest()
    assert dataset is not None
    teaching = {image.image_id for split in ("train", "validation") for image in dataset.images(split)}
    assert len({image.image_id for image in dataset.images("validation")}) > 0
    seen = strategy_context(platform, 1).labeled.image_ids.tolist()
    arrived = [image_id for image_id in platform.ledgers.read("labels")["image_id"] if image_id in teaching]
    assert seen == arrived
    assert seen != sorted(seen), "the order of hashes says nothing about what came first"


def test_a_broken_cache_is_computed_again(digits):
    platform, _ = digits
    first, _ = preview(platform, Wishes(strategy="k_center_greedy"))
    for file in Path(platform.settings.home, "cache", "selection").rglob("*.npz"):
        file.write_bytes(file.read_bytes()[:100])
    second, _ = preview(platform, Wishes(strategy="k_center_greedy"))
    assert second["image_id"].to_list() == first["image_id"].to_list()


def test_a_model_says_what_the_next_round_will_probably_bring(digits):
    _, metadata = digits
    assert metadata["next round"] == "too early to say what more labels bring: 1 rounds with random images"
    assert metadata["worth another round"] is True
