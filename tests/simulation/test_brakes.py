"""`al simulate --deploy`: what judging costs is part of a study, by the code that decides in production."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pytest
from small_study import small_study, write_images

from al_core.dataset import build_dataset
from al_core.judging.truth import Reserve
from simulation.brakes import Brakes
from simulation.report import write_report
from simulation.runner import run_study
from simulation.study import BrakeSettings, Study

BRAKES = BrakeSettings(reserve=0.5, share=0.5, duel_labels=2, tolerance=0.2)
TOOK = pl.selectors.matches("_seconds$")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"), per_class=60)


@pytest.fixture(scope="module")
def finished(images: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Path, pl.DataFrame]:
    folder = tmp_path_factory.mktemp("study")
    study = small_study(images, deploy=BRAKES, initial=24, rounds=4)
    return study, folder, run_study(study, folder, workers=1)


def lines(folder: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (folder / "runs" / name / "rounds.jsonl").read_text().splitlines()]


def test_every_strategy_pays_the_same_labels_and_judges_never_teach(finished) -> None:
    study, folder, table = finished
    assert table.group_by("round").agg(pl.col("images_asked").n_unique())["images_asked"].to_list() == [1] * 5
    for run in study.runs():
        reserve = Reserve(BRAKES.reserve, f"simulation {run.seed}")
        for line in lines(folder, run.name):
            for image_id, reason in zip(line["selected"], line["reasons"], strict=True):
                role = {"control": "measure", "duel": "duel", "strategy": "teach"}.get(reason)
                assert role is None or reserve.holds(image_id, role)  # type: ignore[arg-type]


def test_the_deployed_model_is_one_that_was_trained_and_never_newer(finished) -> None:
    _, folder, table = finished
    for row in table.to_dicts():
        if row["deployed_round"] is None:
            assert row["deployed_accuracy"] == 0
            continue
        assert row["deployed_round"] <= row["round"]
        run = lines(folder, f"{row['strategy']}-{row['start']}-{row['seed']:03d}")
        assert row["deployed_accuracy"] == run[row["deployed_round"]]["accuracy"]


def test_stopped_and_started_again_it_gives_the_same_numbers(finished, images: Path, tmp_path: Path) -> None:
    study, _, table = finished
    run_study(study.model_copy(update={"seeds": 1}), tmp_path, workers=1)
    file = tmp_path / "runs" / "margin-warm-000" / "rounds.jsonl"
    file.write_text("".join(line + "\n" for line in file.read_text().splitlines()[:3]))
    # the checkpoint of the last line is there, as it is when a run is stopped between two rounds
    again = run_study(study.model_copy(update={"seeds": 1}), tmp_path, workers=1)
    key = ["strategy", "seed", "round"]
    first = table.filter(seed=0).drop(TOOK).sort(key)
    assert first.select(again.drop(TOOK).columns).equals(again.drop(TOOK).sort(key))


def test_the_report_says_what_a_label_buys(finished, tmp_path: Path) -> None:
    _, folder, table = finished
    summary = write_report(folder, table, pictures=False)
    assert "What a label buys" in (folder / "report.md").read_text()
    margin = summary["deployed"]["warm"]["margin"]
    assert margin["labels paid"] == 24 + 4 * 4
    assert margin["of these judge"] > 0


def test_a_study_without_brakes_keeps_its_name(images: Path) -> None:
    plain = small_study(images)
    assert plain.key != small_study(images, deploy=BRAKES).key
    assert "deploy" not in json.loads(plain.model_dump_json(exclude_none=True))


@pytest.mark.parametrize(("mistakes", "serves"), [(4, 0), (5, 1)])
def test_the_usual_way_is_a_sign_test_on_the_holdout_and_until_it_speaks_the_old_model_asks(
    mistakes: int, serves: int
) -> None:
    ids = [hashlib.blake2b(b"%d" % number, digest_size=16).hexdigest() for number in range(500)]
    held_out: list[str] = []

    def answer(model: int, images: Sequence[str]) -> list[str]:
        return ["b" if model == 0 and one in held_out[:mistakes] else "a" for one in images]

    brakes = Brakes(BrakeSettings(reserve=0.5, judged_by="holdout"), 0, answer, dict.fromkeys(ids), ids)
    held_out = brakes.reserve.among(ids, "measure")[:30]
    labeled = build_dataset(
        pl.DataFrame({"image_id": held_out, "label": ["a"] * 30, "round": [1] * 30}),
        reasons=dict.fromkeys(held_out, "control"),
        urls={one: one for one in held_out},
        hashes={},
        parent=None,
        reserve=brakes.reserve,
        validation_share=0.1,
        near_duplicate_distance=-1,
        round_=1,
    )
    brakes.saw(0, ids)
    brakes.decide(0, labeled, held_out)
    assert brakes.serving == 0
    assert brakes.asking(1, labeled, held_out) == 0
    assert brakes.duels(1, labeled, held_out, 20) == []
    brakes.decide(1, labeled, held_out)
    assert brakes.serving == serves
