"""What several people's answers become in the dataset and in exports, as `labeling.resolve` says."""

from __future__ import annotations

import io
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from al_core.records import LABELS, prediction_table, table_of, utc_now
from al_loop.consensus import counting_labels
from al_loop.exporting import labels_of
from al_loop.labeling import publish_dataset
from al_resources.platform import Platform
from al_resources.settings import LabelingSettings, Settings

IMAGES = 80


def picture(number: int) -> bytes:
    noise = np.random.default_rng(number).integers(0, 256, (16, 16, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str], list[str]]:
    """A home where ada is careful, bob half asleep and always the last to answer; the truth; whom models judge."""
    home = tmp_path_factory.mktemp("home")
    platform = Platform(Settings(home=home))
    stored = [platform.images.put(picture(number)) for number in range(IMAGES)]
    ids = [one.image_id for one in stored]
    truth = {image: ("cat", "dog")[place % 2] for place, image in enumerate(ids)}
    rows, begun = [], utc_now() - timedelta(hours=1)
    for place, (image, label) in enumerate(truth.items()):
        slip = {"cat": "dog", "dog": "cat"}[label]
        answers = {"ada": slip if place % 10 == 5 else label, "bob": slip if place % 3 == 0 else label}
        rows += [
            {
                "image_id": image,
                "annotator": who,
                "label": said,
                "labeled_at": begun
                + timedelta(seconds=2 * place + second),  # what the clock says may be the same twice
                "export_id": who,
                "round": 0,
            }
            for second, (who, said) in enumerate(answers.items())
        ]
    platform.ledgers.insert_new("labels", table_of(LABELS, rows), on=["image_id", "annotator"])
    spots = np.array([[3, 0, 0, 0], [0, 3, 0, 0]])
    noise = np.random.default_rng(0).normal(0, 1, (IMAGES, 4))
    platform.predictions.append(
        prediction_table(
            image_ids=ids,
            image_uris=[one.uri for one in stored],
            image_hashes=[None] * IMAGES,
            model_name=platform.settings.model.name,
            model_version=1,
            classes=("cat", "dog"),
            probs=np.full((IMAGES, 2), 0.5, np.float32),
            source="batch",
            embeddings=(spots[np.arange(IMAGES) % 2] + noise).astype(np.float32),
        )
    )
    return home, truth, platform.settings.holdout.judges.among(ids)


def under(home: Path, rule: str) -> Platform:
    return Platform(Settings(home=home, labeling=LabelingSettings(resolve=rule)))  # type: ignore[arg-type]


def told(platform: Platform) -> dict[str, str]:
    return dict(counting_labels(platform).select("image_id", "label").iter_rows())


def right(labels: dict[str, str], truth: dict[str, str]) -> float:
    return float(np.mean([truth[image] == label for image, label in labels.items()]))


def test_the_setting_decides_and_the_classifier_decides_best(answered: tuple[Path, dict[str, str], list[str]]):
    home, truth, _ = answered
    shares = {rule: right(told(under(home, rule)), truth) for rule in ("latest", "majority", "dawid_skene", "crowdlab")}
    print(shares)
    assert shares["latest"] <= shares["majority"] < shares["dawid_skene"] < shares["crowdlab"]


def test_it_is_the_label_of_the_dataset_and_of_exports(answered: tuple[Path, dict[str, str], list[str]]):
    home, _, _ = answered
    platform = under(home, "crowdlab")
    dataset = publish_dataset(platform, 0)
    assert dict(dataset.rows.select("image_id", "label").iter_rows()) == told(platform)
    assert {one.image_id: one.label for one in labels_of(platform, one_an_image=True)} == told(platform)
    assert publish_dataset(platform, 0).manifest.version == dataset.manifest.version
    assert len(labels_of(platform, one_an_image=False)) == 2 * IMAGES  # nobody's answer is lost


def test_models_are_judged_by_people_alone(answered: tuple[Path, dict[str, str], list[str]]):
    home, _, judges = answered
    assert judges
    with_model, people = told(under(home, "crowdlab")), told(under(home, "dawid_skene"))
    assert {image: with_model[image] for image in judges} == {image: people[image] for image in judges}
    assert with_model != people
