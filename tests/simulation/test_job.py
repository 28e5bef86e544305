"""The simulation as a job of the Dagster UI: one strategy and seed a run, compared with the runs before it."""

from __future__ import annotations

from typing import Any

import dagster as dg
import polars as pl
import pytest

from al_assets.definitions import build_definitions
from al_resources.platform import Platform
from simulation.runner import load_study

SMALL = {"initial": 20, "rounds": 2, "budget": 5, "score_sample": 40, "imbalance": 4}


def run(platform: Platform, strategy: str, seed: int = 0) -> Any:
    job = build_definitions(platform).resolve_job_def("simulation")
    config = {"ops": {"simulate": {"config": {"strategy": strategy, "seed": seed, **SMALL}}}}
    with dg.instance_for_test() as instance:
        return job.execute_in_process(run_config=config, instance=instance)


def test_runs_of_several_strategies_under_one_seed_add_up_to_a_comparison(platform: Platform) -> None:
    first = run(platform, "margin")
    second = run(platform, "random")
    assert first.output_for_node("simulate") == second.output_for_node("simulate")
    [finished] = second.filter_events(lambda event: event.is_successful_output)
    metadata = finished.step_output_data.metadata
    assert "margin" in metadata["comparison"].text
    assert metadata["curves"].md_str.startswith("![accuracy over labels](data:image/png;base64,")
    [study] = (platform.settings.home / "studies").iterdir()
    assert load_study(study).imbalance == 4
    table = pl.read_parquet(study / "results.parquet")
    assert table.group_by("strategy").len().sort("strategy").rows() == [("margin", 3), ("random", 3)]


def test_every_round_is_told_with_its_metrics_and_the_catalog_gains_no_asset(platform: Platform) -> None:
    done = run(platform, "margin", seed=1)
    assert not done.filter_events(lambda event: event.asset_key is not None)
    [finished] = done.filter_events(lambda event: event.is_successful_output)
    rounds = [record.data for record in finished.step_output_data.metadata["rounds"].records]
    assert [(row["round"], row["labels"]) for row in rounds] == [(0, 20), (1, 25), (2, 30)]
    assert all(0 <= row["accuracy"] <= 1 for row in rounds)


def test_the_launchpad_refuses_what_is_no_strategy(platform: Platform) -> None:
    with pytest.raises(dg.DagsterInvalidConfigError, match="nonsense"):
        run(platform, "nonsense")
