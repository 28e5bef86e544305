"""A round's writes fail one after the other; whatever one failed, the round done again ends as if nothing had been.

The layer under the ports counts what reaches the disk: syncs, renames, links, commits of tables. At the n-th it raises
an error, or kills the process, or kills it and loses or tears what was not synced yet, as file systems may (ALICE,
OSDI 2014).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from failing_disk import FailingDisk, Killed
from resource_adapters import coco, image
from small_models import register_model

from al_core.records import SELECTIONS, table_of
from al_loop.claims import check_claims
from al_loop.deploying import record_missing_promotion
from al_loop.labeling import merge_exports, publish_dataset
from al_resources import delta_durability
from al_resources.endpoint.rollout import roll_out
from al_resources.platform import Platform
from al_resources.settings import Settings

EXPORT = "labeling/exports/1.json"
STRIDE = int(os.environ.get("FAIL_EVERY", "13"))  # 1 tries every write; `make test` tries some, others at each mode


def prepared(home: Path) -> Settings:
    settings = Settings(home=home)
    rows = [
        {"round": 0, "image_id": image(n), "image_uri": f"images/{n}.png", "image_hash": f"{n:032x}", "reason": "seed"}
        for n in range(8)
    ]
    Platform(settings).ledgers.insert_new("selections", table_of(SELECTIONS, rows), ["image_id"])
    return settings


def do_round(platform: Platform, picture: bytes) -> None:
    """From the export to the traffic, but for the training itself."""
    platform.blobs.write(EXPORT, coco({image(n): "cat" if n % 2 else "dog" for n in range(8)}), if_absent=True)
    merge_exports(platform, EXPORT, lambda line: None)
    publish_dataset(platform, 0)
    version = register_model(platform, training_key="the same training")
    roll_out(platform.endpoint, version, smoke_images=[(picture, None)], watch_seconds=0)
    record_missing_promotion(platform, run_id=None, log=lambda line: None)


def outcome(platform: Platform) -> dict[str, Any]:
    promoted = platform.ledgers.read("deployments").select("outcome", "previous_version")
    return {
        "labels": sorted(platform.ledgers.read("labels").select("image_id", "label", "annotator").rows()),
        "exports": platform.ledgers.read("exports").select("status", "new_labels").rows()[:1],
        "datasets": [manifest.version for manifest in platform.datasets.manifests()],
        "promotions": promoted.rows(),
        "models": len(platform.registry.versions()),
    }


@pytest.fixture(autouse=True)
def _forgetful() -> Iterator[None]:
    yield
    delta_durability._looked_at.clear()


@pytest.mark.parametrize(("start", "mode"), enumerate(["error", "kill", "lost", "torn"], start=1))
def test_whatever_write_fails_the_round_done_again_ends_as_if_nothing_had_been(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    png: bytes,
    start: int,
    mode: str,
    record_property: Callable[[str, object], None],
) -> None:
    undisturbed = Platform(prepared(tmp_path / "undisturbed"))
    with monkeypatch.context() as counting:
        disk = FailingDisk(counting, at=1 << 60, mode=mode)
        do_round(undisturbed, png)
    writes, expected = disk.count, outcome(undisturbed)
    print(f"{writes} writes, mode {mode}")
    tried = range(1 + (start - 1) % STRIDE, writes + 1, STRIDE)
    record_property("tries", len(tried))
    for at in tried:
        settings = prepared(tmp_path / str(at))
        with monkeypatch.context() as failing:
            disk = FailingDisk(failing, at, mode)
            with suppress(Killed, Exception):  # whatever it becomes on its way up
                do_round(Platform(settings), png)
        disk.cut_the_power()
        delta_durability._looked_at.clear()
        again = Platform(settings)
        do_round(again, png)
        assert outcome(again) == expected, f"write {at} of {writes}"
        broken = [
            claim for claim in check_claims(again) if not claim.holds and claim.claim != "nothing waits for a person"
        ]
        assert broken == [], f"write {at} of {writes}"
