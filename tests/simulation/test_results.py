"""The digits study of docs/results.md at a small size: inside the intervals that the full one found."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from al_core.learning.settings import TrainingSettings
from simulation.presets import training_defaults
from simulation.runner import run_study
from simulation.study import Study

# accuracy after 5 rounds of 10 (70 labels), wide enough for another machine's rounding
STORED = {"random": (0.83, 0.96), "margin": (0.89, 0.98)}


def test_digits_are_learned_as_the_results_say(tmp_path: Path):
    study = Study(
        data="digits",
        strategies=("random", "margin"),
        seeds=2,
        rounds=5,
        budget=10,
        initial=20,
        training=TrainingSettings(**training_defaults("digits"), device="cpu"),
    )
    table = run_study(study, tmp_path, workers=1)
    means = dict(table.filter(pl.col("round") == 5).group_by("strategy").agg(pl.col("accuracy").mean()).iter_rows())
    for strategy, (low, high) in STORED.items():
        assert low <= means[strategy] <= high, strategy
    assert means["margin"] > means["random"]
    first = table.filter(pl.col("round") == 0)["accuracy"]
    assert first.mean() == pytest.approx(0.65, abs=0.1)
