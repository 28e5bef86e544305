"""A process may be killed between any two effects: what is done again makes up for it, and doubles nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from serving_stores import png
from small_models import register_model

from al_core.records import DEPLOYMENTS, new_ids, table_of, utc_now
from al_loop import deploying
from al_loop.deploying import deploy, record_missing_promotion
from al_loop.scoring import score
from al_resources.endpoint.rollout import roll_out
from al_resources.platform import Platform
from al_resources.scratch import scratch_folder
from al_serving import collector as collector_module


class Killed(BaseException):
    """What no cleaning up survives."""


def promotions(platform: Platform) -> list[tuple[int, int | None]]:
    rows = platform.ledgers.read("deployments").filter(outcome="promoted")
    return rows.select("model_version", "previous_version").rows()


def promote(platform: Platform, version: int, previous: int | None) -> None:
    """A rollout that came to its end, row and all."""
    roll_out(platform.endpoint, version, smoke_images=[(png(1), None)], watch_seconds=0)
    row = {
        "deployment_id": new_ids(1)[0], "endpoint": platform.settings.deployment.endpoint, "outcome": "promoted",
        "model_name": platform.settings.model.name, "model_version": version, "previous_version": previous,
        "deployed_at": utc_now(),
    }  # fmt: skip
    platform.ledgers.insert_new("deployments", table_of(DEPLOYMENTS, [row]), ["deployment_id"])


@pytest.fixture
def smoke(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models of these tests were trained on no dataset, so there is no holdout to take smoke images from."""
    monkeypatch.setattr(deploying, "_smoke_images", lambda platform, manifest, count: [(png(1), None)])


@pytest.mark.usefixtures("smoke")
def test_a_rollout_killed_before_its_row_is_written_down_when_it_is_done_again(platform: Platform) -> None:
    first, second = register_model(platform, 1), register_model(platform, 2)
    promote(platform, first, None)
    roll_out(platform.endpoint, second, smoke_images=[(png(1), None)], watch_seconds=0)  # killed before its row
    said: list[str] = []
    result = deploy(platform, platform.registry.manifest(second), run_id="again", log=said.append)
    assert result.outcome == "already_serving"
    assert promotions(platform) == [(first, None), (second, first)]
    assert any("the ledger did not know" in line for line in said)
    deploy(platform, platform.registry.manifest(second), run_id="once more", log=said.append)
    assert len(promotions(platform)) == 2


@pytest.mark.usefixtures("smoke")
def test_a_row_that_was_lost_is_there_before_the_next_version_is_deployed(platform: Platform) -> None:
    first, second, third = (register_model(platform, seed) for seed in (1, 2, 3))
    promote(platform, first, None)
    roll_out(platform.endpoint, second, smoke_images=[(png(1), None)], watch_seconds=0)
    deploy(platform, platform.registry.manifest(third), run_id="next", log=lambda line: None)
    assert promotions(platform) == [(first, None), (second, first), (third, second)]


def test_a_rollout_in_the_middle_is_no_promotion(platform: Platform) -> None:
    first, second = register_model(platform, 1), register_model(platform, 2)
    promote(platform, first, None)
    platform.endpoint.create("green", second)
    platform.endpoint.set_traffic({"blue": 10, "green": 90})
    assert not record_missing_promotion(platform, run_id=None, log=lambda line: None)
    assert promotions(platform) == [(first, None)]


@pytest.mark.parametrize("chunks", [1, 2])
def test_a_batch_that_was_killed_is_scored_once(
    platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunks: int
) -> None:
    """Killed after some chunks, part of which has reached the log; the same run is started again."""
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(150):
        (folder / f"{number:03}.png").write_bytes(png(number))
    promote(platform, register_model(platform), None)
    seen = 0

    def kill(progress: object) -> None:
        nonlocal seen
        seen += 1
        if seen == chunks:
            raise Killed

    with pytest.raises(Killed):
        score(platform, folder=folder, key="run 1", log=lambda line: None, report=kill)
    before = platform.predictions.watermark().rows
    assert 0 < before < 150
    score(platform, folder=folder, key="run 1", log=lambda line: None)
    assert platform.predictions.watermark().rows == 150
    score(platform, folder=folder, key="run 1", log=lambda line: None)
    assert platform.predictions.watermark().rows == 150
    score(platform, folder=folder, key="run 2", log=lambda line: None)
    assert platform.predictions.watermark().rows == 300, "asked for anew, it is scored anew"


def test_a_batch_whose_rows_still_lie_in_the_spool_is_scored_once(
    platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(10):
        (folder / f"{number}.png").write_bytes(png(number))
    promote(platform, register_model(platform), None)
    with monkeypatch.context() as away:
        away.setattr(collector_module.Collector, "_deliver", _store_is_away)
        away.setattr(collector_module.Collector, "flush", lambda self, timeout=0: False)
        score(platform, folder=folder, key="run 1", log=lambda line: None)
    assert platform.predictions.watermark().rows == 0
    score(platform, folder=folder, key="run 1", log=lambda line: None)
    assert platform.predictions.watermark().rows == 10


def _store_is_away(self: object, segments: object) -> None:
    raise ConnectionError("the store is away")


def test_the_folder_of_a_killed_training_goes_and_that_of_a_living_one_stays(tmp_path: Path) -> None:
    killed = (
        "import os, sys; from pathlib import Path; from al_resources.scratch import scratch_folder\n"
        "with scratch_folder(Path(sys.argv[1]), 'train-') as folder:\n"
        "    (folder / 'weights').write_bytes(b'x'); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", killed, str(tmp_path)], check=False)
    (left,) = tmp_path.glob("train-*")
    assert (left / "weights").exists()
    with scratch_folder(tmp_path, "train-") as first, scratch_folder(tmp_path, "train-") as second:
        assert not left.exists()
        assert first.is_dir()
        assert second.is_dir()
    assert list(tmp_path.glob("train-*")) == []
