"""What tools really write is read: Datumaro's writers for CVAT's formats, Label Studio's own converter, FiftyOne's
exporters, and Hugging Face's data sets.
"""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import export_files
import pytest
from tools_writers import (
    DATUMARO,
    FIFTYONE,
    HUGGING_FACE,
    LABEL_STUDIO,
    WRITE_DATUMARO,
    WRITE_FIFTYONE,
    WRITE_HUGGING_FACE,
    WRITE_LABEL_STUDIO,
    python_with,
    write,
)

from al_resources.labeling.exports import ParsedExport, parse_export
from al_resources.settings import LabelingSettings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1_500)]

CLASSES = ["cat", "dög & 'co'"]
ANSWERS = {"a1": CLASSES[0], "holiday 2024": CLASSES[1], "c_3": CLASSES[0], "ü": CLASSES[1], "nobody looked": None}
IMAGES = {name: f"{number:032x}" for number, name in enumerate(ANSWERS, 1)}
TRUTH = {IMAGES[name]: label for name, label in ANSWERS.items() if label is not None}


def read(data: bytes) -> ParsedExport:
    names = [(f"/home/me/pictures/{name}.jpg", image_id) for name, image_id in IMAGES.items()]
    return parse_export(data, "export", LabelingSettings(classes=tuple(CLASSES)), lambda ids: set(), lambda: names)


def answers(parsed: ParsedExport) -> dict[str, str | None]:
    return {label.image_id: label.label for label in parsed.labels}


def zip_of(folder: Path) -> bytes:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return export_files.zipped({path.relative_to(folder).as_posix(): path.read_bytes() for path in files})


@pytest.fixture(scope="module")
def datumaro(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("datumaro")
    write(python_with("datumaro", DATUMARO), WRITE_DATUMARO, json.dumps(ANSWERS), json.dumps(CLASSES), str(folder))
    return folder


@pytest.mark.parametrize("format_", ["cvat", "datumaro", "coco", "imagenet"])
def test_a_zip_as_cvat_hands_it_out_is_read_whole(datumaro: Path, format_: str) -> None:
    parsed = read(zip_of(datumaro / format_))
    assert (answers(parsed), parsed.unlabeled, parsed.set_aside) == (TRUTH, 1, ())


@pytest.mark.parametrize(("format_", "files"), [("cvat", "*.xml"), ("datumaro", "annotations/*.json")])
def test_a_single_file_of_it_is_read(datumaro: Path, format_: str, files: str) -> None:
    parts = [read(path.read_bytes()) for path in (datumaro / format_).glob(files)]
    assert {image: label for part in parts for image, label in answers(part).items()} == TRUTH


@pytest.fixture(scope="module")
def label_studio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("label-studio")
    (folder / "tasks.json").write_bytes(_tasks())
    write(
        python_with("label-studio-sdk", LABEL_STUDIO),
        WRITE_LABEL_STUDIO,
        '<View><Image name="image" value="$image"/><Choices name="choice" toName="image">'
        '<Choice value="cat"/><Choice value="dög &amp; \'co\'"/></Choices></View>',
        str(folder / "tasks.json"),
        str(folder),
    )
    return folder


def _tasks() -> bytes:
    tasks = [
        {
            "id": number,
            "data": {"image": f"/data/upload/7/3f9c2a7b-{name.replace(' ', '_')}.jpg"},
            "annotations": []
            if label is None
            else [
                {
                    "id": number,
                    "completed_by": {"id": 1, "email": "ann@example.org", "first_name": "", "last_name": ""},
                    "created_at": "2026-01-05T09:59:13.000000Z",
                    "updated_at": "2026-01-05T10:59:13.000000Z",
                    "lead_time": 2.5,
                    "was_cancelled": False,
                    "result": [
                        {
                            "id": "r",
                            "type": "choices",
                            "from_name": "choice",
                            "to_name": "image",
                            "value": {"choices": [label]},
                        }
                    ],
                }
            ],
            "predictions": [],
        }
        for number, (name, label) in enumerate(ANSWERS.items(), 1)
    ]
    return json.dumps(tasks).encode()


@pytest.mark.parametrize("format_", ["JSON", "JSON_MIN", "CSV", "TSV"])
def test_what_label_studios_converter_writes_is_read_with_who_and_when(label_studio: Path, format_: str) -> None:
    (file,) = [path for path in (label_studio / format_).rglob("*") if path.is_file()]
    parsed = read(file.read_bytes())
    assert answers(parsed) == TRUTH
    assert {label.annotator for label in parsed.labels} == {"ann@example.org"}
    assert {str(label.labeled_at) for label in parsed.labels} == {"2026-01-05 10:59:13+00:00"}
    assert {label.annotation_seconds for label in parsed.labels} == {2.5}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.write(file, f"project-7/{file.name}")
    assert answers(read(buffer.getvalue())) == TRUTH


@pytest.fixture(scope="module")
def fiftyone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fiftyone")
    write(python_with("fiftyone", FIFTYONE), WRITE_FIFTYONE, json.dumps(ANSWERS), str(folder))
    return folder


@pytest.mark.parametrize("format_", ["names", "numbers", "tree"])
def test_what_fiftyones_exporters_write_is_read(fiftyone: Path, format_: str) -> None:
    parsed = read(zip_of(fiftyone / format_))
    assert (answers(parsed), parsed.unlabeled, parsed.set_aside) == (TRUTH, 1, ())
    if format_ != "tree":
        assert answers(read((fiftyone / format_ / "labels.json").read_bytes())) == TRUTH
    assert {label.confidence for label in parsed.labels} == ({0.5} if format_ == "names" else {None})


@pytest.fixture(scope="module")
def hugging_face(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hugging-face")
    python = python_with("datasets", HUGGING_FACE)
    write(python, WRITE_HUGGING_FACE, json.dumps(ANSWERS), json.dumps(CLASSES), str(folder))
    return folder


@pytest.mark.parametrize("file", ["train.parquet", "metadata.jsonl", "metadata.csv"])
def test_what_hugging_faces_data_sets_write_is_read_with_the_names_of_the_classes(
    hugging_face: Path, file: str
) -> None:
    parsed = read((hugging_face / file).read_bytes())
    assert (answers(parsed), parsed.unlabeled, parsed.set_aside) == (TRUTH, 1, ())
