"""What a study promises: the same code as production, pairs, resumption, one tidy table."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from click.testing import CliRunner
from pydantic import ValidationError
from safetensors.torch import save_file
from small_study import small_study, write_images

from al_cli.simulate import simulate
from al_core.errors import ActiveLearningError
from al_core.learning.embedding import Embedder
from al_core.learning.networks import preprocessing_for
from al_core.learning.settings import TrainingSettings
from al_core.strategies.auto import Auto
from al_core.strategies.base import Labeled, QueryStrategy
from simulation import experiment
from simulation.annotators import OracleSettings
from simulation.datasets import BadData, load_data
from simulation.experiment import Experiment, embed_once, load_prepared
from simulation.pretraining import pretrain
from simulation.report import write_report
from simulation.runner import RunsFailed, StudyMismatch, load_study, run_study
from simulation.study import BrakeSettings, PretrainSettings, Run, Study

# what differs between two machines or checkouts
INCIDENTAL = pl.selectors.matches("^(train|select|score|evaluate)_seconds$|^code_version$")


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def finished(images, tmp_path_factory) -> tuple[Study, Path, pl.DataFrame]:
    folder = tmp_path_factory.mktemp("study")
    study = small_study(images)
    return study, folder, run_study(study, folder, workers=1)


def lines(folder: Path, run: Run) -> list[dict]:
    return [json.loads(line) for line in (folder / "runs" / run.name / "rounds.jsonl").read_text().splitlines()]


def numbers(table: pl.DataFrame) -> pl.DataFrame:
    return table.drop(INCIDENTAL)


def test_the_table_has_a_row_per_strategy_seed_and_round_that_names_its_origin(finished):
    study, folder, table = finished
    assert table.height == 2 * 2 * 3
    assert table.select("strategy", "start", "seed", "round").is_unique().all()
    assert table["images_asked"].to_list()[:3] == [8, 12, 16]
    assert set(table["study"]) == {study.key}
    assert table["code_version"].is_not_null().all()
    assert table["data_version"].n_unique() == 1
    assert pl.read_parquet(folder / "results.parquet").equals(table)
    assert pl.read_csv(folder / "results.csv").height == table.height
    recall = pl.read_parquet(folder / "recall.parquet")
    assert set(recall["class"]) == {"across", "down", "spots"}


def test_strategies_of_one_seed_share_first_labels_traffic_and_test_set(finished):
    _, folder, table = finished
    first = table.filter(pl.col("round") == 0).sort("seed")
    for seed in (0, 1):
        one, other = (lines(folder, Run(strategy=name, start="warm", seed=seed)) for name in ("random", "margin"))
        assert one[0]["selected"] == other[0]["selected"]
        assert one[0]["accuracy"] == other[0]["accuracy"]
        assert one[1]["selected"] != other[1]["selected"]
    assert (
        lines(folder, Run(strategy="random", start="warm", seed=0))[0]["selected"]
        != lines(folder, Run(strategy="random", start="warm", seed=1))[0]["selected"]
    )
    assert first["labels"].to_list() == [8] * 4


def test_no_image_is_asked_for_twice_and_test_images_never(finished):
    from simulation.datasets import load_data

    study, folder, _ = finished
    for run in study.runs():
        asked = [image for line in lines(folder, run) for image in line["selected"]]
        assert len(asked) == len(set(asked)) == 16
        _, test = load_data(study.data).split(run.seed, study.test_images)
        assert not set(asked) & {image.image_id for image in test}


def test_a_finished_study_is_not_done_again(finished):
    study, folder, table = finished
    seen = []
    again = run_study(study, folder, workers=1, progress=lambda done, total: seen.append((done, total)))
    assert again.equals(table)
    assert seen == [(12, 12)]


def test_a_study_can_grow_by_strategies_and_seeds(finished, images, tmp_path):
    study = small_study(images, seeds=1, strategies=("random",))
    run_study(study, tmp_path, workers=1)
    grown = run_study(small_study(images, seeds=1, strategies=("margin",)), tmp_path, workers=1)
    assert set(load_study(tmp_path).strategies) == {"random", "margin"}
    assert set(grown["strategy"]) == {"random", "margin"}
    whole = finished[2].filter(seed=0)
    assert numbers(grown).equals(numbers(whole))


def test_killed_and_started_again_it_gives_the_same_table(finished, tmp_path):
    study, _, expected = finished
    code = (
        "import sys\n"
        "from pathlib import Path; from simulation.runner import run_study; from simulation.study import Study\n"
        "run_study(Study.model_validate_json(sys.argv[1]), Path(sys.argv[2]), workers=1)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, study.model_dump_json(), str(tmp_path)])
    last = Run(strategy="margin", start="warm", seed=0)
    deadline = time.monotonic() + 120
    while not (tmp_path / "runs" / last.name / "rounds.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    broken = tmp_path / "runs" / last.name / "rounds.jsonl"
    broken.write_text(broken.read_text() + '{"strategy": "mar')  # as if killed while writing
    assert numbers(run_study(study, tmp_path, workers=1)).equals(numbers(expected))


def test_it_outlives_the_shell_that_started_it(images, tmp_path, monkeypatch):
    monkeypatch.setattr("simulation.runner.os.getppid", itertools.count(100).__next__)
    study = small_study(images, seeds=1, strategies=("random",))
    assert run_study(study, tmp_path, workers=1).height == study.rounds + 1


def test_in_several_processes_it_gives_the_same_table(finished, tmp_path):
    study, _, expected = finished
    assert numbers(run_study(study, tmp_path, workers=2)).equals(numbers(expected))


def test_another_study_in_the_same_folder_is_refused(finished, images):
    with pytest.raises(StudyMismatch, match="budget is 4 there and 5 now; choose another --output"):
        run_study(small_study(images, budget=5), finished[1], workers=1)


def test_without_return_scored_images_do_not_come_back(images, tmp_path):
    study = small_study(images, seeds=1, strategies=("margin",), return_unselected=False, rounds=3)
    folder = tmp_path / "whole"
    table = run_study(study, folder, workers=1)
    run = study.runs()[0]
    rows = lines(folder, run)
    cut = tmp_path / "cut"
    run_study(study.model_copy(update={"strategies": ("random",)}), cut, workers=1)
    place = cut / "runs" / run.name
    place.mkdir()
    kept = "".join(json.dumps(line) + "\n" for line in rows[:2])
    (place / "rounds.jsonl").write_text(kept)
    (folder / "runs" / run.name / "model-001").rename(place / "model-001")
    resumed = run_study(study, cut, workers=1).filter(strategy="margin")
    assert numbers(resumed).equals(numbers(table))


def test_every_strategy_runs(images, tmp_path):
    from al_core.strategies.registry import STRATEGIES

    study = small_study(images, seeds=1, strategies=tuple(sorted(STRATEGIES)), rounds=2, near_duplicate_distance=-1)
    table = run_study(study, tmp_path, workers=1)
    assert set(table["strategy"]) == set(STRATEGIES)
    assert table.filter(round=2)["images_asked"].unique().to_list() == [16]


def test_wrong_and_unsure_answers_reach_the_training(images, tmp_path):
    oracle = OracleSettings(noise=0.4, abstention=0.3)
    table = run_study(small_study(images, seeds=1, oracle=oracle), tmp_path, workers=1)
    last = table.filter(round=2)
    assert (last["wrong_labels"] > 0).all()
    assert (last["labels"] < last["images_asked"]).all()
    assert (last["label_seconds"] > 0).all()


def test_a_control_slice_is_part_of_every_batch(images, tmp_path):
    study = small_study(images, seeds=1, strategies=("margin",), control_share=0.5)
    run_study(study, tmp_path, workers=1)
    assert lines(tmp_path, study.runs()[0])[1]["reasons"] == ["strategy"] * 2 + ["control"] * 2


def test_a_frozen_encoder_is_learned_on_the_pool_and_embeds_once(images, tmp_path):
    said: list[str] = []
    study = small_study(
        images,
        training=TrainingSettings(image_size=8, channels=1, frozen=True, device="cpu"),
        pretrain=PretrainSettings(epochs=2, batch_size=16),
        starts=("warm", "cold"),
        seeds=1,
    )
    table = run_study(study, tmp_path, workers=1, say=said.append)
    assert any(line.startswith("pretraining, epoch 2/2") for line in said)
    assert (tmp_path / "images" / "embeddings.npy").exists()
    assert not (tmp_path / "pretraining.safetensors").exists()
    warm, cold = (table.filter(start=start)["accuracy"].to_list() for start in ("warm", "cold"))
    assert warm == pytest.approx(cold, abs=0.07)  # the head is a convex problem: where it starts hardly matters
    assert set(table["study"]) == {study.key}
    write_report(tmp_path, table, pictures=False)
    assert "| margin | cold - warm | " in (tmp_path / "report.md").read_text()


def test_pretraining_goes_on_where_it_was_stopped(tmp_path):
    class Killed(Exception):
        pass

    def say(line: str) -> None:
        if line.startswith("pretraining, epoch 2/4"):
            raise Killed

    pixels = torch.randint(0, 256, (40, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    training = TrainingSettings(image_size=8, channels=1, device="cpu")
    preprocessing = preprocessing_for(training.architecture, size=8, channels=1)
    settings = PretrainSettings(epochs=4, batch_size=16)
    whole = pretrain(pixels, preprocessing, training, settings, lambda line: None)
    state = tmp_path / "state.safetensors"
    with pytest.raises(Killed):
        pretrain(pixels, preprocessing, training, settings, say, state)
    said: list[str] = []
    resumed = pretrain(pixels, preprocessing, training, settings, said.append, state)
    assert said[0].startswith("pretraining, epoch 3/4")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_a_run_that_cannot_go_on_is_named_and_the_others_are_kept(images, tmp_path):
    wild = TrainingSettings(image_size=8, channels=1, epochs=2, device="cpu", learning_rate=1e30)
    with pytest.raises(RunsFailed, match=r"2 of 2 runs stopped:\n  random-warm-000: InvalidInput: training diverged"):
        run_study(small_study(images, seeds=1, training=wild), tmp_path, workers=1)


def test_fewer_images_than_the_labels_asked_for_is_an_error(images, tmp_path):
    with pytest.raises(BadData, match=r"leaves a pool of 90 images beside the test set, .* need 408; ask for fewer"):
        run_study(small_study(images, rounds=100), tmp_path, workers=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strategies": ("nonsense",)}, "no strategy is called 'nonsense'"),
        ({"budget": 50}, "a budget of 50 cannot be chosen from 20 scored images"),
        ({"training": TrainingSettings(frozen=True)}, "a frozen encoder needs weights"),
    ],
)
def test_a_study_that_makes_no_sense_is_refused(images, changes, message):
    with pytest.raises(ValidationError, match=message):
        small_study(images, **changes)


# ---------------------------------------------------------------- the report


def test_the_report_is_one_file_that_loads_nothing(finished, tmp_path):
    _, folder, table = finished
    summary = write_report(folder, table)
    page = (folder / "report.html").read_text()
    assert "http://www.w3.org/2000/svg" in page
    assert not re.search(r"""(src|href)=["']?https?:""", page)
    assert "<!--" not in page.replace("<!doctype", "")
    assert "margin, round 1" in page
    data = json.loads(page.split('type="application/json">')[1].split("</script>")[0])
    assert "recall of spots" in data["metrics"]
    assert [line["name"] for line in data["starts"]["warm"]["calibration error"]["lines"]] == [
        "random",
        "margin",
    ]
    text = (folder / "report.md").read_text()
    assert "## Who beats whom" in text
    assert summary["conclusions"]["warm"] in text
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_report_says_round_by_round_how_far_ahead_of_random_a_strategy_is(finished):
    _, folder, table = finished
    write_report(folder, table, pictures=False)
    report = (folder / "report.md").read_text()
    after = report.partition("## Over random by round")[2].partition("##")[0]
    shown = {int(line.split("|")[1]): line for line in after.splitlines() if re.match(r"\| \d", line)}
    assert set(shown) == {1, 2}
    for round_, line in shown.items():
        means = dict(table.filter(round=round_).group_by("strategy").agg(pl.col("accuracy").mean()).iter_rows())
        assert f"{100 * (means['margin'] - means['random']):+.1f} [" in line


def test_a_study_without_random_has_its_report_but_nothing_to_conclude(images, tmp_path):
    table = run_study(small_study(images, seeds=1, rounds=1, strategies=("margin",)), tmp_path, workers=1)
    summary = write_report(tmp_path, table, pictures=False)
    assert "a study needs random sampling" in summary["conclusions"]["warm"]
    assert "Accuracy by round" in (tmp_path / "report.md").read_text()


def test_class_names_cannot_break_the_page(tmp_path):
    evil = "<script>alert(1)<"
    write_images(tmp_path / "images", 30, ("across", "down"))
    (tmp_path / "images" / "across").rename(tmp_path / "images" / evil)
    study = small_study(tmp_path / "images", seeds=1, test_images=10)
    write_report(tmp_path / "study", run_study(study, tmp_path / "study", workers=1))
    assert evil not in (tmp_path / "study" / "report.html").read_text()


def test_the_command_runs_a_study_and_says_who_wins(images, tmp_path):
    arguments = [
        "--data", f"imagefolder:{images}", "--strategy", "random", "--strategy", "entropy", "--seeds", "1",
        "--rounds", "1", "--budget", "3", "--initial", "6", "--score-sample", "10", "--test-images", "20",
        "--train", "image_size=8", "--train", "channels=1", "--train", "epochs=1", "--train", "device=cpu",
        "--noise", "0.1", "--noise", "spots=0.3", "--annotators", "2", "--seconds-per-label", "8",
        "--imbalance", "4", "--validation-share", "0", "--workers", "1", "--output", str(tmp_path), "--json",
    ]  # fmt: skip
    result = CliRunner().invoke(simulate, arguments)
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert set(summary["strategies"]["warm"]) == {"random", "entropy"}
    assert (tmp_path / "report.html").exists()
    people = load_study(tmp_path).oracle
    assert people == OracleSettings(noise=0.1, class_noise={"spots": 0.3}, annotators=2, seconds_per_label=8)
    assert (load_study(tmp_path).imbalance, load_study(tmp_path).validation_share) == (4, 0)
    assert "the rarest class of the pool is 4 times rarer" in (tmp_path / "report.md").read_text()


def test_what_was_learned_on_the_pool_is_trained_further_in_small_steps(images, tmp_path):
    arguments = [
        "--data", f"imagefolder:{images}", "--strategy", "random", "--seeds", "1", "--rounds", "1", "--budget", "3",
        "--initial", "6", "--score-sample", "10", "--test-images", "20", "--train", "image_size=8", "--train",
        "channels=1", "--train", "epochs=1", "--train", "device=cpu", "--workers", "1", "--pretrain", "1",
    ]  # fmt: skip
    result = CliRunner().invoke(simulate, [*arguments, "--output", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert load_study(tmp_path).training.learning_rate == 1e-3
    faster = CliRunner().invoke(simulate, [*arguments, "--output", str(tmp_path), "--train", "learning_rate=0.002"])
    assert "holds another study" in str(faster.exception)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--strategy", "nonsense"], "no strategy is called 'nonsense'"),
        (["--score-sample", "5"], "Error: a budget of 50 cannot be chosen from 5 scored images"),
        (["--data", "imagefolder:/nowhere"], "there is no /nowhere"),
        (["--train", "epoch=3"], "training.epoch: Extra inputs are not permitted"),
        (["--train", "epochs"], "'epochs' is no KEY=VALUE"),
        (["--frozen"], "a frozen encoder needs weights"),
        (["--rounds", "500"], "leaves a pool of 1297 images"),
        (["--rounds", "60", "--imbalance", "20"], "leaves a pool of 4"),
        (["--imbalance", "1000"], "leaves none of the"),
        (["--noise", "0.1", "--noise", "0.2"], "0.1 and 0.2 for all classes; give one"),
        (["--noise", "7=1.5"], "class_noise.7: Input should be less than 1"),
        (["--noise", "seven=0.1"], "class_noise names ['seven']"),
    ],
)
def test_the_command_says_what_is_wrong(arguments, message, tmp_path):
    result = CliRunner().invoke(simulate, [*arguments, "--output", str(tmp_path)])
    assert result.exit_code != 0
    # what a person can mend ends as one line in `al_cli.main.main`, which stands around the command
    assert isinstance(result.exception, SystemExit | ActiveLearningError)
    assert message in " ".join(f"{result.output} {result.exception}".split())


def chosen_by(study: Study, folder: Path, strategy: str) -> list[str]:
    run_study(study, folder, workers=1)
    return [line["selected"] for line in lines(folder, Run(strategy=strategy, start=study.starts[0], seed=0))][-1]


def test_cost_aware_asks_for_what_is_quickly_answered_where_classes_differ(images, tmp_path):
    quick, slow = {"across": 1.0}, {"down": 60.0, "spots": 60.0}
    study = small_study(
        images, strategies=("margin", "cost_aware"), seeds=1, rounds=1, initial=24, budget=8, score_sample=60,
        training=TrainingSettings(image_size=8, channels=1, epochs=10, device="cpu"),
        oracle=OracleSettings(class_seconds=quick | slow),
    )  # fmt: skip
    run_study(study, tmp_path / "study", workers=1)
    by_margin, by_cost = (set(chosen_by(study, tmp_path / "study", name)) for name in ("margin", "cost_aware"))
    assert by_cost != by_margin


def test_auto_in_a_study_sees_the_labels_in_the_order_in_which_they_came(images, tmp_path, monkeypatch):
    seen: list[list[str]] = []
    plan = Auto.plan

    def watched(self: Auto, labeled: Labeled) -> QueryStrategy:
        seen.append(labeled.image_ids.tolist())
        return plan(self, labeled)

    monkeypatch.setattr(Auto, "plan", watched)
    study = small_study(images, strategies=("random", "auto"), seeds=1, rounds=2, validation_share=0.4)
    run_study(study, tmp_path, workers=1)
    asked = [line["selected"] for line in lines(tmp_path, Run(strategy="auto", start=study.starts[0], seed=0))]
    assert seen == [asked[0], asked[0] + asked[1]], "all labels so far, validation images too, oldest first"


# ---------------------------------------------------------------- a frozen encoder that others trained


@pytest.fixture
def published(tmp_path) -> TrainingSettings:
    """A tiny encoder of torchvision's kind, its weights in a file."""
    from al_core.learning.networks import build_network

    torch.manual_seed(0)
    network = build_network("small_cnn", classes=2, size=8, channels=1)
    file = tmp_path / "encoder.safetensors"
    save_file({name: value.contiguous() for name, value in network.encoder.state_dict().items()}, file)
    return TrainingSettings(image_size=8, channels=1, device="cpu", frozen=True, weights=str(file))


def test_a_frozen_encoder_embeds_once_without_keeping_pixels_and_goes_on_where_it_was_stopped(
    images, tmp_path, published, monkeypatch
):
    monkeypatch.setattr(experiment, "CHUNK", 50)
    data = load_data(f"imagefolder:{images}")
    embed_once(data, published, tmp_path / "whole", lambda line: None)
    whole = np.load(tmp_path / "whole" / "embeddings.npy")
    assert whole.shape[0] == len(data.images)
    assert not (tmp_path / "whole" / "pixels.npy").exists()

    class Killed(Exception):
        pass

    chunks = Embedder.embed_pixels

    def dies(self: Embedder, pixels: torch.Tensor) -> np.ndarray:
        if (tmp_path / "again" / "embedding.json").exists():
            raise Killed
        return chunks(self, pixels)

    monkeypatch.setattr(Embedder, "embed_pixels", dies)
    with pytest.raises(Killed):
        embed_once(data, published, tmp_path / "again", lambda line: None)
    monkeypatch.setattr(Embedder, "embed_pixels", chunks)
    said: list[str] = []
    embed_once(data, published, tmp_path / "again", said.append)
    assert said[0].startswith(f"embedding {len(data.images) - 50} of {len(data.images)} images")
    np.testing.assert_array_equal(whole, np.load(tmp_path / "again" / "embeddings.npy"))
    hashes = json.loads((tmp_path / "again" / "hashes.json").read_text())
    assert hashes.keys() == {image.image_id for image in data.images}


def test_first_labels_cover_the_images_for_all_but_random_sampling(images, tmp_path, published):
    study = small_study(images, seeds=1, rounds=1, training=published, strategies=("random", "margin", "uherding"))
    run_study(study, tmp_path / "study", workers=1)
    first = {name: set(first_of(study, tmp_path / "study", name)) for name in study.strategies}
    assert first["margin"] == first["uherding"] != first["random"]
    study = study.model_copy(update={"seed_pool": 0})
    run_study(study, tmp_path / "at random", workers=1)
    drawn = [set(first_of(study, tmp_path / "at random", name)) for name in study.strategies]
    assert drawn == [first["random"]] * 3


def test_the_report_maps_where_each_strategy_asked_on_the_frozen_encoders_embeddings(images, tmp_path, published):
    study = small_study(images, seeds=1, rounds=2, training=published, strategies=("random", "margin"))
    write_report(tmp_path, run_study(study, tmp_path, workers=1))
    maps = (tmp_path / "report.html").read_text().split('<section class="emap">')[1:]
    asked = [sum(len(line["selected"]) for line in lines(tmp_path, run)) for run in study.runs()]
    assert [found.count('r="6"') for found in maps] == asked
    assert len({found.count("<circle") for found in maps}) == 1, "all strategies on the same images"
    assert all("not scored (0)" in found for found in maps), "the last model says what it doubts"


def first_of(study, folder, strategy) -> list[str]:
    return lines(folder, Run(strategy=strategy, start=study.starts[0], seed=0))[0]["selected"]


def test_with_few_labels_the_head_is_offered_the_pool_but_neither_labels_nor_judges(images, tmp_path, published):
    study = small_study(images, seeds=1, rounds=1, training=published, strategies=("margin",), deploy=BrakeSettings())
    run_study(study, tmp_path / "study", workers=1)
    run = Run(strategy="margin", start=study.starts[0], seed=0)
    prepared = load_prepared(load_data(study.data), tmp_path / "study" / "images")
    played = Experiment(study, run, prepared, tmp_path / "study" / "runs" / run.name, published)
    list(played.resume())
    waiting = {one for one in played.pool if one not in played.selected} - set(
        played.brakes.reserve.among(sorted(played.pool))
    )
    offered = played._unlabeled("", 10_000)
    known = prepared.embeddings[[prepared.row[one] for one in sorted(waiting)]]
    np.testing.assert_array_equal(np.sort(offered, axis=0), np.sort(known, axis=0))
    assert len(played._unlabeled("", 5)) == 5
