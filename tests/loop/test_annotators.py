"""What labels cost and how far people agree, from the ledger."""

from __future__ import annotations

import pytest

from al_core.records import LABELS, table_of, utc_now
from al_loop.annotators import FEWEST, labeling_report
from al_resources.platform import Platform


def say(platform: Platform, *rows: tuple[str, str, str, float | None, str | None]) -> None:
    table = [
        {
            "image_id": image,
            "annotator": annotator,
            "label": label,
            "annotation_seconds": seconds,
            "mode": mode,
            "labeled_at": utc_now(),
            "export_id": "x",
        }
        for image, annotator, label, seconds, mode in rows
    ]
    platform.ledgers.insert_new("labels", table_of(LABELS, table), on=["image_id", "annotator", "label"])


def test_seconds_are_told_by_annotator_class_and_mode(platform: Platform):
    say(
        platform,
        ("a", "ada", "cat", 1.0, "single"),
        ("b", "ada", "cat", 3.0, "single"),
        ("c", "ada", "dog", 600.0, "single"),
        ("d", "bob", "dog", 0.2, "grid"),
        ("e", "cvat", "dog", None, None),
    )
    report = labeling_report(platform)
    assert [(row["annotator"], row["labels"], row["seconds"]) for row in report["annotators"]] == [
        ("ada", 3, 3.0),
        ("bob", 1, 0.2),
        ("cvat", 1, None),
    ]
    assert [(row["label"], row["labels"], row["seconds"]) for row in report["classes"]] == [
        ("cat", 2, 2.0),
        ("dog", 3, pytest.approx(300.1)),
    ]
    assert [(row["mode"], row["labels"], row["seconds"]) for row in report["modes"]] == [
        ("grid", 1, 0.2),
        ("single", 3, 3.0),
    ]


def test_agreement_is_with_most_of_the_others_and_few_images_have_no_alpha(platform: Platform):
    say(
        platform,
        *[("a", name, label, None, None) for name, label in (("ada", "cat"), ("bob", "cat"), ("cid", "dog"))],
        *[("b", name, label, None, None) for name, label in (("ada", "dog"), ("bob", "dog"))],
        ("c", "ada", "dog", None, None),
    )
    report = labeling_report(platform)
    told = {row["annotator"]: (row["agreed"], row["compared"]) for row in report["annotators"]}
    assert told == {"ada": (2, 2), "bob": (2, 2), "cid": (0, 1)}
    assert report["alpha"] is None
    assert report["answered_by_several"] == 2


def test_pairs_that_agree_least_come_first_and_few_images_leave_a_wide_interval(platform: Platform):
    for number in range(10):
        image = str(number)
        say(platform, (image, "ada", "cat", None, None), (image, "bob", "cat" if number else "dog", None, None))
    say(platform, ("0", "cid", "fox", None, None))
    pairs = labeling_report(platform)["pairs"]
    assert [(one["first"], one["second"], one["agreed"], one["compared"]) for one in pairs] == [
        ("ada", "cid", 0, 1),
        ("bob", "cid", 0, 1),
        ("ada", "bob", 9, 10),
    ]
    assert pairs[0]["high"] > 0.7  # one image says next to nothing
    assert (pairs[2]["low"], pairs[2]["high"]) == (pytest.approx(0.596, abs=0.001), pytest.approx(0.982, abs=0.001))


def test_enough_images_have_an_alpha_by_class(platform: Platform):
    for number in range(FEWEST):
        label = ("cat", "dog")[number % 2]
        say(platform, (str(number), "ada", label, None, None), (str(number), "bob", label, None, None))
    report = labeling_report(platform)
    assert report["alpha"] == 1
    assert {row["label"]: row["alpha"] for row in report["classes"]} == {"cat": 1, "dog": 1}


def test_nothing_labeled_is_no_trouble(platform: Platform):
    report = labeling_report(platform)
    assert report["annotators"] == report["classes"] == report["modes"] == []
    assert report["alpha"] is None
    assert report["pairs"] == []
