"""The checkers: each tells what contradicts its claim, and is silent where it holds."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from resource_adapters import image
from small_models import register_model

from al_cli.doctor import doctor
from al_core.records import DEPLOYMENTS, EXPORTS, LABELS, SELECTIONS, new_ids, table_of, utc_now
from al_loop.claims import CLAIMS, check_claims
from al_resources.platform import Platform


def broken(platform: Platform) -> dict[str, tuple[str, ...]]:
    return {claim.claim: claim.contradictions for claim in check_claims(platform) if not claim.holds}


def add(platform: Platform, ledger: str, schema: Any, key: str, **row: Any) -> None:
    platform.ledgers.insert_new(ledger, table_of(schema, [row]), [key])


def test_an_empty_home_contradicts_nothing(platform: Platform) -> None:
    assert broken(platform) == {}


def test_a_file_that_a_killed_process_left_half_is_told_and_one_being_written_is_not(platform: Platform) -> None:
    folder = platform.settings.home / "blobs" / "images"
    folder.mkdir(parents=True)
    left, written = folder / f".{'a' * 16}.tmp", folder / f".{'b' * 16}.tmp"
    left.write_bytes(b"half")
    written.write_bytes(b"half")
    os.utime(left, (0, 0))
    (found,) = broken(platform)["nothing waits for a person"]
    assert str(left) in found
    assert "delete it" in found


def test_labels_of_an_export_that_is_not_on_record_are_told(platform: Platform) -> None:
    add(platform, "labels", LABELS, "label", image_id=image(1), label="cat", export_id="e1", answer=0)
    (found,) = broken(platform)["every export is merged once"]
    assert found == "1 labels of export e1 are there, and its merge is not on record yet"


def test_labels_that_are_fewer_than_on_record_are_told(platform: Platform) -> None:
    add(platform, "exports", EXPORTS, "path", export_id="e1", path="a", etag="1", status="merged", new_labels=3)
    add(platform, "labels", LABELS, "label", image_id=image(1), label="cat", export_id="e1", answer=0)
    assert broken(platform)["every export is merged once"] == ("export e1 is on record with 3 labels, and 1 are there",)


def test_an_answer_that_is_there_twice_is_told(platform: Platform) -> None:
    add(platform, "exports", EXPORTS, "path", export_id="e1", path="a", etag="1", status="merged", new_labels=2)
    for second in range(2):
        row = {"image_id": image(1), "annotator": "ann", "label": "cat", "export_id": "e1", "answer": 0}
        add(platform, "labels", LABELS, "confidence", **row, confidence=second / 2)
    (found,) = broken(platform)["every export is merged once"]
    assert "the answer 'cat' of ann" in found
    assert "2 times" in found


def test_a_selection_without_its_prediction_is_told(platform: Platform) -> None:
    add(platform, "selections", SELECTIONS, "image_id", round=1, image_id=image(1), prediction_id="p1")
    (found,) = broken(platform)["every selected image has its prediction"]
    assert "was chosen on prediction p1, which the log does not have" in found


def test_what_serves_without_a_row_and_what_was_deployed_twice_are_told(platform: Platform) -> None:
    claim = "no version is deployed twice, and what serves is on record"
    version = register_model(platform)
    platform.endpoint.create("blue", version)
    platform.endpoint.set_traffic({"blue": 100})
    assert broken(platform)[claim] == (
        "v1 serves, and the last promotion on record is none; materialize deployment again",
    )
    for _ in range(2):
        row = {"endpoint": platform.settings.deployment.endpoint, "model_version": 1, "outcome": "promoted"}
        add(
            platform,
            "deployments",
            DEPLOYMENTS,
            "deployment_id",
            deployment_id=new_ids(1)[0],
            deployed_at=utc_now(),
            **row,
        )
    assert broken(platform)[claim] == ("v1 was deployed twice in a row",)


def test_a_manifest_that_was_changed_is_told(platform: Platform) -> None:
    register_model(platform)
    path = f"models/{platform.settings.model.name}/1/manifest.json"
    changed = json.loads(platform.blobs.read(path))
    changed["classes"] = changed["classes"][::-1]
    platform.blobs.write(path, json.dumps(changed).encode())
    (found,) = broken(platform)["every model is as it was published"]
    assert "was changed" in found


def test_commits_that_were_set_aside_are_told(platform: Platform) -> None:
    torn = platform.settings.home / "tables" / "labels" / "_torn"
    torn.mkdir(parents=True)
    (torn / "00000000000000000002.json").write_bytes(b"")
    (found,) = broken(platform)["nothing waits for a person"]
    assert "nobody was promised it" in found


@pytest.mark.parametrize("whole", [True, False])
def test_al_doctor_checks_them_when_asked(platform: Platform, monkeypatch: pytest.MonkeyPatch, whole: bool) -> None:
    home: Path = platform.settings.home
    monkeypatch.setenv("AL_HOME", str(home))
    if not whole:
        add(platform, "labels", LABELS, "label", image_id=image(1), label="cat", export_id="e1", answer=0)
    result = CliRunner().invoke(doctor, ["--check", "--json"])
    checks = {check["name"]: check for check in json.loads(result.stdout)["checks"]}
    assert set(CLAIMS) <= set(checks)
    assert checks["every export is merged once"]["ok"] is whole
    if not whole:
        assert result.exit_code == 1
