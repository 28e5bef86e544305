"""The people of a simulation."""

from __future__ import annotations

import pytest

from al_core.images import content_id
from al_core.learning.contract import LabeledImage
from al_core.records import LABELS
from simulation.annotators import Oracle, OracleSettings

IMAGES = [LabeledImage(content_id(str(i).encode()), "", "abc"[i % 3]) for i in range(900)]


def answers(seed: int = 0, images: list[LabeledImage] = IMAGES, **settings):
    return Oracle(OracleSettings(**settings), "abc", seed).label(images, round_=2)


def wrong(rows) -> float:
    truth = {image.image_id: image.label for image in IMAGES}
    return sum(truth[row["image_id"]] != row["label"] for row in rows) / len(rows)


def test_by_default_they_know_the_truth():
    table, seconds = answers()
    assert table.schema == LABELS
    assert table.num_rows == 900
    assert wrong(table.to_pylist()) == 0
    assert seconds == pytest.approx(sum(table.column("annotation_seconds").to_pylist()))


def test_they_err_as_often_as_they_are_told():
    rows = answers(noise=0.2)[0].to_pylist()
    assert 0.16 < wrong(rows) < 0.24
    rows = answers(class_noise={"a": 0.5})[0].to_pylist()
    truth = {image.image_id: image.label for image in IMAGES}
    assert wrong([row for row in rows if truth[row["image_id"]] != "a"]) == 0
    assert 0.4 < wrong([row for row in rows if truth[row["image_id"]] == "a"]) < 0.6


def test_an_answer_does_not_depend_on_when_it_is_asked():
    whole = answers(noise=0.3)[0].to_pylist()
    again = answers(noise=0.3, images=IMAGES[::-1])[0].to_pylist()[::-1]
    assert whole == again
    assert whole != answers(seed=1, noise=0.3)[0].to_pylist()


def test_several_annotators_err_independently():
    rows = answers(noise=0.3, annotators=3)[0].to_pylist()
    assert len(rows) == 2700
    assert {row["annotator"] for row in rows} == {"oracle-0", "oracle-1", "oracle-2"}
    by_image: dict[str, set[str]] = {}
    for row in rows:
        by_image.setdefault(row["image_id"], set()).add(row["label"])
    assert 0.4 < sum(len(labels) > 1 for labels in by_image.values()) / 900 < 0.8


def test_unsure_answers_cost_time_and_give_no_label():
    table, seconds = answers(abstention=0.5)
    assert 0.4 < table.num_rows / 900 < 0.6
    assert seconds == pytest.approx(answers()[1])


def test_noise_for_a_class_that_is_not_there_is_an_error():
    with pytest.raises(ValueError, match=r"class_noise names \['z'\]"):
        answers(class_noise={"z": 0.1})
