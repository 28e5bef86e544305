"""The contract of formats: a file is told by its content, matched to its images, and read as it was meant."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

import export_files
import pytest
from export_files import FILES, TEXT_FILES, WHO
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from resource_adapters import image

from al_core.images import content_id
from al_resources.labeling.exports import BrokenExport, ParsedExport, parse_export
from al_resources.labeling.formats import read_export
from al_resources.settings import LabelingSettings

KNOWN = {image(number) for number in range(20)}
ANSWERS = {f"{image(1)}.png": "cat", f"{image(2)}.png": "dog", f"{image(3)}.jpg": "cat"}
NO_PERSON = {"FiftyOne", "Datumaro", "VIA", "Ground Truth", "Roboflow", "class folders", "CSV without"}


def known_images(image_ids: Collection[str]) -> set[str]:
    return KNOWN & set(image_ids)


def parse(data: bytes, name: str = "export", **labeling: Any) -> ParsedExport:
    return parse_export(data, name, LabelingSettings(**labeling), known_images)


def labels(parsed: ParsedExport) -> dict[str, str | None]:
    return {label.image_id: label.label for label in parsed.labels}


def meant(answers: dict[str, str]) -> dict[str, str | None]:
    return {name.partition(".")[0]: label for name, label in answers.items()}


# ---------------------------------------------------------------------- the contract
@pytest.mark.parametrize("format_", FILES)
@pytest.mark.parametrize("name", ["export", "export.json", "export.txt", "project-1-at-2026.csv"])
def test_a_file_is_told_by_its_content_whatever_it_is_called(format_: str, name: str) -> None:
    parsed = parse(FILES[format_](ANSWERS), name)
    assert labels(parsed) == meant(ANSWERS)
    assert (parsed.set_aside, parsed.unlabeled) == ((), 0)


@pytest.mark.parametrize("format_", [name for name in FILES if not name.startswith(tuple(NO_PERSON))])
def test_who_answered_and_when_is_kept(format_: str) -> None:
    for label in parse(FILES[format_](ANSWERS)).labels:
        assert label.annotator == WHO
        assert format_ in ("CVAT",) or (label.labeled_at is not None and label.labeled_at.year == 2026)


CLASS = st.text(st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp", "Zs", "Co", "Cn")), min_size=1, max_size=8)
CLASS_NAMES = CLASS.filter(
    lambda name: name.strip() == name and not set(name) & set('/\\"') and name not in (".", "..")
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    answers=st.dictionaries(st.sampled_from(sorted(KNOWN)).map("{}.png".format), CLASS_NAMES, min_size=1, max_size=5),
    format_=st.sampled_from(sorted(set(FILES) - {"class folders", "Roboflow", "CSV without a header"})),
)
def test_any_class_name_comes_through_any_format(answers: dict[str, str], format_: str) -> None:
    from al_core.class_folders import plain_class

    expected = {name: plain_class(label) for name, label in answers.items()}
    assert labels(parse(FILES[format_](answers))) == meant(expected)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("format_", TEXT_FILES)
def test_any_utf_is_read(format_: str, encoding: str) -> None:
    text = TEXT_FILES[format_](ANSWERS).decode()
    assert labels(parse(text.encode(encoding))) == meant(ANSWERS)


@pytest.mark.parametrize("format_", FILES)
def test_a_cut_file_is_never_read_as_something_else(format_: str) -> None:
    data = FILES[format_](ANSWERS)
    for length in range(0, len(data), max(1, len(data) // 23)):
        try:
            parsed = parse(data[:length])
        except BrokenExport:
            continue
        assert labels(parsed).items() <= meant(ANSWERS).items()


@pytest.mark.parametrize("format_", TEXT_FILES)
def test_an_export_in_a_zip_is_the_same_export(format_: str) -> None:
    data = TEXT_FILES[format_](ANSWERS)
    packed = export_files.zipped({"a/labels.dat": data, "images/readme.md": b"#", "__MACOSX/._labels.dat": b"\0\5\x16"})
    assert parse(packed).export_id == parse(data).export_id


# ---------------------------------------------------------------------- names
@pytest.mark.parametrize(
    "name",
    [
        "{}.png",
        "{}",
        "images/{}.png",
        "images\\{}.png",
        "C:\\Users\\ann\\{}.PNG",
        "images%5C{}.png",
        "images%2F{}.png",
        "images%252F{}.png",
        "3f9c2a7b-{}.png",
        "/data/upload/7/3f9c2a7b-{}.png",
        "/data/local-files/?d=pictures/{}.png",
        "/data/local-files/?d=pictures%2F{}.png",
        "{}_png.rf.0123456789abcdef0123456789abcdef.jpg",
        "photo__{}.png",
        "{}_A1b2C3d.png",
        "s3://bucket/pictures/{}.png",
        "https://storage/x/{}.png?sv=1&sig=a%2Fb",
        "gs://bucket/{}.png",
    ],
)
@pytest.mark.parametrize("upper", [False, True])
def test_the_content_id_is_found_wherever_it_stands_in_a_name(name: str, upper: bool) -> None:
    written = name.format(image(1).upper() if upper else image(1))
    row = {"image_url": written, "label": "cat"}
    assert labels(parse(export_files.lines([row]))) == {image(1): "cat"}


def test_a_name_with_two_ids_is_ambiguous() -> None:
    rows = [{"image_url": f"{image(1)}-{image(2)}.png", "label": "cat"}, {"image_url": image(3), "label": "cat"}]
    (aside,) = parse(export_files.lines(rows)).set_aside
    assert "ambiguous" in aside.reason


def own_names(*names: tuple[str, str]) -> Any:
    return lambda: names


@pytest.mark.parametrize(
    "written",
    [
        "/home/ann/pictures/Café (1).jpg",
        "pictures/Café (1).jpg",
        "pictures\\CAFÉ (1).JPG",
        "Café (1).jpg",
        "Cafe\u0301 (1).jpg",
        "Caf%C3%A9%20%281%29.jpg",
        "3f9c2a7b-Café_1.jpg",
        "Café-1-_jpg.rf.0123456789abcdef0123456789abcdef.jpg",
        "Café (1)",
    ],
)
def test_an_image_is_known_by_the_name_under_which_it_came(written: str) -> None:
    data = export_files.lines([{"image_url": written, "label": "cat"}])
    names = own_names(("/home/ann/pictures/Café (1).jpg", image(1)), ("/home/ann/pictures/other.jpg", image(2)))
    parsed = parse_export(data, "x", LabelingSettings(), known_images, names)
    assert labels(parsed) == {image(1): "cat"}


def test_a_file_name_of_several_images_is_decided_by_its_folders_or_ambiguous() -> None:
    names = own_names(("/a/monday/1.jpg", image(1)), ("/a/tuesday/1.jpg", image(2)), ("/b/x.jpg", image(3)))
    rows = [
        {"image_url": "tuesday/1.jpg", "label": "cat"},
        {"image_url": "1.jpg", "label": "dog"},
        {"image_url": "x.jpg", "label": "dog"},
        {"image_url": "y.jpg", "label": "dog"},
    ]
    parsed = parse_export(export_files.lines(rows), "x", LabelingSettings(), known_images, names)
    assert labels(parsed) == {image(2): "cat", image(3): "dog"}
    ambiguous, unknown = parsed.set_aside
    assert "'1.jpg' is ambiguous: 2 images came under that name (/a/monday/1.jpg, /a/tuesday/1.jpg)" in ambiguous.reason
    assert "'y' is unknown here" in unknown.reason


def test_a_picture_that_comes_along_in_a_zip_is_known_by_itself(png: bytes) -> None:
    data = export_files.zipped({"images/IMG_1.png": png, "annotations/x.json": export_files.coco({"IMG_1.png": "cat"})})
    parsed = parse_export(data, "x.zip", LabelingSettings(), lambda ids: {content_id(png)} & set(ids))
    assert labels(parsed) == {content_id(png): "cat"}


@pytest.mark.parametrize("layout", ["{label}/{n}.png", "train/{label}/{n}.png", "set/valid/{label}/{n}.png"])
def test_folders_of_a_zip_are_classes(layout: str, png: bytes) -> None:
    data = export_files.zipped({layout.format(label="cat", n=1): png, "_unlabeled/x.png": b"x", "readme.txt": b""})
    parsed = parse_export(data, "x.zip", LabelingSettings(), lambda ids: {content_id(png)} & set(ids))
    assert (labels(parsed), parsed.unlabeled) == ({content_id(png): "cat"}, 1)


@pytest.mark.parametrize(
    ("beside", "reason"),
    [
        ({"ann/instances.json": b'{"images": [{"id": 1, "file_name": "1.png"}], "annotations": [], "categories": []}'},
         "CVAT leaves tags out"),
        ({"annotations.xml": b'<annotations><image id="0" name="1.png"/></annotations>'}, "1 images without an answer"),
        ({"Annotations/1.xml": b"<annotation><object/></annotation>"}, "no class for sure"),
        ({"images/loose.png": b"\x89PNG loose"}, "1 pictures beside it, like loose.png"),
    ],
)  # fmt: skip
def test_folders_are_no_second_best_where_the_labels_are_somewhere_else(
    beside: dict[str, bytes], reason: str, png: bytes
) -> None:
    data = export_files.zipped({"images/b/1.png": png, "images/b/2.png": png + b"x", **beside})
    with pytest.raises(BrokenExport, match=reason):
        parse_export(data, "x.zip", LabelingSettings(), set)


def test_a_folder_in_a_folder_of_a_class_is_refused_and_not_taken_for_a_class(png: bytes) -> None:
    data = export_files.zipped({"cat/1.png": png, "dog/holidays/2.png": png + b"x"})
    with pytest.raises(BrokenExport, match="is the class 'dog' or 'holidays'"):
        parse_export(data, "x.zip", LabelingSettings(), set)


@pytest.mark.parametrize("layout", ["{label}/{place}/{n}.png", "{place}/{label}/{n}.png", "{label}s/{label}/{n}.png"])
def test_where_folders_could_be_read_in_two_ways_the_configured_names_decide(layout: str, png: bytes) -> None:
    pictures = {
        layout.format(label=label, place=place, n=n): png + bytes([n])
        for n, (label, place) in enumerate([("cat", "indoor"), ("dog", "outdoor"), ("Katze", "outdoor")])
    }
    known = {content_id(data): path for path, data in pictures.items()}
    settings = LabelingSettings(classes=("cat", "dog"), aliases={"Katze": "cat"})
    parsed = parse_export(export_files.zipped(pictures), "x.zip", settings, lambda ids: known.keys() & set(ids))
    assert sorted(labels(parsed).values()) == ["cat", "cat", "dog"]


def test_a_picture_in_the_folders_of_two_classes_is_refused_whatever_is_configured(png: bytes) -> None:
    data = export_files.zipped({"cat/dog/1.png": png, "dog/2.png": png + b"x"})
    with pytest.raises(BrokenExport, match="is the class 'cat' or 'dog'"):
        parse_export(data, "x.zip", LabelingSettings(classes=("cat", "dog")), set)


def test_a_picture_in_no_folder_of_a_class_is_counted(png: bytes) -> None:
    data = export_files.zipped(
        {"cat/a/1.png": png, "dog/b/2.png": png + b"x", "others/c/3.png": png + b"y", "4.png": png}
    )
    parsed = parse_export(data, "x.zip", LabelingSettings(classes=("cat", "dog")), set)
    assert parsed.unlabeled == 2


@pytest.mark.parametrize(
    ("folders", "reason"),
    [
        (["bounding_box_train"], "one folder of pictures, 'bounding_box_train': it is no class for sure"),
        (["bounding_box_train", "bounding_box_test"], "look like parts of a dataset"),
        (["train2017", "val2017"], "look like parts of a dataset"),
        (["train", "val"], "look like parts of a dataset"),
    ],
)
def test_folders_that_hold_parts_of_a_dataset_are_no_classes_unless_they_are_called_so(
    folders: list[str], reason: str, png: bytes
) -> None:
    pictures = {f"{folder}/0002_c1s1_000{n}.jpg": png + bytes([n]) for n, folder in enumerate(folders * 2)}
    known = {content_id(data) for data in pictures.values()}
    data = export_files.zipped(pictures)
    with pytest.raises(BrokenExport, match=reason):
        parse_export(data, "x.zip", LabelingSettings(), lambda ids: known & set(ids))
    parsed = parse_export(data, "x.zip", LabelingSettings(classes=tuple(folders)), lambda ids: known & set(ids))
    assert set(labels(parsed).values()) == set(folders)


@pytest.mark.parametrize(("of_image", "of_annotation"), [("1", 1), (1, "1"), (1, 1.0), ("1", 1.0)])
def test_ids_of_coco_may_be_text_here_and_numbers_there(of_image: object, of_annotation: object) -> None:
    content = {
        "images": [{"id": of_image, "file_name": f"{image(1)}.png"}, {"id": 2, "file_name": f"{image(2)}.png"}],
        "annotations": [{"id": 1, "image_id": of_annotation, "category_id": "7"}],
        "categories": [{"id": 7, "name": "cat"}],
    }
    parsed = parse(json.dumps(content).encode())
    assert (labels(parsed), parsed.unlabeled, parsed.set_aside) == ({image(1): "cat"}, 1, ())


def test_an_id_of_coco_that_two_images_could_have_is_taken_as_it_is_written() -> None:
    content = {
        "images": [{"id": "1", "file_name": f"{image(1)}.png"}, {"id": 1, "file_name": f"{image(2)}.png"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 7}, {"id": 2, "image_id": 1.5, "category_id": 7}],
        "categories": [{"id": 7, "name": "cat"}],
    }
    parsed = parse(json.dumps(content).encode())
    assert labels(parsed) == {image(2): "cat"}
    assert "image_id 1" in parsed.set_aside[0].image


def test_lists_of_image_and_word_are_read_alone_and_in_a_zip() -> None:
    text = f"train/my cat {image(1)}.png 0\ntrain/{image(2)}.JPEG\tdog\n\n".encode()
    assert labels(parse(text)) == {image(1): "0", image(2): "dog"}
    zipped = export_files.zipped({"train.txt": text, "readme.txt": b"two pictures\nby Ann\n"})
    assert labels(parse(zipped, "x.zip")) == {image(1): "0", image(2): "dog"}
    with pytest.raises(BrokenExport, match=r"class '0' is not in labeling\.classes"):
        parse(text.splitlines(keepends=True)[0], classes=("cat", "dog"))


def test_a_list_without_endings_is_refused_by_name_with_what_was_tried() -> None:
    with pytest.raises(BrokenExport, match="a table with the columns IMG_1 0, in no format that is read here"):
        parse(b"IMG_1 0\nIMG_2 1\n")


def test_what_lies_beside_folders_of_classes_and_is_no_labels_is_named(png: bytes) -> None:
    data = export_files.zipped(
        {"cat/1.png": png, "dog/2.png": png + b"x", "notes.docx": b"PK\x03\x04", "w.bin": b"\xff"}
    )
    known = {content_id(png), content_id(png + b"x")}
    parsed = parse_export(data, "x.zip", LabelingSettings(), lambda ids: known & set(ids))
    assert sorted(labels(parsed).values()) == ["cat", "dog"]
    assert any("notes.docx" in remark for remark in parsed.remarks)


# ---------------------------------------------------------------------- what else an export says
def test_skips_bad_images_and_answers_taken_back_are_outcomes() -> None:
    tasks = json.loads(export_files.label_studio(ANSWERS))
    tasks[0]["annotations"][0] |= {"was_cancelled": True, "result": []}
    tasks[1]["annotations"] = []
    parsed = parse(json.dumps(tasks).encode())
    assert {label.image_id: (label.outcome, label.label) for label in parsed.labels} == {
        image(1): ("skip", None),
        image(3): ("label", "cat"),
    }
    assert parsed.unlabeled == 1
    rows = [
        {"image_url": image(n), "label": None, "outcome": outcome} for n, outcome in enumerate(["bad", "skip", None])
    ]
    assert [label.outcome for label in parse(export_files.lines(rows)).labels] == ["bad", "skip", "removed"]


def test_label_studios_annotators_stand_side_by_side_and_two_choices_are_no_label() -> None:
    (task,) = json.loads(export_files.label_studio({f"{image(1)}.png": "cat"}))
    other = json.loads(json.dumps(task["annotations"][0])) | {"completed_by": 2}
    other["result"][0]["value"]["choices"] = ["cat", "dog"]
    task["annotations"].append(other)
    parsed = parse(json.dumps([task]).encode())
    assert [(label.annotator, label.label) for label in parsed.labels] == [(WHO, "cat")]
    assert "2 labels for one image" in parsed.set_aside[0].reason


def test_several_choices_of_label_studios_csv_are_json_in_a_cell() -> None:
    rows = export_files.label_studio_csv(ANSWERS).decode().replace(",cat,", ',"{""choices"": [""cat"", ""dog""]}",', 1)
    assert "2 labels for one image" in parse(rows.encode()).set_aside[0].reason


def test_coco_without_annotations_says_what_to_export_instead() -> None:
    content = json.loads(export_files.coco(ANSWERS)) | {"annotations": []}
    with pytest.raises(BrokenExport, match=r"COCO with 3 images and no annotation\. CVAT leaves tags out"):
        parse(json.dumps(content).encode())


def test_ground_truths_machine_labels_are_no_answers() -> None:
    data = export_files.ground_truth(ANSWERS).replace(b'"human-annotated": "yes"', b'"human-annotated": "no"', 1)
    (aside,) = parse(data).set_aside
    assert "by no person" in aside.reason


def test_prodigy_rejects_and_ignores() -> None:
    rows = [json.loads(line) for line in export_files.prodigy(ANSWERS).splitlines()]
    rows[0]["answer"], rows[1]["answer"] = "ignore", "reject"
    parsed = parse(export_files.lines(rows))
    assert [label.outcome for label in parsed.labels] == ["skip", "label"]
    assert "not what it is" in parsed.set_aside[0].reason


@pytest.mark.parametrize(
    "make",
    [
        lambda: export_files.cvat({f"{image(1)}.png": "x"}).replace(
            b'<tag label="x" source="manual"></tag>',
            b'<box label="cat" xtl="0" ytl="0" xbr="2" ybr="2"/><box label="dog" xtl="0" ytl="0" xbr="8" ybr="8"/>',
        ),
        lambda: json.dumps(
            {
                "images": [{"id": 1, "file_name": image(1), "width": 9, "height": 9}],
                "annotations": [
                    {"id": 1, "image_id": 1, "category_id": 0, "bbox": [0, 0, 2, 2]},
                    {"id": 2, "image_id": 1, "category_id": 1, "bbox": [0, 0, 8, 8]},
                ],
                "categories": [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}],
            }
        ).encode(),
    ],
)
def test_the_largest_box_is_the_label_where_the_settings_say_so(make: Any) -> None:
    with pytest.raises(BrokenExport, match=r"labeling\.boxes = 'largest'"):
        parse(make())
    assert labels(parse(make(), boxes="largest")) == {image(1): "dog"}


def test_columns_of_a_table_may_have_any_name() -> None:
    data = f"Bild,Klasse,Wer\n{image(1)}.png,cat,Ann\n".encode()
    with pytest.raises(BrokenExport, match=r"none of Bild, Klasse, Wer is an image.*labeling\.columns"):
        parse(data)
    (label,) = parse(data, columns={"image": "Bild", "label": "Klasse", "annotator": "Wer"}).labels
    assert (label.label, label.annotator) == ("cat", "Ann")


@pytest.mark.parametrize(
    "table",
    [
        "sep=;\nimage;label\n{0}.png;cat\n",
        "# exported on Monday\nimage,label\n{0}.png,cat\n",
        "id,label\n{0},cat\n",
        "TRAIN,gs://bucket/{0}.png,cat\nTEST,gs://bucket/{0}.png,cat\n",
        "cat,{0}.png\n",
        "image,label\n{0}.png,cat,\n",
    ],
)
def test_tables_as_other_programs_write_them(table: str) -> None:
    assert labels(parse(table.format(image(1)).encode())) == {image(1): "cat"}


def test_a_cell_beyond_the_header_is_refused_and_not_cut_off() -> None:
    with pytest.raises(BrokenExport, match="line 2 has 3 cells, the header 2"):
        parse(f"image,label\n{image(1)}.png,cat, large\n".encode())


def test_rows_with_a_column_called_source_are_no_manifest_of_ground_truth() -> None:
    rows = [row | {"source": "camera 1"} for row in json.loads(export_files.label_studio_min(ANSWERS))]
    assert parse(json.dumps(rows).encode()).format.startswith("Label Studio")


def test_a_box_of_nothing_is_no_box_and_marks_within_joined_lines_are_no_harm() -> None:
    content = json.loads(export_files.coco(ANSWERS))
    content["annotations"] = [one | {"bbox": [0, 0, 0, 0]} for one in content["annotations"]]
    assert not parse(json.dumps(content).encode()).set_aside
    first, *others = export_files.azure_ml(ANSWERS).splitlines(keepends=True)
    assert not parse(b"\xef\xbb\xbf" + first + b"\xef\xbb\xbf" + b"".join(others)).set_aside


def test_an_empty_cell_is_an_image_without_an_answer() -> None:
    parsed = parse(f"image,label\n{image(1)}.png,cat\n{image(2)}.png,\n".encode())
    assert (labels(parsed), parsed.unlabeled) == ({image(1): "cat"}, 1)


def test_of_two_dated_answers_in_one_export_the_later_counts() -> None:
    rows = [
        {"image_url": image(1), "label": label, "annotator": "ann", "labeled_at": f"2026-01-0{day}T00:00:00Z"}
        for label, day in (("cat", 1), ("dog", 3), ("cat", 2))
    ]
    assert labels(parse(export_files.lines(rows))) == {image(1): "dog"}


def test_a_table_that_may_end_in_half_a_word_keeps_its_last_row_back() -> None:
    whole = f"image,label\n{image(1)}.png,cat\n{image(2)}.png,dog"
    assert labels(parse(whole.encode() + b"\n")) == {image(1): "cat", image(2): "dog"}
    parsed = parse(whole[:-1].encode())
    assert labels(parsed) == {image(1): "cat"}
    assert "ends in the middle of this line, after 'do'" in parsed.set_aside[0].reason
    assert labels(parse(whole.replace("dog", "cat").encode())) == {image(1): "cat", image(2): "cat"}


# ---------------------------------------------------------------------- class names
def test_class_names_are_compared_in_one_form_and_trimmed() -> None:
    rows = [{"image_url": image(n), "label": label} for n, label in enumerate(["Cafe\u0301", " Café ", "Café"])]
    assert set(labels(parse(export_files.lines(rows), classes=("Café",))).values()) == {"Café"}


def test_case_and_spacing_are_told_with_the_alias_that_would_mend_it() -> None:
    rows = [{"image_url": image(1), "label": "Ice Cream"}, {"image_url": image(2), "label": "dog"}]
    strict = parse(export_files.lines(rows), classes=("ice_cream", "dog"))
    assert 'differs from \'ice_cream\' in case or spacing only: labeling.aliases = {"Ice Cream" = "ice_cream"}' in (
        strict.set_aside[0].reason
    )
    aliased = parse(export_files.lines(rows), classes=("ice_cream", "dog"), aliases={"Ice Cream": "ice_cream"})
    assert labels(aliased) == {image(1): "ice_cream", image(2): "dog"}
    rows[1]["label"] = "ice cream"
    assert "differ in case or spacing only" in parse(export_files.lines(rows)).remarks[0]


# ---------------------------------------------------------------------- refusals
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b'<!DOCTYPE x [<!ENTITY a "b">]><annotations>&a;</annotations>', "DOCTYPE or entities"),
        (b"<annotation></annotation>", r"<annotations>, not <annotation>"),
        (export_files.zipped({"readme.md": b"x"}), "a zip of 0 pictures and 0 other files holds no labels"),
        (export_files.zipped({"x.json": b'{"a": 1}'}), "x.json: a JSON object"),
        (json.dumps({f"IMG_{n}.jpg{n}": {"n": n} for n in range(3000)}).encode(), "and 2995 more"),
    ],
)
def test_a_refusal_is_short_and_says_what_was_tried(data: bytes, reason: str) -> None:
    with pytest.raises(BrokenExport, match=reason) as caught:
        read_export(data, "x")
    assert len(caught.value.reason) < 1000


def test_an_encrypted_zip_is_refused() -> None:
    data = bytearray(export_files.zipped({"x.json": b"{}"}))
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # the flag in both headers
        data[data.index(mark) + place] |= 1
    with pytest.raises(BrokenExport, match="encrypted"):
        read_export(bytes(data), "x.zip")


def test_a_bomb_is_refused_before_it_is_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("al_resources.labeling.formats.archive.MOST_BYTES_OF_LABELS", 1_000)
    with pytest.raises(BrokenExport, match="no file of labels is so large"):
        read_export(export_files.zipped({"x.json": b" " * 2_000}), "x.zip")
