"""Searching: what resembles pictures, a class or a text, found in the log of the serving model and asked for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from al_cli.digits import digit_pngs
from al_cli.find import find as command
from al_core.errors import GiveUp, InvalidInput
from al_core.learning.networks import build_network
from al_core.learning.settings import TrainingSettings
from al_loop.answering import predictor_of
from al_loop.deploying import decide, deploy
from al_loop.labeling import merge_exports, publish_dataset
from al_loop.searching import Query, find, searched, stage
from al_loop.selecting import Wishes, choose, preview
from al_loop.selecting import stage as stage_round
from al_loop.training import train_challenger, unlabeled_embeddings
from al_resources.labeling.projects.oracle import OracleLabeling
from al_resources.platform import Platform
from al_resources.settings import (
    DeploymentSettings,
    HoldoutSettings,
    LabelingSettings,
    SelectionSettings,
    ServingSettings,
    Settings,
)
from al_serving.batch import NamedFile, score_files
from al_serving.collector import Collector
from al_serving.scoring import Scorer

PNGS = digit_pngs()[:300]


def quiet(line: str) -> None:
    """Nobody listens."""


def settings_of(home: Path) -> Settings:
    return Settings(
        home=home,
        labeling=LabelingSettings(
            project="oracle", oracle_labels=str(home / "truth.json"), classes=tuple("0123456789")
        ),
        selection=SelectionSettings(initial_budget=100, budget=12),
        holdout=HoldoutSettings(reserve=0.3, share=0.3, validation_share=0.1),
        training=TrainingSettings(architecture="small_cnn", image_size=16, channels=1, epochs=6),
        serving=ServingSettings(log_embeddings=True),
        deployment=DeploymentSettings(watch_seconds=0),
    )


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Platform:
    """v1 serves and logged every digit, with embeddings."""
    home = tmp_path_factory.mktemp("searching")
    platform = Platform(settings_of(home))
    (home / "truth.json").write_text(json.dumps({platform.images.put(png).image_id: label for png, label in PNGS}))
    chosen, _ = choose(platform, 0, Wishes(), quiet)
    stage_round(platform, 0, chosen, quiet)
    assert isinstance(platform.labeling, OracleLabeling)
    platform.labeling.answer(0)
    merge_exports(platform, "", quiet)
    manifest = train_challenger(platform, publish_dataset(platform, 0), run_id="run", log=quiet)
    better = decide(platform, manifest).deploy
    assert better is not None
    deploy(platform, better, run_id="run", log=quiet)
    with Collector.of(platform) as collector:
        files = [NamedFile(str(number), lambda png=png: png) for number, (png, _) in enumerate(PNGS)]
        score_files(Scorer.of(platform, platform.registry.fetch(1), collector), files, collector)
        assert collector.flush()
    return platform


def truth(platform: Platform) -> dict[str, str]:
    return json.loads((platform.settings.home / "truth.json").read_text())


@pytest.fixture
def seven(tmp_path: Path) -> Path:
    file = tmp_path / "seven.png"
    file.write_bytes(next(png for png, label in PNGS if label == "7"))
    return file


def test_the_nearest_images_that_nobody_was_asked_about_come_first(platform: Platform, seven: Path) -> None:
    found = find(platform, Query(like=(seven,)), 10)
    log = pl.concat(
        [pl.DataFrame(batch) for batch in platform.predictions.scan(["image_id", "image_key", "embedding"])]
    )
    asked = set(platform.ledgers.read("selections")["image_id"])
    teach = log.filter(platform.settings.holdout.teaching.filter(pl.col("image_key"))).unique("image_id")
    teach = teach.filter(~pl.col("image_id").is_in(asked))
    rows = np.array(teach["embedding"].to_list(), np.float32)
    [image] = [png for png, _ in PNGS if png == seven.read_bytes()]
    from al_core.images import decode_stored_image

    asked_for = predictor_of(platform, 1).predict_with_embeddings([decode_stored_image(image, name="7", channels=1)])[
        1
    ][0]
    cosines = rows @ asked_for / np.linalg.norm(rows, axis=1) / np.linalg.norm(asked_for)
    assert found.looked_at == teach.height
    np.testing.assert_allclose(found.rows["score"], np.sort(cosines)[::-1][:10], atol=1e-3)
    sevens = [truth(platform)[one] == "7" for one in found.rows["image_id"]]
    assert np.mean(sevens) > 0.5, "a tenth by chance"


def test_a_class_is_searched_for_by_its_labels(platform: Platform) -> None:
    found = find(platform, Query(class_name="0"), 8)
    assert np.mean([truth(platform)[one] == "0" for one in found.rows["image_id"]]) > 0.5


def test_what_cannot_be_searched_for_says_why_and_what_helps(platform: Platform, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="nothing is searched for"):
        find(platform, Query(), 5)
    with pytest.raises(InvalidInput, match="knows no class 'ten'; expected one of"):
        find(platform, Query(class_name="ten"), 5)
    with pytest.raises(InvalidInput, match="small_cnn knows no text; search by pictures"):
        find(platform, Query(text="a seven"), 5)
    with pytest.raises(GiveUp, match="no model is deployed"):
        find(Platform(settings_of(tmp_path)), Query(class_name="0"), 5)


def test_what_is_staged_takes_half_of_the_next_batch_and_the_rest_waits(
    platform: Platform, seven: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = find(platform, Query(like=(seven,)), 9)
    assert stage(platform, found, 9) == 9
    assert stage(platform, found, 2) == 2, "searched for twice, asked for once"
    wanted = found.rows["image_id"].to_list()
    assert [row["image_id"] for row in searched(platform, 100)] == wanted
    batch, facts = choose(platform, 1, Wishes(), quiet)
    by_search = batch.filter(reason="search")
    assert set(by_search["image_id"]) <= set(wanted)
    assert 1 <= by_search.height <= 6
    assert facts["searched for"] == by_search.height
    assert batch.height == batch["image_id"].n_unique() == 12
    judges = platform.settings.holdout.judges.among(batch["image_id"].to_list())
    assert not set(judges) & set(by_search["image_id"])
    assert {row["image_id"] for row in searched(platform, 100)} == set(wanted) - set(batch["image_id"])

    monkeypatch.setattr("al_cli.find.open_platform", lambda: platform)
    sheet = tmp_path / "found.png"
    run = CliRunner().invoke(command, ["--like", str(seven), "--limit", "3", "--stage", "1", "--sheet", str(sheet)])
    assert run.exit_code == 0, run.output
    assert sheet.read_bytes().startswith(b"\x89PNG")
    assert CliRunner().invoke(command, []).exit_code == 2


def test_with_a_pretrained_encoder_the_first_round_covers_the_images_and_says_what_it_waits_for(
    tmp_path: Path,
) -> None:
    torch.manual_seed(0)
    network = build_network("small_cnn", classes=2, size=16, channels=1)
    file = tmp_path / "encoder.safetensors"
    save_file({name: value.contiguous() for name, value in network.encoder.state_dict().items()}, file)
    settings = settings_of(tmp_path)
    training = settings.training.model_copy(update={"weights": str(file)})
    platform = Platform(settings.model_copy(update={"training": training}))
    for png, _ in PNGS:
        platform.images.put(png)
    said: list[str] = []
    batch, facts = choose(platform, 0, Wishes(budget=40), said.append)
    taught = batch.filter(strategy="typiclust")
    assert (batch.height, taught.height, set(taught["reason"])) == (40, 28, {"seed"})
    judges = batch.filter(strategy="random")["image_id"].to_list()
    assert platform.settings.holdout.judges.among(judges) == judges
    assert facts["first images"] == "those that teach cover what small_cnn tells apart"
    assert said[0].endswith("images with small_cnn, to choose the first ones by coverage")


def test_without_the_encoder_the_first_round_is_drawn_and_says_why(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    training = settings.training.model_copy(update={"weights": str(tmp_path / "gone.safetensors")})
    platform = Platform(settings.model_copy(update={"training": training}))
    for png, _ in PNGS[:50]:
        platform.images.put(png)
    batch, facts = preview(platform, Wishes(budget=10))
    assert set(batch["strategy"]) == {"random"}
    assert str(facts["first images"]).startswith("drawn at random, for the encoder cannot be had")


def test_a_head_of_few_labels_is_offered_what_the_champion_embedded_and_nobody_labeled(platform: Platform) -> None:
    encoder = predictor_of(platform, 1).encoder_hash
    offered = unlabeled_embeddings(platform, 1, encoder, 20)
    assert offered.shape == (20, predictor_of(platform, 1).dimension)
    everything = unlabeled_embeddings(platform, 1, encoder, 10_000)
    waiting = platform.predictions.count_eligible("classifier", 1, platform.settings.holdout.teaching)
    assert len(everything) == waiting, "neither labels nor reserved images are among them"
    assert len(unlabeled_embeddings(platform, 1, "another encoder", 20)) == 0, "embeddings of two encoders never mix"
    assert len(unlabeled_embeddings(platform, None, encoder, 20)) == 0, "before the first model nothing is embedded"
