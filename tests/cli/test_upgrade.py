"""A home that an earlier version wrote: it opens, tells the same, and the loop goes on. A newer one is refused.

`tests/homes/1.0.tar.gz` was written by the code before formats had numbers (its `al status --json` lies in it):
60 digits of a seed round labeled, trained and deployed, 120 scored, and a round of 10 staged.
"""

from __future__ import annotations

import json
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest

from al_assets.definitions import build_definitions
from al_core.errors import GiveUp
from al_core.records import ModelManifest
from al_loop.status import progress
from al_resources.format_versions import CURRENT, FILE, check_version, upgrade_steps, version_of
from al_resources.platform import Platform
from al_resources.settings import load_settings

Al = Callable[..., subprocess.CompletedProcess[str]]
OLD = Path(__file__).parents[1] / "homes" / "1.0.tar.gz"


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the old home's al.toml, with the settings that lead there."""
    with tarfile.open(OLD) as archive:
        archive.extractall(tmp_path, filter="data")
    folder = tmp_path / "oldhome"
    monkeypatch.setenv("AL_CONFIG", str(folder / "al.toml"))
    monkeypatch.chdir(folder)
    return folder


def told_then(folder: Path) -> dict[str, object]:
    return json.loads((folder / "status.json").read_text())


def test_an_old_home_tells_what_it_told_then(old: Path) -> None:
    then, now = told_then(old), progress(Platform(load_settings()))
    for fact in (
        "images",
        "predictions",
        "labels",
        "waiting_for_labels",
        "exports",
        "champion",
        "traffic",
        "deployments",
    ):
        assert now[fact] == then[fact], fact
    rounds = then["rounds"]
    assert isinstance(rounds, list)
    for row_then, row_now in zip(rounds, now["rounds"], strict=True):
        assert {name: row_now[name] for name in row_then} == row_then


def test_a_round_of_an_old_home_goes_on_and_the_next_one_is_chosen(old: Path) -> None:
    platform = Platform(load_settings())
    before = platform.datasets.latest()
    assert before is not None
    held_out = set(before.rows.filter(split="holdout")["image_id"])
    platform.labeling.answer(1)  # type: ignore[attr-defined]
    with dg.instance_for_test() as instance:
        instance.add_dynamic_partitions("round", ["0001", "0002"])
        definitions = build_definitions(platform)
        trained = definitions.resolve_job_def("training_deployment").execute_in_process(
            partition_key="0001", instance=instance, raise_on_error=False
        )
        [materialized] = trained.asset_materializations_for_node("model_checkpoint")
        assert materialized.metadata["model version"].value == 2
        chosen = definitions.resolve_job_def("selection").execute_in_process(partition_key="0002", instance=instance)
        assert chosen.success
    assert platform.ledgers.read("selections", round=2).height > 0
    after = platform.datasets.latest()
    assert after is not None
    assert held_out
    assert held_out <= set(after.rows.filter(split="holdout")["image_id"]), "the holdout that was there stays"


def test_upgrade_says_first_what_it_would_do_and_has_nothing_to_do_the_second_time(old: Path, al: Al) -> None:
    planned = json.loads(al("upgrade", "--dry-run", "--json").stdout)
    assert planned["steps"][-1] == f"note format {CURRENT} (it was 1.0)"
    assert version_of(Platform(load_settings()).blobs) < CURRENT, "a dry run changes nothing"
    assert json.loads(al("upgrade", "--json").stdout)["done"]
    platform = Platform(load_settings())
    assert version_of(platform.blobs) == CURRENT
    assert upgrade_steps(platform) == []
    assert "up to date" in al("upgrade").stdout


def test_a_home_of_a_newer_major_version_is_refused_by_name(old: Path, al: Al) -> None:
    platform = Platform(load_settings())
    platform.blobs.write(FILE, b'{"major": 9, "minor": 2, "something": "new"}')
    refused = al("status")
    assert refused.returncode == 1
    assert "this home has format 9.2, this code knows formats up to 1.x" in refused.stderr
    platform.blobs.write(FILE, f'{{"major": {CURRENT.major}, "minor": 99}}'.encode())
    assert check_version(platform.blobs).minor == 99, "a newer minor version is read"
    platform.blobs.write(FILE, b"nonsense")
    with pytest.raises(GiveUp, match=r"format\.json does not say which format"):
        check_version(platform.blobs)


def test_a_manifest_with_fields_of_a_newer_version_is_read(old: Path) -> None:
    [file] = old.glob("data/blobs/models/digits/1/manifest.json")
    newer = json.loads(file.read_text()) | {"a_field_of_the_future": {"x": 1}}
    assert ModelManifest.model_validate(newer) == ModelManifest.model_validate_json(file.read_text())
