"""Files of labels as people really have them: from spreadsheets, from tools asked several questions, packed twice."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import tarfile
from collections.abc import Mapping
from random import Random
from typing import Any

import export_files
import pandas as pd
import pyarrow as pa
import pytest
from export_files import TEXT_FILES, lines, zipped
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from al_core.images import content_id
from al_resources.labeling.exports import BrokenExport, ParsedExport, parse_export
from al_resources.settings import LabelingSettings

OWN = {path: f"{number:032x}" for number, path in enumerate(("a/1.jpg", "b/1.jpg", "A/2.JPG", "a/2.jpg", "x1_11.png"))}


def parse(data: bytes | str, name: str = "export", **labeling: Any) -> ParsedExport:
    data = data.encode() if isinstance(data, str) else data
    names = [(f"/pictures/{path}", image_id) for path, image_id in OWN.items()]
    return parse_export(
        data, name, LabelingSettings(**labeling), lambda ids: set(ids) & set(OWN.values()), lambda: names
    )


def labels(parsed: ParsedExport) -> dict[str, str | None]:
    path_of = {image_id: path for path, image_id in OWN.items()}
    return {path_of[label.image_id]: label.label for label in parsed.labels}


def refusal(data: bytes | str, **labeling: Any) -> str:
    with pytest.raises(BrokenExport) as caught:
        parse(data, **labeling)
    return caught.value.reason


# ---------------------------------------------------------------------- spreadsheets
@pytest.mark.parametrize(
    ("confidence", "meant"), [("0,94", 0.94), ("94 %", 0.94), ("94%", 0.94), ("0.94", 0.94), ("1", 1.0), ("", None)]
)
def test_numbers_may_be_written_as_spreadsheets_write_them(confidence: str, meant: float | None) -> None:
    (label,) = parse(f"\ufeffimage;label;confidence\r\na/1.jpg;cat;{confidence}\r\n").labels
    assert label.confidence == meant


@pytest.mark.parametrize(
    "when",
    [
        "2026-01-05T09:12:33Z",
        "2026-01-05 09:12:33",
        "2026-01-05 09:12:33 UTC",
        "2026-01-05T10:12:33+0100",
        "2026/01/05 09:12:33",
        "5.1.2026 09:12:33",
        "Mon, 05 Jan 2026 09:12:33 GMT",
        "1767604353",
        "1767604353000",
        "1767604353000000",
    ],
)
def test_a_time_may_be_written_in_many_ways(when: str) -> None:
    (label,) = parse(f'image\tlabel\tdate\tduration\na/1.jpg\tcat\t"{when}"\t0:01:03\n', "labels.txt").labels
    assert (str(label.labeled_at), label.annotation_seconds) == ("2026-01-05 09:12:33+00:00", 63)


@pytest.mark.parametrize("day", ["20260105", "2026-01-05", "05.01.2026"])
def test_a_day_without_a_time_is_its_beginning(day: str) -> None:
    (label,) = parse(f"image,label,date\na/1.jpg,cat,{day}\n").labels
    assert str(label.labeled_at) == "2026-01-05 00:00:00+00:00"


def test_a_date_that_could_be_two_days_is_refused_with_the_way_out() -> None:
    table = "image,label,date\na/1.jpg,cat,05/01/2026\n"
    assert 'labeling.columns = {labeled_at = ""} leaves the column out' in refusal(table)
    assert labels(parse(table, columns={"labeled_at": ""})) == {"a/1.jpg": "cat"}


def workbook(sheets: Mapping[str, list[list[Any]]]) -> bytes:
    buffer = io.BytesIO()
    with pd.ExcelWriter(buffer) as writer:
        for name, cells in sheets.items():
            pd.DataFrame(cells).to_excel(writer, sheet_name=name, index=False, header=False)
    return buffer.getvalue()


def test_every_sheet_of_a_workbook_is_read_or_named_and_a_table_may_stand_further_down() -> None:
    data = workbook(
        {
            "About": [["made by Ann"]],
            "Mon": [["", "", ""], ["", "File\nname", "label"], ["", "a/1.jpg", "NA"]],
            "Tue": [["image", "label"], ["b/1.jpg", 1]],
        }
    )
    parsed = parse(data)
    assert labels(parsed) == {"a/1.jpg": "NA", "b/1.jpg": "1"}
    assert parsed.remarks == ("not read in it: export, sheet 'About'",)
    assert labels(parse(zipped({"x/labels.xlsx": data}))) == labels(parsed)


NAMES_LIKE_NOTHING = ("null", "nan", "NA", "None", "1.0", "TRUE")


@pytest.mark.parametrize("write", [pd.DataFrame.to_csv, pd.DataFrame.to_excel, pd.DataFrame.to_parquet])
def test_classes_may_be_called_like_nothing_or_like_numbers(write: Any) -> None:
    buffer = io.BytesIO()
    images = [*OWN, "c.jpg"][: len(NAMES_LIKE_NOTHING)]
    write(pd.DataFrame({"image": images, "label": NAMES_LIKE_NOTHING}).set_index("image"), buffer)
    assert set(labels(parse(buffer.getvalue())).values()) == set(NAMES_LIKE_NOTHING[: len(OWN)])


def test_a_whole_number_of_parquet_stays_one_beside_an_empty_cell() -> None:
    buffer = io.BytesIO()
    pd.DataFrame({"image": list(OWN)[:3], "label": [1, 0, None]}).to_parquet(buffer)
    parsed = parse(buffer.getvalue())
    assert (labels(parsed), parsed.unlabeled) == ({"a/1.jpg": "1", "b/1.jpg": "0"}, 1)


def test_a_data_set_of_hugging_face_says_its_classes_in_the_schema() -> None:
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["cat", "dog"]}}
    rows = {"image": [{"bytes": b"", "path": "a/1.jpg"}, {"bytes": b"", "path": "b/1.jpg"}], "label": [1, 0]}
    table = pa.table(rows).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    buffer = io.BytesIO()
    parquet.write_table(table, buffer)
    assert labels(parse(buffer.getvalue())) == {"a/1.jpg": "dog", "b/1.jpg": "cat"}


def test_of_several_usual_columns_those_are_taken_that_hold_images_and_names() -> None:
    table = "image_id,file_name,label,class_name\n1,a/1.jpg,0,cat\n2,b/1.jpg,1,dog\n"
    assert labels(parse(table)) == {"a/1.jpg": "cat", "b/1.jpg": "dog"}
    table = "image,label,tag\na/1.jpg,0,sunny\nb/1.jpg,1,sunny\n"
    assert labels(parse(table)) == {"a/1.jpg": "0", "b/1.jpg": "1"}, "what else is said is no name of the class"


def test_a_number_is_the_same_class_in_json_and_in_csv() -> None:
    rows = [{"image": "a/1.jpg", "label": 0}, {"image": "b/1.jpg", "label": 1}]
    assert labels(parse(json.dumps(rows))) == labels(parse("image,label\na/1.jpg,0\nb/1.jpg,1\n"))


@pytest.mark.parametrize("remarks", ["# by Ann\n", "# by Ann, in May\n# 2, 3\n", "sep=,\n", "# by Ann, in May\n# "])
def test_remarks_above_the_header_are_no_header(remarks: str) -> None:
    assert labels(parse(f"{remarks}image,label\na/1.jpg,cat\n")) == {"a/1.jpg": "cat"}


# ---------------------------------------------------------------------- lines, packed files, encodings
ROWS = lines([{"image_url": "a/1.jpg", "label": "cat"}, {"image_url": "b/1.jpg", "label": "dog"}])


def tarred(name: str, data: bytes, mode: Any) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        ROWS.replace(b"\n", b"\r\n\r\n"),
        ROWS.replace(b"}\n", b"},\n"),
        gzip.compress(ROWS),
        tarred("set/labels.jsonl", ROWS, "w:gz"),
        tarred("set/labels.jsonl", ROWS, "w"),
        zipped({"all.zip": zipped({"labels.jsonl": ROWS}), "__MACOSX/._all.zip": b"\0\5\x16"}),
        zipped({"labels.jsonl.gz": gzip.compress(ROWS)}),
        zipped({"set/labels.TXT": b"a/1.jpg,cat\nb/1.jpg,dog\n", "readme.txt": b"Hello, and welcome"}),
        zipped({"labels.txt": b"file\tclass\na/1.jpg\tcat\nb/1.jpg\tdog\n", "classes.txt": b"cat\ndog\n"}),
    ],
)
def test_however_lines_are_broken_and_packed_they_are_read(data: bytes) -> None:
    parsed = parse(data)
    assert (labels(parsed), parsed.remarks) == ({"a/1.jpg": "cat", "b/1.jpg": "dog"}, ())


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b", "\x1e"])
def test_what_unicode_counts_as_the_end_of_a_line_ends_no_line_of_json_or_csv(separator: str) -> None:
    rows = [{"image_url": path, "label": "cat", "note": f"one{separator}two"} for path in ("a/1.jpg", "b/1.jpg")]
    table = f"image,note,label\na/1.jpg,x{separator}y,cat\nb/1.jpg,,cat\n"
    assert labels(parse(lines(rows))) == labels(parse(table)) == {"a/1.jpg": "cat", "b/1.jpg": "cat"}


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_utf_without_a_mark_is_told_where_the_table_begins_in_another_script(encoding: str) -> None:
    table = "файл;класс\na/1.jpg;кот\n".encode(encoding)
    assert labels(parse(table, columns={"image": "файл", "label": "класс"})) == {"a/1.jpg": "кот"}


def test_folders_of_a_zip_by_apple_keep_their_letters(png: bytes) -> None:
    """Finder writes UTF-8 without the mark that says so."""
    data = zipped({"Äpfel/1.png": png, "Birnen/2.png": png + b"x"})
    unmarked = data.replace(b"\x00\x08\x00\x00", b"\x00\x00\x00\x00")
    assert unmarked != data
    known = {content_id(png), content_id(png + b"x")}
    parsed = parse_export(unmarked, "x", LabelingSettings(), lambda ids: known & set(ids))
    assert {label.label for label in parsed.labels} == {"Äpfel", "Birnen"}


@pytest.mark.parametrize("ending", ["", ".img", ".JPEG", ".png.1"])
def test_pictures_of_a_zip_are_told_by_their_first_bytes(png: bytes, ending: str) -> None:
    data = zipped({f"cat/1{ending}": png, f"dog/2{ending}": png + b"x"})
    known = {content_id(png): "cat", content_id(png + b"x"): "dog"}
    parsed = parse_export(data, "x", LabelingSettings(), lambda ids: known.keys() & set(ids))
    assert ({label.image_id: label.label for label in parsed.labels}, parsed.remarks) == (known, ())


def test_zips_in_a_zip_are_the_folders_of_their_names(png: bytes) -> None:
    parts = {"train.zip": zipped({"cat/1.png": png}), "test.zip": zipped({"dog/2.png": png + b"x"})}
    known = {content_id(png), content_id(png + b"x")}
    parsed = parse_export(zipped(parts), "x", LabelingSettings(), lambda ids: known & set(ids))
    assert {label.label for label in parsed.labels} == {"cat", "dog"}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 99, "old Excel (.xls); save it as .xlsx or CSV"),
        (b"7z\xbc\xaf\x27\x1c\0\4" + b"\0" * 99, "7-Zip archive; pack it as a zip"),
        (b"%PDF-1.4\n%\xe2\xe3\xcf\xd3", "a PDF; expected an export"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF\0" + b"\0" * 99, "a picture (.jpg) and no export"),
        (b"<!DOCTYPE html><html><body>Log in</body></html>", "a web page and no export"),
        (gzip.compress(ROWS)[:-9], "a gzip file that cannot be read"),
        (tarred("labels.jsonl", ROWS, "w")[:700], "a tar that cannot be read"),
        (zipped({"a.zip": zipped({"b.zip": zipped({"c.zip": zipped({"d.zip": b""})})})}), "unpack it"),
        ("image;label\na/1.jpg;Kätzchen\n".encode("cp1252"), "CSV UTF-8"),
        (b"[]", "was it released before anybody had labeled?"),
        (zipped({"result.json": b"[]"}), "result.json: there is nothing in it"),
        (zipped({}), "a zip of 0 pictures and 0 other files"),
    ],
)
def test_what_is_no_export_is_called_by_its_name(data: bytes, reason: str) -> None:
    assert reason in refusal(data)


# ---------------------------------------------------------------------- names
def test_the_very_name_counts_before_one_that_differs_in_case() -> None:
    assert labels(parse("image,label\na/2.jpg,cat\nA/2.JPG,dog\n")) == {"a/2.jpg": "cat", "A/2.JPG": "dog"}


@pytest.mark.parametrize(("written", "meant"), [("v1.2.png", 0), ("v1.2", 0), ("v1.jpg", 1), ("v1", 1), ("V1.PNG", 1)])
def test_what_follows_the_last_dot_is_an_ending_only_if_pictures_have_it(written: str, meant: int) -> None:
    own = [("/p/v1.2.png", f"{0:032x}"), ("/p/v1.png", f"{1:032x}")]
    parsed = parse_export(
        f"image,label\n{written},cat\n".encode(), "x", LabelingSettings(), lambda ids: set(), lambda: own
    )
    assert [label.image_id for label in parsed.labels] == [f"{meant:032x}"]


def test_a_picture_that_is_known_by_its_name_alone_although_it_came_along_is_told(png: bytes) -> None:
    """Tools encode pictures anew when they hand them out; or it is another picture of that name."""
    parsed = parse(zipped({"set/cat/x1_11.png": png, "set/dog/other.png": png + b"x"}))
    assert labels(parsed) == {"x1_11.png": "cat"}
    assert "1 of its pictures, like set/cat/x1_11.png, are none of the store's, byte by byte" in parsed.remarks[0]
    parsed = parse_export(zipped({"cat/x1_11.png": png, "dog/2.png": png + b"x"}), "x", LabelingSettings(), set)
    assert parsed.remarks == ()


def test_digits_that_something_parts_are_no_other_digits() -> None:
    assert labels(parse("image,label\nx1-11.png,cat\n")) == {"x1_11.png": "cat"}
    for other in ("x11_1.png", "x111.png"):
        assert "is unknown here" in refusal(f"image,label\n{other},cat\n")


# ---------------------------------------------------------------------- several questions
def label_studio(**answers: str) -> bytes:
    result = [
        {"type": "choices", "from_name": control, "to_name": "image", "value": {"choices": [answer]}}
        for control, answer in answers.items()
    ]
    return json.dumps([{"data": {"image": "a/1.jpg"}, "annotations": [{"result": result}]}]).encode()


def label_studio_min(**answers: str) -> bytes:
    row = {"image": "a/1.jpg", "origin": "cam", "id": 1, **answers, "annotator": 1, "annotation_id": 1}
    return json.dumps([row]).encode()


def labelbox(**answers: str) -> bytes:
    """Each question in a project of its own."""
    projects = {
        f"project of {question}": {
            "labels": [{"annotations": {"classifications": [{"name": question, "radio_answer": {"name": answer}}]}}]
        }
        for question, answer in answers.items()
    }
    return lines([{"data_row": {"external_id": "a/1.jpg"}, "projects": projects}])


def fiftyone(**answers: str) -> bytes:
    fields = {field: {"_cls": "Classification", "label": answer} for field, answer in answers.items()}
    return json.dumps({"samples": [{"filepath": "a/1.jpg", **fields}]}).encode()


def via(**answers: str) -> bytes:
    return json.dumps({"1": {"filename": "a/1.jpg", "file_attributes": {"caption": "x", **answers}}}).encode()


def via_3(**answers: str) -> bytes:
    content = json.loads(export_files.via_3({"a/1.jpg": next(iter(answers.values()))}))
    content["attribute"] = {
        str(number): {"aname": name, "type": 3, "options": {"0": answer, "1": "-"}}
        for number, (name, answer) in enumerate(answers.items(), 1)
    }
    content["metadata"]["1_k"]["av"] = dict.fromkeys(content["attribute"], "0")
    return json.dumps(content).encode()


@pytest.mark.parametrize("write", [label_studio, label_studio_min, labelbox, fiftyone, via, via_3])
def test_of_several_questions_the_one_with_the_class_is_asked_for_and_never_guessed(write: Any) -> None:
    assert labels(parse(write(kind="cat"))) == {"a/1.jpg": "cat"}
    assert "kind, quality" in (reason := refusal(write(quality="good", kind="cat")))
    assert 'which one is the class? labeling.columns = {label = "..."} names it' in reason
    assert labels(parse(write(quality="good", kind="cat"), columns={"label": "kind"})) == {"a/1.jpg": "cat"}
    assert labels(parse(write(quality="good", label="cat"))) == {"a/1.jpg": "cat"}, "a usual name says it"


# ---------------------------------------------------------------------- what is drawn is no label, and no silence
def drawn_in_label_studio(value: dict[str, Any]) -> bytes:
    return json.dumps([{"data": {"image": "a/1.jpg"}, "annotations": [{"result": [{"value": value}]}]}]).encode()


def ground_truth(**metadata: Any) -> bytes:
    return lines([{"source-ref": "s3://b/a/1.jpg", "job-metadata": {"human-annotated": "yes", **metadata}}])


def in_cvat(shapes: str) -> bytes:
    return f'<annotations><image id="0" name="a/1.jpg" width="9" height="9">{shapes}</image></annotations>'.encode()


BOX = {"_cls": "Detection", "label": "cat", "bounding_box": [0.1, 0.1, 0.5, 0.5]}
DRAWN = {
    "CVAT's masks": in_cvat('<mask label="cat" rle="1" left="0" top="0" width="3" height="3"/>'),
    "CVAT's points": in_cvat('<points label="cat" points="1,2;3,4"/>'),
    "Label Studio's brush": drawn_in_label_studio({"format": "rle", "rle": [1], "brushlabels": ["cat"]}),
    "Label Studio's ellipse": drawn_in_label_studio({"x": 1, "y": 1, "radiusX": 2, "ellipselabels": ["cat"]}),
    "Label Studio's choice for a box": drawn_in_label_studio(
        {"x": 1, "y": 1, "width": 5, "height": 5, "choices": ["cat"]}
    ),
    "Ground Truth's boxes": ground_truth(type="groundtruth/object-detection", **{"class-map": {"0": "cat"}}),
    "Ground Truth's areas": ground_truth(
        type="groundtruth/semantic-segmentation", **{"internal-color-map": {"1": {"class-name": "cat"}}}
    ),
    "VIA's regions": json.dumps(
        {
            "1": {
                "filename": "a/1.jpg",
                "file_attributes": {},
                "regions": [
                    {
                        "shape_attributes": {"x": 1, "y": 1, "width": 4, "height": 4},
                        "region_attributes": {"kind": "cat"},
                    }
                ],
            }
        }
    ).encode(),
    "FiftyOne's detections": json.dumps(
        {"samples": [{"filepath": "a/1.jpg", "ground_truth": {"_cls": "Detections", "detections": [BOX]}}]}
    ).encode(),
    "Labelbox's objects": lines(
        [
            {
                "data_row": {"external_id": "a/1.jpg"},
                "projects": {"p": {"labels": [{"annotations": {"objects": [{"name": "cat"}], "classifications": []}}]}},
            }
        ]
    ),
    "Prodigy's spans": lines(
        [{"image": "a/1.jpg", "answer": "accept", "spans": [{"label": "cat", "points": [[0, 0]]}]}]
    ),
    "COCO's run lengths": json.dumps(
        {
            "images": [{"id": 1, "file_name": "a/1.jpg"}],
            "annotations": [
                {"id": 1, "image_id": 1, "category_id": 1, "segmentation": {"counts": [1], "size": [9, 9]}}
            ],
            "categories": [{"id": 1, "name": "cat"}],
        }
    ).encode(),
}


@pytest.mark.parametrize("tool", DRAWN)
def test_what_is_drawn_in_a_picture_is_set_aside_as_such_and_neither_a_label_nor_no_answer(tool: str) -> None:
    assert "a box or polygon, not a label of the image" in refusal(DRAWN[tool])


@pytest.mark.parametrize("tool", ["VIA's regions", "FiftyOne's detections"])
def test_and_counts_where_the_settings_say_that_the_largest_one_does(tool: str) -> None:
    assert labels(parse(DRAWN[tool], boxes="largest")) == {"a/1.jpg": "cat"}


# ---------------------------------------------------------------------- what people said besides
def test_what_is_said_twice_is_said_once() -> None:
    image = '<image id="0" name="a/1.jpg"><tag label="cat"/><tag label="cat"/></image>'
    assert labels(parse(f"<annotations>{image}</annotations>")) == {"a/1.jpg": "cat"}


def test_a_cancelled_row_and_one_with_an_outcome_are_answers_that_are_no_class() -> None:
    cancelled = "image,id,choice,annotator,annotation_id,was_cancelled\na/1.jpg,1,,1,1,True\nb/1.jpg,2,cat,1,2,False\n"
    assert [(label.outcome, label.label) for label in parse(cancelled).labels] == [("skip", None), ("label", "cat")]
    table = "image,label,outcome\na/1.jpg,,bad\nb/1.jpg,cat,\n"
    assert [(label.outcome, label.label) for label in parse(table).labels] == [("bad", None), ("label", "cat")]


def test_of_ground_truths_jobs_the_last_counts_and_a_verdict_on_labels_is_none() -> None:
    def job(name: str, day: int, kind: str = "image-classification") -> dict[str, Any]:
        return {"class-name": name, "creation-date": f"2026-01-0{day}T00:00:00", "type": f"groundtruth/{kind}"}

    row = {"source-ref": "s3://b/a/1.jpg", "first-metadata": job("cat", 1), "again-metadata": job("dog", 2)}
    row["verdict-metadata"] = job("correct", 3, "label-verification")
    assert labels(parse(lines([row]))) == {"a/1.jpg": "dog"}
    assert labels(parse(lines([row]), columns={"label": "first"})) == {"a/1.jpg": "cat"}


def test_an_answer_in_labelboxs_text_field_is_an_answer() -> None:
    one = {"name": "kind", "text_answer": {"content": "cat"}}
    row = {
        "data_row": {"external_id": "a/1.jpg"},
        "projects": {"p": {"labels": [{"annotations": {"classifications": [one]}}]}},
    }
    assert labels(parse(lines([row]))) == {"a/1.jpg": "cat"}


# ---------------------------------------------------------------------- people
def test_images_of_cvats_tasks_are_answered_by_the_tasks_own_people() -> None:
    tasks = "".join(
        f"<task><id>{number}</id><assignee><username>{who}</username></assignee></task>"
        for number, who in enumerate(["ann", "bob"], 1)
    )
    images = "".join(
        f'<image id="{n}" name="{path}" task_id="{n}"><tag label="cat"/></image>'
        for n, path in enumerate(list(OWN)[:3], 1)
    )
    parsed = parse(f"<annotations><meta><project><tasks>{tasks}</tasks></project></meta>{images}</annotations>")
    assert [label.annotator for label in parsed.labels] == ["ann", "bob", None]


def test_a_number_that_no_class_has_is_set_aside_and_never_counted_from_the_end() -> None:
    content = {
        "categories": {"label": {"labels": [{"name": "cat"}, {"name": "dog"}]}},
        "items": [
            {"id": path, "annotations": [{"type": "label", "label_id": number}]}
            for path, number in zip(OWN, (-1, 0, 2), strict=False)
        ],
    }
    parsed = parse(json.dumps(content))
    assert (labels(parsed), len(parsed.set_aside)) == ({"b/1.jpg": "cat"}, 2)


def test_several_classifications_of_fiftyone_are_several_labels_and_none_is_no_answer() -> None:
    def sample(path: str, *names: str) -> dict[str, Any]:
        several = [{"_cls": "Classification", "label": name} for name in names]
        return {"filepath": path, "ground_truth": {"_cls": "Classifications", "classifications": several}}

    samples = [sample("a/1.jpg", "cat"), sample("b/1.jpg", "cat", "dog"), {"filepath": "a/2.jpg", "ground_truth": None}]
    parsed = parse(json.dumps({"samples": samples}))
    assert (labels(parsed), parsed.unlabeled) == ({"a/1.jpg": "cat"}, 1)
    assert "2 labels for one image" in parsed.set_aside[0].reason


def test_tasks_that_only_a_model_has_answered_are_without_an_answer() -> None:
    guess = {"result": [{"from_name": "choice", "value": {"choices": ["cat"]}}], "score": 0.9}
    assert "1 images without an answer" in refusal(json.dumps([{"data": {"image": "a/1.jpg"}, "predictions": [guess]}]))


# ---------------------------------------------------------------------- whatever is in a file
ODD = [None, True, 0, -1, 1e400, "x", [], {}, [None], {"a": 1}, "\ud800", 10**30]


def mutated(value: Any, chance: Random) -> Any:
    """A JSON value with some of its parts missing, or of another type."""
    if chance.random() < 0.04:
        return chance.choice(ODD)
    if isinstance(value, dict):
        return {key: mutated(one, chance) for key, one in value.items() if chance.random() > 0.02}
    return [mutated(one, chance) for one in value] if isinstance(value, list) else value


def spoiled(text: str, chance: Random) -> str:
    if not text.lstrip().startswith(("{", "[")):
        letters = list(text)
        for _ in range(chance.randint(1, 6)):
            letters[chance.randrange(len(letters))] = chance.choice("\"',;\t\n<>&{}[]0a\\\0")
        return "".join(letters)
    try:
        return json.dumps(mutated(json.loads(text), chance))
    except ValueError:
        return "\n".join(json.dumps(mutated(json.loads(line), chance)) for line in text.splitlines())


@pytest.mark.parametrize("format_", TEXT_FILES)
@settings(max_examples=60, deadline=None)
@given(chance=st.randoms(use_true_random=True))
def test_whatever_is_missing_or_of_another_type_is_set_aside_or_refused_and_no_crash(
    format_: str, chance: Random
) -> None:
    """A crash would end the sensor's look, and with it that at all other files in the inbox."""
    text = TEXT_FILES[format_]({f"{number:032x}.png": "cat" if number % 2 else "dog" for number in range(4)}).decode()
    with contextlib.suppress(BrokenExport):
        parse(spoiled(text, chance).encode("utf-8", "surrogatepass"))


def test_a_cell_longer_than_csv_likes_is_no_crash() -> None:
    assert "unknown here" in refusal(f"image,label\n{'x' * 200_000}.jpg,cat\n")
