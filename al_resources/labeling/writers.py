"""Labels written as files of other tools, and read again without loss: `al export`.

Images are named by content id, so that whatever a tool makes of the name leads back to the image.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import quoteattr

from al_core.errors import InvalidInput
from al_core.picture_files import is_left_behind

if TYPE_CHECKING:
    from al_resources.labeling.exports import ExportedLabel

Labels = Sequence["ExportedLabel"]
MLTABLE = """\
$schema: https://azuremlschemas.azureedge.net/latest/MLTable.schema.json
type: mltable
paths:
  - file: ./labels.jsonl
transformations:
  - read_json_lines:
      encoding: utf8
"""


def to_jsonl(labels: Iterable[ExportedLabel]) -> bytes:
    """The format that keeps everything: one object an answer, skips and answers taken back included."""
    rows = [
        {
            "image_url": label.image_id,
            "label": label.label,
            "annotator": label.annotator,
            "labeled_at": None if label.labeled_at is None else label.labeled_at.isoformat(),
            "label_confidence": label.confidence,
            "annotation_seconds": label.annotation_seconds,
            "outcome": label.outcome,
        }
        for label in labels
    ]
    lines = ({key: value for key, value in row.items() if value is not None or key == "label"} for row in rows)
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()


def to_coco(labels: Labels) -> bytes:
    """COCO with one annotation an answer."""
    classes = _classes(labels)
    images = {image: number for number, image in enumerate(dict.fromkeys(label.image_id for label in labels), 1)}
    content = {
        "images": [{"id": number, "file_name": image} for image, number in images.items()],
        "annotations": [
            {
                "id": number,
                "image_id": images[label.image_id],
                "category_id": classes[label.label],
                **_beside(label),
            }
            for number, label in enumerate(_named(labels), 1)
        ],
        "categories": [{"id": number, "name": name} for name, number in classes.items()],
    }
    return json.dumps(content, ensure_ascii=False, indent=1).encode()


def to_csv(labels: Labels) -> bytes:
    """A table that a spreadsheet opens; what is no label of a class is so in the column `outcome`."""
    import pandas as pd

    rows = [
        {"image": label.image_id, "label": label.label, **_beside(label), "outcome": label.outcome} for label in labels
    ]
    columns = ["image", "label", "annotator", "labeled_at", "confidence", "annotation_seconds", "outcome"]
    return pd.DataFrame(rows, columns=columns).to_csv(index=False, lineterminator="\r\n").encode()


def to_label_studio(labels: Labels) -> bytes:
    """Tasks with their annotations, as Label Studio imports and exports them."""
    tasks: dict[str, list[dict[str, Any]]] = {}
    for label in labels:
        choice = {"type": "choices", "from_name": "choice", "to_name": "image", "value": {"choices": [label.label]}}
        told = _beside(label)
        tasks.setdefault(label.image_id, []).append(
            {
                "result": [choice] if label.label is not None else [],
                "was_cancelled": label.outcome in ("skip", "bad"),
                "completed_by": told.get("annotator"),
                "updated_at": told.get("labeled_at"),
                "lead_time": told.get("annotation_seconds"),
            }
        )
    content = [{"data": {"image": image}, "annotations": annotations} for image, annotations in tasks.items()]
    return json.dumps(content, ensure_ascii=False, indent=1).encode()


def to_cvat(labels: Labels) -> bytes:
    """CVAT for images 1.1, a tag an image. Raises `InvalidInput` for a class with characters that XML has none for."""
    for name in _classes(labels):
        if _NO_XML.search(str(name)):
            raise InvalidInput(f"class {name!r} cannot be written in XML; export csv, jsonl or coco")
    images = "".join(
        f'<image id="{number}" name={quoteattr(label.image_id)}><tag label={quoteattr(str(label.label))} '
        'source="manual"></tag></image>\n'
        for number, label in enumerate(_named(labels))
    )
    start = '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>\n'
    return f"{start}{images}</annotations>\n".encode()


def to_mltable(labels: Labels) -> bytes:
    """A zip of what Azure ML takes for a table."""
    return zipped([("MLTable", MLTABLE.encode()), ("labels.jsonl", to_jsonl(labels))])


# what a person can ask for -> ending of the file, how it is written, and whether it holds one label an image
FILES: dict[str, tuple[str, Callable[[Labels], bytes], bool]] = {
    "jsonl": (".jsonl", to_jsonl, False),
    "coco": (".json", to_coco, False),
    "csv": (".csv", to_csv, False),
    "label-studio": (".json", to_label_studio, False),
    "cvat": (".xml", to_cvat, True),
    "mltable": (
        ".zip",
        lambda labels: zipped([("MLTable", MLTABLE.encode()), ("labels.jsonl", to_jsonl(labels))]),
        True,
    ),
}
FOLDERS = ("folders", "ultralytics")  # these bring the pictures along
FORMATS = (*FILES, *FOLDERS)
_NO_FILE_NAME = set('/\\:*?"<>|')
_NO_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_SPLITS = {"train": "train", "validation": "val", "holdout": "test"}


def to_folders(labels: Labels, files: Callable[[str], tuple[str, bytes]], splits: dict[str, str] | None) -> bytes:
    """A zip of pictures, a folder a class; below train, val and test where `splits` says what an image is for.

    `files`: image id -> (ending, bytes).

    Raises:
        InvalidInput: a class cannot be the name of a folder.
    """
    members = {}
    for label in _named(labels):
        suffix, data = files(label.image_id)
        split = "" if splits is None else f"{_SPLITS.get(splits.get(label.image_id, 'train'), 'train')}/"
        members[f"{split}{label.label}/{label.image_id}{suffix}"] = (label, data)
    _refuse_what_folders_cannot_say({path: label for path, (label, _) in members.items()})
    return zipped((path, data) for path, (_, data) in members.items())


def _refuse_what_folders_cannot_say(named: dict[str, ExportedLabel]) -> None:
    """Raises `InvalidInput` where the folders would be read as other classes: by us, or on another operating system."""
    from al_resources.labeling.formats.contract import BrokenExport
    from al_resources.labeling.formats.folders import rows_of_class_folders

    classes = sorted({str(label.label) for label in named.values()})
    alike: dict[str, str] = {}
    for name in classes:
        unprintable = set(name) & _NO_FILE_NAME or any(ord(one) < 32 for one in name)
        if unprintable or name.endswith(".") or is_left_behind(name):
            raise InvalidInput(f"class {name!r} cannot be the name of a folder; export csv, jsonl or coco")
        if (other := alike.setdefault(name.casefold(), name)) != name:
            raise InvalidInput(
                f"classes {other!r} and {name!r} are one folder on many systems; export csv, jsonl or coco"
            )
    pictures = {path: label.image_id for path, label in named.items()}
    try:
        read = {row.content: row.label for row in rows_of_class_folders(pictures, classes=classes)}
    except BrokenExport as error:
        raise InvalidInput(f"{error.reason}; export csv, jsonl or coco") from error
    for label in named.values():
        if read.get(label.image_id) != label.label:
            raise InvalidInput(
                f"a folder called {label.label!r} is no class to most tools; export csv, jsonl or coco, or "
                "rename the class (`al classes rename`)"
            )


def zipped(members: Iterable[tuple[str, bytes]]) -> bytes:
    """A zip of some files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return buffer.getvalue()


def _named(labels: Labels) -> list[ExportedLabel]:
    return [label for label in labels if label.label is not None]


def _classes(labels: Labels) -> dict[str | None, int]:
    return {name: number for number, name in enumerate(sorted({str(label.label) for label in _named(labels)}), 1)}


def _beside(label: ExportedLabel) -> dict[str, Any]:
    told = {
        "annotator": label.annotator,
        "labeled_at": None if label.labeled_at is None else label.labeled_at.isoformat(),
        "confidence": label.confidence,
        "annotation_seconds": label.annotation_seconds,
    }
    return {key: value for key, value in told.items() if value is not None}
