"""Which folders of the machine a run may read: whoever can start runs could have any file looked at."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest

from al_assets.prediction_log import prediction_log
from al_core.errors import GiveUp
from al_loop.scoring import permitted_folder
from al_resources.platform import Platform


def test_a_folder_in_a_permitted_one_is_read(tmp_path: Path) -> None:
    (tmp_path / "drop" / "today").mkdir(parents=True)
    for named in ("drop", "drop/today", "drop/../drop/today"):
        assert permitted_folder(str(tmp_path / named), [str(tmp_path / "drop")]) == (tmp_path / named).resolve()


@pytest.mark.parametrize("named", ["/etc", "drop/..", "dropped", "link", "/"])
def test_any_other_is_refused_with_the_way_out_links_included(tmp_path: Path, named: str) -> None:
    (tmp_path / "drop").mkdir()
    (tmp_path / "link").symlink_to("/etc")
    with pytest.raises(GiveUp, match=r"serving\.folders"):
        permitted_folder(str(tmp_path / named) if named[0] != "/" else named, [str(tmp_path / "drop")])


def test_without_permitted_folders_a_run_reads_none(platform: Platform, tmp_path: Path) -> None:
    with pytest.raises(dg.Failure, match=r"serving\.folders") as failed:
        dg.materialize(
            [prediction_log.of()],
            resources={"platform": platform},
            run_config={"ops": {"prediction_log": {"config": {"folder": str(tmp_path)}}}},
        )
    assert not failed.value.allow_retries
