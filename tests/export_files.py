"""Files of labels as the tools write them, by their public documentation: one writer a format for the contract suite.

Every writer takes {name of the image: class} and, where the format has a place for it, who answered and when.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Mapping
from typing import Any
from xml.sax.saxutils import quoteattr

import pandas as pd

Answers = Mapping[str, str]
WHO, WHEN = "ann@example.com", "2026-01-05T09:12:33Z"


def lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def coco(answers: Answers) -> bytes:
    names = sorted(set(answers.values()))
    content = {
        "images": [{"id": n, "file_name": name, "width": 9, "height": 9} for n, name in enumerate(answers, 1)],
        "annotations": [
            {"id": n, "image_id": n, "category_id": names.index(label), "annotator": WHO, "labeled_at": WHEN}
            for n, label in enumerate(answers.values(), 1)
        ],
        "categories": [{"id": n, "name": name} for n, name in enumerate(names)],
    }
    return json.dumps(content).encode()


def azure_ml(answers: Answers) -> bytes:
    address = "azureml://subscriptions/s/resourcegroups/g/workspaces/w/datastores/d/paths/"
    return lines(
        [
            {"image_url": address + name, "label": label, "label_confidence": 1.0, "annotator": WHO, "labeled_at": WHEN}
            for name, label in answers.items()
        ]
    )


def label_studio(answers: Answers) -> bytes:
    tasks = [
        {
            "id": number,
            "data": {"image": f"/data/upload/1/3f9c2a7b-{name}"},
            "annotations": [
                {
                    "id": number,
                    "completed_by": {"id": 1, "email": WHO},
                    "result": [
                        {
                            "value": {"choices": [label]},
                            "from_name": "choice",
                            "to_name": "image",
                            "type": "choices",
                        }
                    ],
                    "was_cancelled": False,
                    "created_at": "2026-01-01T00:00:00Z",
                    "updated_at": WHEN,
                    "lead_time": 3.2,
                }
            ],
            "predictions": [{"result": [{"value": {"choices": ["a guess"]}}], "score": 0.9}],
            "drafts": [],
        }
        for number, (name, label) in enumerate(answers.items(), 1)
    ]
    return json.dumps(tasks, indent=2).encode()


def _label_studio_rows(answers: Answers) -> list[dict[str, Any]]:
    return [
        {
            "image": f"/data/local-files/?d=pictures/{name}",
            "id": number,
            "kind": label,
            "annotator": WHO,
            "annotation_id": number,
            "created_at": WHEN,
            "updated_at": WHEN,
            "lead_time": 3.2,
        }
        for number, (name, label) in enumerate(answers.items(), 1)
    ]


def label_studio_min(answers: Answers) -> bytes:
    return json.dumps(_label_studio_rows(answers)).encode()


def label_studio_csv(answers: Answers) -> bytes:
    return pd.DataFrame(_label_studio_rows(answers)).to_csv(index=False).encode()


def label_studio_tsv(answers: Answers) -> bytes:
    return pd.DataFrame(_label_studio_rows(answers)).to_csv(index=False, sep="\t").encode()


def cvat(answers: Answers) -> bytes:
    images = "".join(
        f'<image id="{n}" name={quoteattr(name)} width="9" height="9">'
        f'<tag label={quoteattr(label)} source="manual"></tag></image>'
        for n, (name, label) in enumerate(answers.items())
    )
    meta = f"<meta><task><assignee><username>{WHO}</username></assignee></task></meta>"
    start = '<?xml version="1.0" encoding="utf-8"?><annotations><version>1.1</version>'
    return f"{start}{meta}{images}</annotations>".encode()


def datumaro(answers: Answers) -> bytes:
    names = sorted(set(answers.values()))
    content = {
        "info": {},
        "categories": {"label": {"labels": [{"name": name, "parent": "", "attributes": []} for name in names]}},
        "items": [
            {
                "id": name.rpartition(".")[0],
                "annotations": [
                    {"id": 0, "type": "label", "attributes": {}, "group": 0, "label_id": names.index(label)}
                ],
                "image": {"path": name, "size": [9, 9]},
            }
            for name, label in answers.items()
        ],
    }
    return json.dumps(content).encode()


def ground_truth(answers: Answers) -> bytes:
    return lines(
        [
            {
                "source-ref": f"s3://bucket/pictures/{name}",
                "kind": 0,
                "kind-metadata": {
                    "class-name": label,
                    "confidence": 0.94,
                    "type": "groundtruth/image-classification",
                    "human-annotated": "yes",
                    "creation-date": WHEN,
                    "job-name": "labeling-job/kind",
                },
            }
            for name, label in answers.items()
        ]
    )


def via(answers: Answers) -> bytes:
    content = {
        f"{name}{size}": {
            "filename": name,
            "size": size,
            "regions": [],
            "file_attributes": {"caption": "", "kind": label},
        }
        for size, (name, label) in enumerate(answers.items(), 10)
    }
    return json.dumps(content).encode()


def via_project(answers: Answers) -> bytes:
    content = {"_via_settings": {}, "_via_attributes": {"file": {}}, "_via_img_metadata": json.loads(via(answers))}
    return json.dumps(content).encode()


def via_csv(answers: Answers) -> bytes:
    rows = [
        {
            "filename": name,
            "file_size": 10,
            "file_attributes": json.dumps({"kind": label}),
            "region_count": 0,
            "region_id": 0,
            "region_shape_attributes": "{}",
            "region_attributes": "{}",
        }
        for name, label in answers.items()
    ]
    return pd.DataFrame(rows).to_csv(index=False).encode()


def _via_3_parts(answers: Answers) -> tuple[dict[str, Any], dict[str, str]]:
    """The attributes of a VIA 3 project, and image -> what its metadata says."""
    names = sorted(set(answers.values()))
    options = {str(number): name for number, name in enumerate(names)}
    attributes = {"1": {"aname": "kind", "anchor_id": "FILE1_Z0_XY0", "type": 3, "options": options}}
    return attributes, {image: str(names.index(label)) for image, label in answers.items()}


def via_3(answers: Answers) -> bytes:
    attributes, said = _via_3_parts(answers)
    content = {
        "project": {"data_format_version": "3.1.1", "vid_list": [str(n) for n, _ in enumerate(answers, 1)]},
        "config": {},
        "attribute": attributes,
        "file": {
            str(n): {"fid": str(n), "fname": image, "type": 2, "loc": 1, "src": ""}
            for n, image in enumerate(answers, 1)
        },
        "view": {str(n): {"fid_list": [str(n)]} for n, _ in enumerate(answers, 1)},
        "metadata": {
            f"{n}_k": {"vid": str(n), "flg": 0, "z": [], "xy": [], "av": {"1": option}}
            for n, option in enumerate(said.values(), 1)
        },
    }
    return json.dumps(content).encode()


def via_3_csv(answers: Answers) -> bytes:
    attributes, said = _via_3_parts(answers)
    remarks = [
        "# Exported using VGG Image Annotator (http://www.robots.ox.ac.uk/~vgg/software/via)",
        "# - spatial_coordinates of [2,10,20,50,80] denotes a rectangle (shape_id=2) of size 50x80 placed at (10,20)",
        f"# ATTRIBUTE = {json.dumps(attributes)}",
        "# CSV_HEADER = metadata_id,file_list,flags,temporal_coordinates,spatial_coordinates,metadata",
    ]
    cells = [
        [f"{n}_k", json.dumps([image]), "0", "[]", "[]", json.dumps({"1": option})]
        for n, (image, option) in enumerate(said.items(), 1)
    ]
    rows = [",".join('"' + cell.replace('"', '""') + '"' for cell in row) for row in cells]
    return "\n".join([*remarks, *rows]).encode()


def fiftyone(answers: Answers) -> bytes:
    names = sorted(set(answers.values()))
    labels = {name.rpartition(".")[0]: names.index(label) for name, label in answers.items()}
    return json.dumps({"classes": names, "labels": labels}).encode()


def fiftyone_samples(answers: Answers) -> bytes:
    samples = [
        {"filepath": f"data/{name}", "ground_truth": {"_cls": "Classification", "label": label, "tags": []}}
        for name, label in answers.items()
    ]
    return json.dumps({"samples": samples}).encode()


def labelbox(answers: Answers) -> bytes:
    return lines(
        [
            {
                "data_row": {"id": f"row{number}", "external_id": name, "row_data": "https://storage/x"},
                "projects": {
                    "p": {
                        "name": "kinds",
                        "labels": [
                            {
                                "label_kind": "Default",
                                "id": f"label{number}",
                                "label_details": {"created_at": WHEN, "updated_at": WHEN, "created_by": WHO},
                                "performance_details": {"seconds_to_create": 3, "skipped": False},
                                "annotations": {
                                    "objects": [],
                                    "classifications": [
                                        {"name": "kind", "radio_answer": {"name": label, "value": "value"}}
                                    ],
                                },
                            }
                        ],
                    }
                },
            }
            for number, (name, label) in enumerate(answers.items())
        ]
    )


def prodigy(answers: Answers) -> bytes:
    names = sorted(set(answers.values()))
    return lines(
        [
            {
                "image": f"http://localhost:8080/{name}",
                "options": [{"id": one, "text": one} for one in names],
                "accept": [label],
                "answer": "accept",
                "_annotator_id": WHO,
                "_timestamp": 1767604353,
            }
            for name, label in answers.items()
        ]
    )


def roboflow(answers: Answers) -> bytes:
    names = sorted({*answers.values(), "Unlabeled"})
    header = ", ".join(["filename", *names])
    rows = [
        ", ".join([_roboflow_name(name), *(str(int(one == label)) for one in names)]) for name, label in answers.items()
    ]
    return "\n".join([header, *rows, ""]).encode()


def _roboflow_name(name: str) -> str:
    stem, _, suffix = name.rpartition(".")
    return f"{stem}_{suffix}.rf.0123456789abcdef0123456789abcdef.jpg"


def table(answers: Answers) -> pd.DataFrame:
    return pd.DataFrame(
        {"File name": list(answers), "Class": list(answers.values()), "annotator": WHO, "labeled_at": WHEN}
    )


def excel(answers: Answers) -> bytes:
    buffer = io.BytesIO()
    table(answers).to_excel(buffer, index=False)
    return buffer.getvalue()


def parquet(answers: Answers) -> bytes:
    buffer = io.BytesIO()
    table(answers).to_parquet(buffer)
    return buffer.getvalue()


def bare_table(answers: Answers) -> bytes:
    return pd.DataFrame(answers.items()).to_csv(index=False, header=False).encode()


def zipped(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


# name of the format -> how a tool writes it
TEXT_FILES: dict[str, Callable[[Answers], bytes]] = {
    "COCO": coco,
    "Azure ML JSONL": azure_ml,
    "Label Studio JSON": label_studio,
    "Label Studio JSON-MIN": label_studio_min,
    "Label Studio CSV": label_studio_csv,
    "Label Studio TSV": label_studio_tsv,
    "CVAT": cvat,
    "Datumaro": datumaro,
    "Ground Truth": ground_truth,
    "VIA JSON": via,
    "VIA project": via_project,
    "VIA CSV": via_csv,
    "VIA 3 project": via_3,
    "VIA 3 CSV": via_3_csv,
    "FiftyOne labels": fiftyone,
    "FiftyOne samples": fiftyone_samples,
    "Labelbox": labelbox,
    "Prodigy": prodigy,
    "Roboflow": roboflow,
    "CSV": lambda answers: table(answers).to_csv(index=False).encode(),
    "CSV of Excel in Europe": lambda answers: table(answers).to_csv(index=False, sep=";").encode(),
    "CSV without a header": bare_table,
    "JSON rows": lambda answers: json.dumps(table(answers).to_dict("records")).encode(),
}
FILES: dict[str, Callable[[Answers], bytes]] = TEXT_FILES | {
    "Excel": excel,
    "Parquet": parquet,
    "a zip": lambda answers: zipped({"annotations/export.json": coco(answers), "__MACOSX/._export.json": b"\0"}),
    "class folders": lambda answers: zipped(
        {f"set/train/{label}/{name}": name.encode() for name, label in answers.items()}
    ),
}

# what lies in one inbox where everybody uses another tool
FOUR_TOOLS: dict[str, Callable[[Answers], bytes]] = {
    "project-1-at-2026-01-05.json": label_studio,
    "annotations.xml": cvat,
    "labels.csv": FILES["CSV"],
    "roboflow.zip": lambda answers: zipped({"train/_classes.csv": roboflow(answers)}),
}
