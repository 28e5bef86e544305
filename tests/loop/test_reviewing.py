"""Labels that are probably wrong come back to people, blind, until that stops paying."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import dagster as dg
import numpy as np
import polars as pl
import pytest

from al_assets.checks import MOST_SUSPICIOUS, labels_look_right
from al_cli.digits import digit_pngs
from al_core.images import decode_image
from al_core.records import LABELS, SELECTIONS, prediction_table, table_of, utc_now
from al_loop.labeling import publish_dataset
from al_loop.reviewing import labels_to_review, review_is_over, reviewed, suspicious_labels
from al_resources.platform import Platform
from al_resources.settings import LabelingSettings, Settings

DIGITS = tuple("0123456789")
IMAGES, WRONG = 300, 30


@pytest.fixture(scope="module")
def labeled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Platform, dict[str, str], set[str]]:
    """A platform whose dataset has one wrong label in ten; the truth, and which are wrong."""
    platform = Platform(
        Settings(
            home=tmp_path_factory.mktemp("home"),
            labeling=LabelingSettings(project="page", classes=DIGITS, review_share=0.2, review_floor=0.3),
        )
    )
    pngs = dict(digit_pngs()[:400])
    stored = [(platform.images.put(png), label) for png, label in list(pngs.items())[:IMAGES]]
    truth = {image.image_id: label for image, label in stored}
    ids = list(truth)
    generator = np.random.default_rng(0)
    wrong = {ids[place] for place in generator.choice(IMAGES, WRONG, replace=False)}
    given = {i: str((int(label) + 1) % 10) if i in wrong else label for i, label in truth.items()}
    now = utc_now() - timedelta(hours=1)
    chosen = [
        {"round": 0, "image_id": one.image_id, "image_uri": one.uri, "rank": rank, "reason": "seed", "selected_at": now}
        for rank, (one, _) in enumerate(stored)
    ]
    platform.ledgers.insert_new("selections", table_of(SELECTIONS, chosen), on=["round", "image_id"])
    say(platform, given, "ada", 0, now)
    pixels = np.stack(
        [np.asarray(decode_image(png, channels=1).resize((8, 8)), np.float32).ravel() / 255 for png in pngs][:IMAGES]
    )
    platform.predictions.append(
        prediction_table(
            image_ids=ids,
            image_uris=[one.uri for one, _ in stored],
            image_hashes=[None] * IMAGES,
            model_name=platform.settings.model.name,
            model_version=1,
            classes=DIGITS,
            probs=np.full((IMAGES, 10), 0.1, np.float32),
            source="batch",
            embeddings=pixels,
        )
    )
    publish_dataset(platform, 0)
    return platform, truth, wrong


def say(platform: Platform, labels: dict[str, str], annotator: str, round_: int, at=None) -> None:
    rows = [
        {
            "image_id": image_id,
            "label": label,
            "annotator": annotator,
            "labeled_at": at or utc_now(),
            "export_id": f"{annotator}{round_}",
            "round": round_,
        }
        for image_id, label in labels.items()
    ]
    platform.ledgers.insert_new("labels", table_of(LABELS, rows), on=["image_id", "annotator", "label"])


def test_wrong_labels_are_ranked_first(labeled: tuple[Platform, dict[str, str], set[str]]):
    platform, truth, wrong = labeled
    found = suspicious_labels(platform)
    assert found.looked_at >= IMAGES - 5  # near-duplicates of what judges are in no split
    assert found.not_looked_at == 0
    head = found.ranking.head(20)
    assert sum(image in wrong for image in head["image_id"]) >= 14  # where one in ten is wrong
    right = [truth[image] == other for image, other in head.select("image_id", "predicted").iter_rows()]
    assert sum(right) >= 12  # what it is instead is told as well


def test_the_check_on_the_dataset_shows_list_and_pictures(labeled: tuple[Platform, dict[str, str], set[str]]):
    platform, _, wrong = labeled
    result = labels_look_right(dg.build_asset_check_context(), platform)
    assert isinstance(result, dg.AssetCheckResult)
    suspicious, looked_at = (result.metadata[f"{name}"].value for name in ("suspicious labels", "labels looked at"))
    assert not result.passed
    assert suspicious > MOST_SUSPICIOUS * looked_at
    listed = str(result.metadata["most suspicious"].value)
    assert sum(image in listed for image in wrong) >= 10
    assert "data:image/png;base64," in str(result.metadata["pictures"].value)


def test_reviews_bring_the_worst_back_once_and_stop_where_few_are_wrong(
    labeled: tuple[Platform, dict[str, str], set[str]],
):
    platform, truth, wrong = labeled
    asked: list[str] = []
    shares = []
    for round_ in range(1, 20):
        rows = labels_to_review(platform, round_, budget=50)
        if not rows:
            break
        table = table_of(SELECTIONS, [{**row, "rank": rank} for rank, row in enumerate(rows)])
        platform.ledgers.insert_new("selections", table, on=["round", "image_id"])
        ids = [row["image_id"] for row in rows]
        assert not set(ids) & set(asked)
        asked += ids
        say(platform, {image: truth[image] for image in ids}, "bob", round_)
        shares.append(float(np.mean([image in wrong for image in ids])))
        publish_dataset(platform, round_)
    found = reviewed(platform)
    assert found["image_id"].to_list() == asked
    assert found["wrong"].to_list() == [image in wrong for image in asked]
    assert shares[0] >= 0.8
    assert shares[-1] <= shares[0] / 2  # and then no label was suspicious any more
    assert labels_to_review(platform, 20, budget=50) == []
    assert len(set(asked) & wrong) >= 0.8 * WRONG
    assert len(asked) <= 2.5 * WRONG
    dataset = platform.datasets.latest()
    assert dataset is not None
    after = dict(dataset.rows.select("image_id", "label").iter_rows())
    assert all(after[image] == truth[image] for image in asked)


def test_a_review_changes_no_split(labeled: tuple[Platform, dict[str, str], set[str]]):
    platform, _, _ = labeled
    first, last = platform.datasets.of_round(0), platform.datasets.latest()
    assert last is not None
    splits = dict(last.rows.select("image_id", "split").iter_rows())
    assert splits == dict(first.rows.select("image_id", "split").iter_rows())


def test_twenty_right_labels_end_the_review_and_many_new_ones_take_it_up_again(
    labeled: tuple[Platform, dict[str, str], set[str]],
):
    platform, truth, wrong = labeled
    right = [image for image in truth if image not in wrong][-20:]
    rows = [
        {"round": 21, "image_id": image, "rank": rank, "reason": "review", "selected_at": utc_now()}
        for rank, image in enumerate(right)
    ]
    platform.ledgers.insert_new("selections", table_of(SELECTIONS, rows), on=["round", "image_id"])
    assert not review_is_over(platform)  # they are not answered yet
    say(platform, {image: truth[image] for image in right}, "dee", 21)
    assert review_is_over(platform)
    say(platform, {f"{number:032x}": "1" for number in range(100)}, "cid", 30)
    assert not review_is_over(platform)


def test_without_embeddings_or_switched_off_nothing_is_asked_again(tmp_path: Path):
    off = Platform(Settings(home=tmp_path))
    assert labels_to_review(off, 1, 50) == []
    on = Platform(Settings(home=tmp_path, labeling=LabelingSettings(review_share=0.2)))
    assert labels_to_review(on, 1, 50) == []
    found = suspicious_labels(on)
    assert (found.looked_at, found.not_looked_at, found.suspicious) == (0, 0, 0)
    assert isinstance(found.ranking, pl.DataFrame)
