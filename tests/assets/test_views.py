"""What people see of the log, summed up where it lies."""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path

import dagster as dg
import numpy as np
import pytest

from al_assets import views
from al_core.records import prediction_table, utc_now
from al_resources.platform import Platform
from al_resources.settings import Settings

sys.path.append(str(Path(__file__).parents[1] / "resources"))
from resource_adapters import LEDGER_STORES, PREDICTION_STORES


@pytest.mark.parametrize("store", PREDICTION_STORES)
def test_the_class_mix_is_that_of_the_serving_version_over_all_days(
    store: str, platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = PREDICTION_STORES[store](tmp_path, LEDGER_STORES[store](tmp_path))
    platform = platform.with_parts(predictions=log)
    drawn: list[np.ndarray] = []
    monkeypatch.setattr(views, "_bars", lambda _, values, __: drawn.append(values) or b"")
    sure, unsure = [1.0, 0.0], [0.48, 0.52]
    for days, model, version, probs in (
        (40, "classifier", 2, [sure, unsure]), (0, "classifier", 2, [sure]), (0, "classifier", 1, [unsure]),
        (0, "somebody else's", 2, [unsure]),
    ):  # fmt: skip
        log.append(
            prediction_table(
                image_ids=[f"{days + n:032x}" for n in range(len(probs))], image_uris=[""] * len(probs),
                image_hashes=[None] * len(probs), model_name=model, model_version=version, classes=("cat", "dog"),
                probs=np.array(probs, np.float32), source="online", logged_at=utc_now() - timedelta(days=days),
            )
        )  # fmt: skip
    mix = views.log_summary(platform, 2)["class mix"]
    assert isinstance(mix, dg.TableMetadataValue)
    assert [record.data for record in mix.records] == [
        {"predicted": "cat", "images": 2},
        {"predicted": "dog", "images": 1},
    ]
    assert drawn[0].tolist() == [0] * 10 + [1] + [0] * 8 + [2]


def test_an_empty_log_has_no_classes(platform: Platform) -> None:
    mix = views.log_summary(platform, 1)["class mix"]
    assert isinstance(mix, dg.TableMetadataValue)
    assert list(mix.records) == []


def test_the_batch_links_to_the_page_where_it_is_labeled(tmp_path: Path) -> None:
    page = {"public_url": "https://label.example.org"}
    platform = Platform(Settings.model_validate({"home": tmp_path, "labeling_page": page}))
    assert views.labeling_page(platform, 3)["label it here"].value == "https://label.example.org/?round=3"
    known = Platform(Settings.model_validate({"home": tmp_path, "labeling": {"project": "oracle"}}))
    assert views.labeling_page(known, 3) == {}
