"""The power of a real disk is cut while a loop works on it; whatever was acknowledged is there when it is back.

The disk is an ext4 file system in a file. It is shut down as `xfstests` does it (`godown`): from that moment on nothing
reaches it, neither data nor journal, whatever the kernel still has in memory. Its image is copied then, checked by
e2fsck, mounted, and looked at. The next cut goes on with that copy.
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest
from leaving_out import leave_out
from resource_adapters import coco, image, prediction_rows
from small_models import register_model

from al_cli.digits import digit_pngs
from al_core.records import SELECTIONS, table_of
from al_loop.claims import check_claims
from al_loop.deploying import record_missing_promotion
from al_loop.labeling import merge_exports, publish_dataset
from al_resources import delta_durability
from al_resources.endpoint.rollout import roll_out
from al_resources.platform import Platform
from al_resources.settings import Settings

pytestmark = [pytest.mark.slow, pytest.mark.live, pytest.mark.timeout(1800)]

CUTS = int(os.environ.get("POWER_CUTS", "20"))
SEED = int(os.environ.get("POWER_CUTS_SEED", "1"))
GOING_DOWN, WITHOUT_THE_JOURNAL = 0x8004587D, 2  # FS_IOC_SHUTDOWN and its strictest flag, of linux/fs.h
REQUIRED = "REQUIRE_POWER_CUTS"
MEGABYTES = 256
IMAGES = 8  # of a round


# ---------------------------------------------------------------------- the disk
@contextmanager
def mounted(disk: Path, folder: Path) -> Iterator[Path]:
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", "loop", disk, folder], check=True, capture_output=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True, capture_output=True)


def cut_the_power(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.ioctl(handle, GOING_DOWN, struct.pack("I", WITHOUT_THE_JOURNAL))
    finally:
        os.close(handle)


@pytest.fixture
def disk(request: pytest.FixtureRequest) -> Iterator[Path]:
    """The image of an empty file system. Where none can be had the test is left out, and says why."""
    if os.geteuid() != 0:
        leave_out(request, "power cuts of a disk: only root mounts a file system", REQUIRED)
    if missing := [name for name in ("mkfs.ext4", "e2fsck", "mount", "umount") if shutil.which(name) is None]:
        leave_out(request, f"power cuts of a disk: no {', '.join(missing)}; install e2fsprogs and mount", REQUIRED)
    with tempfile.TemporaryDirectory(prefix="power-cut-", dir="/var/tmp") as name:  # pytest's own may lie in memory
        file = Path(name) / "disk.img"
        with file.open("wb") as content:
            content.truncate(MEGABYTES << 20)
        subprocess.run(["mkfs.ext4", "-q", "-F", file], check=True)
        try:
            with mounted(file, file.with_name("mounted")) as folder:
                cut_the_power(folder)
        except (subprocess.CalledProcessError, OSError) as error:
            leave_out(request, f"power cuts of a disk, which this machine mounts or shuts down not: {error}", REQUIRED)
        yield file


# ---------------------------------------------------------------------- the loop on it
def work(home: Path, seed: int, acknowledge: Callable[[str, Any], None]) -> None:
    """Rounds without an end: each step is acknowledged when it returned."""
    chance, platform = random.Random(seed), Platform(Settings(home=home))
    picture = digit_pngs()[0][0]
    number = 1 + max(platform.ledgers.read("selections")["round"].to_list(), default=-1)
    while True:
        ids = [image(IMAGES * number + n) for n in range(IMAGES)]
        rows = [{"round": number, "image_id": one, "image_uri": f"{one}.png", "reason": "seed"} for one in ids]
        platform.ledgers.insert_new("selections", table_of(SELECTIONS, rows), ["image_id"])
        acknowledge("selected", ids)
        logged = prediction_rows([{"image_id": one} for one in ids])
        platform.predictions.append(logged)
        acknowledge("predicted", logged["prediction_id"].to_pylist())
        answers = {one: chance.choice(["cat", "dog"]) for one in ids}
        path = f"labeling/exports/{number}.json"
        platform.blobs.write(path, coco(answers))
        acknowledge("delivered", path)
        merge_exports(platform, path, lambda line: None)
        acknowledge("labeled", answers)
        acknowledge("dataset", publish_dataset(platform, number).manifest.version)
        version = register_model(platform, seed=number, training_key=f"of round {number}", round=number)
        acknowledge("model", version)
        roll_out(platform.endpoint, version, smoke_images=[(picture, None)], watch_seconds=0)
        record_missing_promotion(platform, run_id=None, log=lambda line: None)
        acknowledge("serving", version)
        number += 1


def main() -> None:
    def acknowledge(kind: str, what: Any) -> None:
        print(json.dumps([kind, what]), flush=True)

    work(Path(sys.argv[1]), int(sys.argv[2]), acknowledge)


def acknowledged(output: IO[str]) -> Iterator[tuple[str, Any]]:
    for line in output:
        if line.startswith("["):
            kind, what = json.loads(line)
            yield kind, what


# ---------------------------------------------------------------------- the test
def test_what_was_acknowledged_is_there_after_the_power_was_cut(
    disk: Path, record_property: Callable[[str, object], None]
) -> None:
    chance, folder = random.Random(SEED), disk.parent / "mounted"
    said: dict[str, list[Any]] = {}
    for cut in range(CUTS):
        with mounted(disk, folder):
            begin_and_cut(folder, seed=cut, after=chance.uniform(0, 4), said=said)
        found = disk.with_name(f"{cut}.img")
        shutil.copyfile(disk, found)
        disk.unlink()
        checked = subprocess.run(["e2fsck", "-p", found], check=False, capture_output=True, text=True)
        assert checked.returncode in (0, 1), checked.stdout
        disk = found
        with mounted(disk, folder):
            delta_durability._looked_at.clear()
            assert_all_is_there(Platform(Settings(home=folder / "home")), said, f"cut {cut}, seed {SEED}")
    print({kind: len(what) for kind, what in said.items()})
    record_property("tries", CUTS)
    assert len(said["serving"]) > 1, "it came as far as to serve"


def begin_and_cut(folder: Path, *, seed: int, after: float, said: dict[str, list[Any]]) -> None:
    """Let it work, cut the power so many seconds after the first acknowledgement; `said` gains all of these."""
    command = [sys.executable, __file__, str(folder / "home"), str(seed)]
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parent.parent), *sys.path])
    environment = os.environ | {"PYTHONPATH": path}
    log = folder.with_name("work.log")
    with (
        log.open("w") as errors,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment, cwd="/"
        ) as process,
    ):
        assert process.stdout is not None
        lines = acknowledged(process.stdout)
        first = next(lines, None)
        assert first is not None, log.read_text()
        time.sleep(after)
        cut_the_power(folder)
        process.kill()
        for kind, what in [first, *lines]:
            said.setdefault(kind, []).append(what)


def assert_all_is_there(platform: Platform, said: dict[str, list[Any]], when: str) -> None:
    ledgers = platform.ledgers
    selected = [one for ids in said.get("selected", []) for one in ids]
    assert set(selected) <= set(ledgers.read("selections")["image_id"]), when
    predicted = {one for ids in said.get("predicted", []) for one in ids}
    there = platform.predictions.rows_of(selected, ["prediction_id"])["prediction_id"].to_pylist()
    assert predicted <= set(there), when
    assert len(there) == len(set(there)), when
    for path in said.get("delivered", []):
        assert platform.blobs.read(path), when
    labels = ledgers.read("labels").select("image_id", "label").rows()
    answered = [row for answers in said.get("labeled", []) for row in answers.items()]
    assert set(answered) <= set(labels), when
    assert len(labels) == len(set(labels)), when
    assert set(said.get("dataset", [])) <= {manifest.version for manifest in platform.datasets.manifests()}, when
    for version in said.get("model", []):
        assert platform.registry.fetch(version), when
    promoted = ledgers.read("deployments", outcome="promoted")["model_version"].to_list()
    assert said.get("serving", []) == [version for version in promoted if version in said.get("serving", [])], when
    if served := said.get("serving"):
        assert (platform.endpoint.state().serving_version or 0) >= served[-1], when
    finish_what_was_interrupted(platform)
    broken = [claim for claim in check_claims(platform) if not claim.holds]
    assert [claim for claim in broken if claim.claim != "nothing waits for a person"] == [], when


def finish_what_was_interrupted(platform: Platform) -> None:
    """What the runs that Dagster starts again do."""
    merge_exports(platform, "", lambda line: None)
    record_missing_promotion(platform, run_id=None, log=lambda line: None)


if __name__ == "__main__":
    main()
