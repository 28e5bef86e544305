"""`make demo` as the README shows it, from the first round to the last."""

from __future__ import annotations

import json
from typing import Any

import pytest
from running_al import run_al

pytestmark = [pytest.mark.slow, pytest.mark.live, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the demo printed."""
    home = tmp_path_factory.mktemp("demo") / "home"
    done = run_al("demo", "--home", str(home), "--port", "0", "--json", timeout=3000)
    assert done.returncode == 0, done.stderr
    printed: dict[str, Any] = json.loads(done.stdout)
    return printed


def test_at_most_420_labels_are_paid(result: dict[str, Any]) -> None:
    assert result["what_labels_bought"][-1]["paid"] <= 420


def test_the_last_deployed_model_is_right_on_985_of_1000(result: dict[str, Any]) -> None:
    assert result["what_labels_bought"][-1]["deployed_accuracy"]["value"] >= 0.985


def test_who_serves_is_at_most_one_round_behind_the_best(result: dict[str, Any]) -> None:
    bought = result["what_labels_bought"]
    best = max(row["model_accuracy"]["value"] for row in bought[:-1])
    assert bought[-1]["deployed_accuracy"]["value"] >= best - 0.005, "four of some 900 images are luck"
