"""Exports: what people release becomes labels, is set aside with its reason, or is refused as a whole."""

from __future__ import annotations

import json
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from resource_adapters import coco, image, jsonl

from al_resources.blobs.local import FsspecBlobStore
from al_resources.labeling.exports import BrokenExport, ParsedExport, parse_export
from al_resources.labeling.merge import merge_export
from al_resources.labeling.quarantine import quarantine_rows
from al_resources.platform import Platform
from al_resources.settings import LabelingSettings, Settings

KNOWN = {image(number) for number in range(10)}
CATS_AND_DOGS = LabelingSettings(classes=("cat", "dog"))


def known_images(image_ids: Collection[str]) -> set[str]:
    return KNOWN & set(image_ids)


def parse(data: bytes, path: str = "export.json", settings: LabelingSettings = CATS_AND_DOGS) -> ParsedExport:
    return parse_export(data, path, settings, known_images)


def labels(parsed: ParsedExport) -> dict[str, str]:
    return {label.image_id: label.label for label in parsed.labels}


def reasons(parsed: ParsedExport) -> list[str]:
    return [row.reason for row in parsed.set_aside]


# ---------------------------------------------------------------------- what is understood
def test_coco_as_azure_ml_writes_it() -> None:
    content = {
        "images": [
            {
                "id": 1,
                "width": 0.0,
                "height": 8000.0,
                "file_name": f"labeling/input/0001/{image(1)}.jpg",
                "coco_url": f"AmlDatastore://workspaceblobstore/labeling/input/0001/{image(1)}.jpg",
                "absolute_url": f"https://account.blob.core.windows.net/c/{image(1)}.jpg",
                "date_captured": "2026-01-01T00:00:00.0Z",
            },
            {"id": 2, "width": 32.0, "height": 32.0, "coco_url": f"AmlDatastore://store/{image(2)}.jpg"},
            {
                "id": 3,
                "absolute_url": f"https://a.blob.core.windows.net/c/x%20y/{image(3)}.png?sv=1&sig=a%2Fb",
            },
            {"id": 4, "file_name": f"{image(4)}.png"},
        ],
        "annotations": [
            {"id": 1, "category_id": 1, "image_id": 1, "area": 0.0},
            {"id": 2, "category_id": 2, "image_id": 2, "area": 0.0, "bbox": []},
            {"id": 3, "category_id": 1, "image_id": 3},
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }
    parsed = parse(json.dumps(content).encode())
    assert labels(parsed) == {image(1): "cat", image(2): "dog", image(3): "cat"}
    assert parsed.set_aside == ()


@pytest.mark.parametrize(
    "address",
    [
        "azureml://subscriptions/s/resourcegroups/g/workspaces/w/datastores/d/paths/labeling/input/{}.png",
        "AmlDatastore://d/labeling/input/{}.png",
        "{}.png",
        "http://[not-an-address/{}.png",
        "file:///C:/x/{}.jpeg#fragment",
    ],
)
def test_jsonl_names_an_image_by_any_address(address: str) -> None:
    line = json.dumps({"image_url": address.format(image(1)), "label": "cat", "label_confidence": 1.0})
    parsed = parse(line.encode(), "x.jsonl")
    assert labels(parsed) == {image(1): "cat"}
    assert parsed.labels[0].confidence == 1.0


def test_what_a_tool_reports_beside_the_label_is_kept() -> None:
    row = {
        "annotator": "ann",
        "labeled_at": "2026-01-01T10:00:00+02:00",
        "label_confidence": [0.5],
        "annotation_seconds": 2,
    }
    (label,) = parse(jsonl({image(1): "cat"}, **row), "x.jsonl").labels
    assert (label.annotator, label.confidence, label.annotation_seconds) == ("ann", 0.5, 2.0)
    assert label.labeled_at == datetime(2026, 1, 1, 8, tzinfo=UTC)


def test_a_time_without_zone_is_utc_and_a_byte_order_mark_is_no_harm() -> None:
    data = b"\xef\xbb\xbf" + jsonl({image(1): "cat"}, labeled_at="2026-01-01T10:00:00")
    (label,) = parse(data, "x.jsonl").labels
    assert label.labeled_at == datetime(2026, 1, 1, 10, tzinfo=UTC)


def test_the_same_answer_twice_is_one_label() -> None:
    data = jsonl({image(1): "cat"}) + jsonl({image(1): "cat"})
    assert labels(parse(data, "x.jsonl")) == {image(1): "cat"}


def test_without_classes_every_class_is_welcome_and_growing_accepts_new_ones() -> None:
    data = coco({image(1): "zebra"})
    assert labels(parse(data, settings=LabelingSettings())) == {image(1): "zebra"}
    growing = LabelingSettings(classes=("cat",), new_classes="grow")
    assert labels(parse(data, settings=growing)) == {image(1): "zebra"}


# ---------------------------------------------------------------------- what is set aside
def test_an_unknown_image_is_set_aside_and_the_rest_is_kept() -> None:
    parsed = parse(coco({image(1): "cat", image(99): "dog"}))
    assert labels(parsed) == {image(1): "cat"}
    assert image(99) in reasons(parsed)[0]
    assert "unknown here" in reasons(parsed)[0]


def test_an_unknown_class_is_set_aside_with_the_nearest_one_named() -> None:
    parsed = parse(coco({image(1): "cat", image(2): "dgo"}))
    assert labels(parsed) == {image(1): "cat"}
    assert "class 'dgo' is not in labeling.classes; did they mean 'dog'?" in reasons(parsed)[0]


def test_two_labels_for_one_image_by_one_annotator_count_as_none() -> None:
    data = jsonl({image(1): "cat", image(2): "cat"}) + jsonl({image(1): "dog"})
    parsed = parse(data, "x.jsonl")
    assert labels(parsed) == {image(2): "cat"}
    assert len(parsed.set_aside) == 2
    assert "'cat' and 'dog'" in reasons(parsed)[0]


def test_two_annotators_may_disagree() -> None:
    data = jsonl({image(1): "cat"}, annotator="ann") + jsonl({image(1): "dog"}, annotator="bob")
    assert len(parse(data, "x.jsonl").labels) == 2


@pytest.mark.parametrize(
    ("label", "reason"),
    [
        (["cat", "dog"], "2 labels for one image"),
        ([{"label": "cat", "topX": 0.1, "topY": 0.1, "bottomX": 0.2, "bottomY": 0.2}], "box or polygon"),
        ("", "no class name"),
        ([], "no class name"),
        (7, "class '7' is not in labeling.classes"),
        (True, "no class name"),
        ("cat\ud800", "not in labeling.classes"),
    ],
)
def test_what_is_no_label_of_an_image_is_set_aside(label: Any, reason: str) -> None:
    parsed = parse(jsonl({image(1): "cat", image(2): label}), "x.jsonl")
    assert labels(parsed) == {image(1): "cat"}
    assert reason in reasons(parsed)[0]


@pytest.mark.parametrize(
    "broken",
    [
        {"labeled_at": "yesterday"},
        {"labeled_at": 5},
        {"label_confidence": "high"},
        {"label_confidence": 10**400},
    ],
)
def test_a_value_that_cannot_be_read_sets_its_row_aside(broken: dict[str, Any]) -> None:
    data = jsonl({image(1): "cat"}) + jsonl({image(2): "dog"}, **broken)
    parsed = parse(data, "x.jsonl")
    assert labels(parsed) == {image(1): "cat"}
    assert "cannot be read" in reasons(parsed)[0]


def test_a_box_is_not_a_label_of_the_image() -> None:
    content = json.loads(coco({image(1): "cat", image(2): "dog"}))
    content["annotations"][1]["bbox"] = [0.1, 0.1, 0.5, 0.5]
    parsed = parse(json.dumps(content).encode())
    assert labels(parsed) == {image(1): "cat"}
    assert "box or polygon" in reasons(parsed)[0]


@pytest.mark.parametrize(
    ("size", "box", "points", "unit"),
    [
        ({}, [0.1, 0.2, 0.5, 0.5], ((0.1, 0.2), (0.6, 0.7)), "share"),
        ({"width": 20, "height": 40}, [2, 8, 10, 20], ((0.1, 0.2), (0.6, 0.7)), "share"),
        ({"width": 0.0, "height": 8000.0}, [2, 8, 10, 20], ((2, 8), (12, 28)), "pixel"),
        ({"width": 5, "height": 5}, [2, 8, 10, 20], ((2, 8), (12, 28)), "pixel"),
    ],
)
def test_a_box_of_coco_is_understood_in_shares_or_in_pixels(
    size: dict[str, float], box: list[float], points: Any, unit: str
) -> None:
    content = json.loads(coco({image(1): "cat", image(2): "dog"}))
    content["images"][1] |= size
    content["annotations"][1]["bbox"] = box
    (aside,) = parse(json.dumps(content).encode()).set_aside
    (region,) = aside.regions
    assert (region.label, region.kind, region.unit) == ("dog", "box", unit)
    assert [x for point in region.points for x in point] == pytest.approx([x for point in points for x in point])


@pytest.mark.parametrize(
    ("shape", "points"),
    [
        ({"topX": 0.1, "topY": 0.2, "bottomX": 0.6, "bottomY": 0.7, "isCrowd": "false"}, ((0.1, 0.2), (0.6, 0.7))),
        ({"polygon": [[0, 0, 1, 0, 1, 1]], "isCrowd": "false"}, ((0, 0), (1, 0), (1, 1))),
    ],
)
def test_boxes_and_polygons_of_jsonl_are_understood(shape: dict[str, Any], points: Any) -> None:
    data = jsonl({image(1): "cat", image(2): [{"label": "dog", **shape}, {"label": "cat", **shape}]})
    (aside,) = parse(data, "x.jsonl").set_aside
    assert [region.label for region in aside.regions] == ["dog", "cat"]
    assert aside.regions[0].points == points


def test_several_labels_of_one_image_are_kept_as_such() -> None:
    data = jsonl({image(1): "cat", image(2): ["cat", "dog"]})
    (aside,) = parse(data, "x.jsonl").set_aside
    assert aside.labels == ("cat", "dog")


def test_an_export_of_boxes_is_refused_by_the_classifier_and_kept_as_it_was_understood(tmp_path: Path) -> None:
    platform = Platform(Settings(home=tmp_path))
    box = {"label": "cat", "topX": 0.1, "topY": 0.2, "bottomX": 0.6, "bottomY": 0.7}
    platform.blobs.write("labeling/exports/boxes.jsonl", jsonl({image(1): [box]}))
    merge = merge_export(platform.inbox, "labeling/exports/boxes.jsonl")
    assert merge.status == "quarantined"
    assert "a box or polygon, not a label of the image; this classifier is trained on image labels" in merge.reason
    (kept,) = [blob.path for blob in platform.blobs.list("labeling/quarantine") if "set_aside" in blob.path]
    (row,) = json.loads(platform.blobs.read(kept))["rows"]
    assert row["regions"] == [{"label": "cat", "points": [[0.1, 0.2], [0.6, 0.7]], "kind": "box", "unit": "share"}]


def test_annotations_that_lead_nowhere_are_set_aside() -> None:
    content = json.loads(coco({image(1): "cat", image(2): "cat", image(3): "cat"}))
    content["annotations"][1]["image_id"] = 77
    content["annotations"][2]["category_id"] = 88
    parsed = parse(json.dumps(content).encode())
    assert labels(parsed) == {image(1): "cat"}
    assert len(parsed.set_aside) == 2


# ---------------------------------------------------------------------- what is refused
@pytest.mark.parametrize("path", ["x.json", "x.jsonl"])
@pytest.mark.parametrize("data", [b"", b"  \n"])
def test_an_empty_file_may_still_be_in_the_middle_of_being_written(path: str, data: bytes) -> None:
    with pytest.raises(BrokenExport, match="0 bytes") as caught:
        parse(data, path)
    assert caught.value.incomplete


def test_a_cut_file_may_still_be_in_the_middle_of_being_written() -> None:
    for data, path in ((coco({image(1): "cat"})[:-5], "x.json"), (jsonl({image(1): "cat"})[:-5], "x.jsonl")):
        with pytest.raises(BrokenExport, match="not valid JSON") as caught:
            parse(data, path)
        assert caught.value.incomplete


def test_a_broken_line_in_the_middle_is_broken_for_good() -> None:
    with pytest.raises(BrokenExport, match="line 1 is not valid JSON") as caught:
        parse(b"{broken\n" + jsonl({image(1): "cat"}), "x.jsonl")
    assert not caught.value.incomplete


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"[1]", "a JSON list, in no format that is read here: COCO needs images, annotations and categories; "),
        (b'{"images": []}', "a JSON object with the keys images, in no format"),
        (b'{"images": 1, "annotations": 2, "categories": 3}', "not COCO"),
        (b"[" * 100_000, "nested too deeply|not valid JSON"),
        (b"\xff\xfe\xfa", "no text in UTF-8, UTF-16 or UTF-32"),
        (b"\xff\xd8\xff\xe0 a picture", "pictures come in with `al ingest`"),
        (coco({}), "holds no labels"),
        (coco({image(99): "cat"}), "no row can be used; the first of 1: image .* is unknown"),
    ],
)
def test_what_is_no_export_is_refused_with_the_reason(data: bytes, message: str) -> None:
    with pytest.raises(BrokenExport, match=message):
        parse(data)


@pytest.mark.parametrize("line", [b"5", b'"text"', b"[1]", b'{"image_url": "x"}', b'{"label": "cat"}'])
def test_a_line_of_another_structure_is_refused_with_what_each_format_needs(line: bytes) -> None:
    with pytest.raises(BrokenExport, match="in no format that is read here: COCO needs ") as caught:
        parse(line, "x.jsonl")
    assert "JSON lines of image_url and label" in caught.value.tried


def test_a_line_without_a_label_is_an_image_without_an_answer_and_counted() -> None:
    parsed = parse(jsonl({image(1): "cat"}) + b'{"image_url": "x"}\n', "x.jsonl")
    assert (labels(parsed), parsed.unlabeled) == ({image(1): "cat"}, 1)


def test_normalised_and_absolute_boxes_in_one_export_are_refused() -> None:
    content = json.loads(coco({image(1): "cat", image(2): "dog"}))
    content["annotations"][0]["bbox"] = [0.1, 0.1, 0.5, 0.5]
    content["annotations"][1]["bbox"] = [10, 10, 50, 50]
    with pytest.raises(BrokenExport, match="mixed"):
        parse(json.dumps(content).encode())


def test_one_number_for_two_images_is_refused() -> None:
    content = json.loads(coco({image(1): "cat", image(2): "dog"}))
    content["images"][1]["id"] = content["images"][0]["id"]
    with pytest.raises(BrokenExport, match="two images have the id 1"):
        parse(json.dumps(content).encode())


# ---------------------------------------------------------------------- laws
ANSWERS = st.dictionaries(st.sampled_from(sorted(KNOWN)), st.sampled_from(["cat", "dog"]), min_size=1)


@given(answers=ANSWERS, data=st.data())
def test_the_export_id_depends_on_the_labels_alone(answers: dict[str, str], data: st.DataObject) -> None:
    shuffled = dict(data.draw(st.permutations(list(answers.items()))))
    one, other = parse(jsonl(answers), "one.jsonl"), parse(jsonl(shuffled), "other.jsonl")
    assert one.export_id == other.export_id
    changed = answers | {next(iter(answers)): "cat" if answers[next(iter(answers))] == "dog" else "dog"}
    assert parse(jsonl(changed), "one.jsonl").export_id != one.export_id


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(sorted(KNOWN)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
NAMES = (
    "id name file_name image_id category_id bbox segmentation width polygon topX annotator labeled_at image_url label "
    "confidence"
)
FIELDS = st.fixed_dictionaries({}, optional=dict.fromkeys(NAMES.split(), JSON_VALUES))
EXPORTS = st.fixed_dictionaries(
    {name: st.lists(FIELDS | JSON_VALUES, max_size=3) for name in ("images", "annotations", "categories")}
)


@settings(max_examples=150, deadline=None)
@given(content=EXPORTS | FIELDS | JSON_VALUES, cut=st.integers(0, 9), path=st.sampled_from(["x.json", "x.jsonl"]))
def test_whatever_comes_is_understood_set_aside_or_refused(content: Any, cut: int, path: str) -> None:
    data = json.dumps(content).encode()
    try:
        parsed = parse(data[: len(data) - cut if cut < 5 else len(data)], path)
    except BrokenExport:
        return
    assert all(label.image_id in KNOWN for label in parsed.labels)
    quarantine_rows(FsspecBlobStore("memory://fuzz"), path, "etag", parsed.set_aside)
