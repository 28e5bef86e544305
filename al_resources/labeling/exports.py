"""Exports: what people release, read into labels. COCO and JSONL, as Azure ML and most other tools write them.

What cannot be a label is set aside with its reason, row by row; a file that is broken as a whole is refused.
Sources: COCO format (cocodataset.org); Azure ML's JSONL for AutoML image classification (MLTable).
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import PurePosixPath
from typing import Any, Literal
from urllib.parse import unquote

from al_core.errors import ActiveLearningError
from al_resources.settings import LabelingSettings


@dataclass(frozen=True)
class ExportedLabel:
    """One label as the export tells it; what the tool does not report is None."""

    image_id: str
    label: str
    annotator: str | None = None
    labeled_at: datetime | None = None
    confidence: float | None = None
    annotation_seconds: float | None = None


@dataclass(frozen=True)
class Region:
    """A box or polygon, the same whatever format it came in.

    Coordinates are shares of the image's width and height (0 to 1); pixels where the export has pixels and no
    believable size of the image.
    """

    label: str
    points: tuple[tuple[float, float], ...]  # of a box: its left top and its right bottom
    kind: Literal["box", "polygon"]
    unit: Literal["share", "pixel"]


@dataclass(frozen=True)
class SetAside:
    """A row of an export that cannot be used as a label, why, and what it says, for those who can use it."""

    image: str
    reason: str
    row: Any
    labels: tuple[str, ...] = ()  # several labels of one image
    regions: tuple[Region, ...] = ()


@dataclass(frozen=True)
class ParsedExport:
    """The labels of one export. `export_id` depends on the labels only: neither on their order nor on the name."""

    export_id: str
    labels: tuple[ExportedLabel, ...]
    set_aside: tuple[SetAside, ...]


class BrokenExport(ActiveLearningError):
    """The export cannot be used. `incomplete`: it may still be in the middle of being written."""

    def __init__(self, reason: str, *, incomplete: bool = False, set_aside: tuple[SetAside, ...] = ()) -> None:
        super().__init__(reason)
        self.reason = reason
        self.incomplete = incomplete
        self.set_aside = set_aside  # what could be read all the same


@dataclass(frozen=True)
class _Row:
    """A candidate label before anybody asked whether it can be used."""

    image: str  # as the export names it
    label: Any
    source: Any
    annotator: str | None = None
    labeled_at: str | None = None
    confidence: float | None = None
    annotation_seconds: float | None = None

    @property
    def image_id(self) -> str:
        """The stem of the file name: images are staged under their content id."""
        path = re.sub(r"^[A-Za-z][A-Za-z0-9+.-]*://[^/]*|[?#].*$", "", self.image, flags=re.DOTALL)
        return PurePosixPath(unquote(path)).stem


def parse_export(
    data: bytes,
    path: str,
    settings: LabelingSettings,
    known_images: Callable[[Collection[str]], Collection[str]],
) -> ParsedExport:
    """Read an export.

    Args:
        data: The file's bytes.
        path: Its name; `.jsonl` is read line by line, everything else as COCO.
        settings: Which classes there are and whether new ones are welcome.
        known_images: Of these image ids, those that exist.

    Raises:
        BrokenExport: nothing in it can be used, or it is no export at all.
    """
    rows = list(_jsonl_rows(data) if path.endswith(".jsonl") else _coco_rows(data))
    if not rows:
        raise BrokenExport("the export holds no labels; was it released before anybody had labeled?")
    known = set(known_images({row.image_id for row in rows}))
    labels: list[ExportedLabel] = []
    set_aside: list[SetAside] = []
    for row in rows:
        reason = _why_not(row, known, settings)
        if reason is None:
            labels.append(_label(row))
        else:
            set_aside.append(SetAside(row.image, reason, row.source, *_other_annotations(row.label)))
    labels, contradictions = _without_contradictions(labels)
    set_aside += contradictions
    if not labels:
        first = f"no row can be used; the first of {len(set_aside)}: {set_aside[0].reason}"
        raise BrokenExport(first, set_aside=tuple(set_aside))
    return ParsedExport(_export_id(rows), tuple(labels), tuple(set_aside))


# ---------------------------------------------------------------- formats
def _coco_rows(data: bytes) -> Iterator[_Row]:
    if not data.strip():
        raise BrokenExport("the file is empty (0 bytes)", incomplete=True)
    try:
        content = json.loads(data)
    except ValueError as error:
        raise BrokenExport(f"not valid JSON: {error}", incomplete=True) from error
    except RecursionError as error:
        raise BrokenExport("not COCO: nested too deeply") from error
    if not isinstance(content, dict) or not {"images", "annotations", "categories"} <= content.keys():
        found = sorted(content) if isinstance(content, dict) else type(content).__name__
        raise BrokenExport(f"not COCO: expected an object with images, annotations and categories, found {found}")
    try:
        names = _by_id("categories", ((one["id"], str(one["name"])) for one in content["categories"]))
        images = _by_id("images", ((one["id"], _coco_image_name(one)) for one in content["images"]))
        sizes = {one["id"]: (one.get("width"), one.get("height")) for one in content["images"]}
        _refuse_mixed_boxes(content["annotations"])
        for annotation in content["annotations"]:
            yield _coco_row(annotation, images, names, sizes.get(annotation["image_id"]))
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise BrokenExport(f"not COCO: {type(error).__name__} {error}") from error


def _by_id(what: str, items: Iterable[tuple[Any, str]]) -> dict[Any, str]:
    found: dict[Any, str] = {}
    for number, name in items:
        if found.setdefault(number, name) != name:
            raise BrokenExport(f"two {what} have the id {number!r}: {found[number]!r} and {name!r}")
    return found


def _coco_image_name(image: Mapping[str, Any]) -> str:
    return str(image.get("file_name") or image.get("coco_url") or image.get("absolute_url") or image["id"])


def _coco_row(
    annotation: Mapping[str, Any], images: Mapping[Any, str], names: Mapping[Any, str], size: tuple[Any, Any] | None
) -> _Row:
    category = annotation["category_id"]
    label: Any = names.get(category, {"unknown category_id": category})
    shape = {key: annotation[key] for key in ("bbox", "segmentation") if annotation.get(key)}
    if shape:
        label = [{"label": label, "size": size, **shape}]  # a box or a polygon, not a label of the image
    return _Row(
        image=images.get(annotation["image_id"], f"image_id {annotation['image_id']}"),
        label=label,
        source=annotation,
        annotator=annotation.get("annotator"),
        labeled_at=annotation.get("labeled_at"),
        confidence=annotation.get("confidence", annotation.get("label_confidence")),
        annotation_seconds=annotation.get("annotation_seconds"),
    )


def _refuse_mixed_boxes(annotations: Iterable[Mapping[str, Any]]) -> None:
    """Boxes are normalised (0 to 1) or absolute (pixels); an export with both cannot be understood."""
    kinds: set[Literal["normalised", "absolute"]] = set()
    for annotation in annotations:
        if box := annotation.get("bbox"):
            kinds.add("absolute" if any(float(value) > 1 for value in box) else "normalised")
    if len(kinds) > 1:
        raise BrokenExport("normalised and absolute bounding boxes are mixed in one export; export one kind only")


def _jsonl_rows(data: bytes) -> Iterator[_Row]:
    if not data.strip():
        raise BrokenExport("the file is empty (0 bytes)", incomplete=True)
    lines = data.splitlines()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            image, label = str(row["image_url"]), row["label"]
        except RecursionError as error:
            raise BrokenExport(f"line {number} is nested too deeply") from error
        except ValueError as error:
            # only the last line of a file in the middle of being written can be cut
            raise BrokenExport(f"line {number} is not valid JSON: {error}", incomplete=number == len(lines)) from error
        except (KeyError, TypeError) as error:
            raise BrokenExport(f"line {number}: expected an object with image_url and label ({error})") from error
        if isinstance(label, list) and len(label) == 1 and isinstance(label[0], str):
            label = label[0]
        yield _Row(
            image=image,
            label=label,
            source=row,
            annotator=row.get("annotator"),
            labeled_at=row.get("labeled_at"),
            confidence=_single(row.get("label_confidence")),
            annotation_seconds=row.get("annotation_seconds"),
        )


def _single(value: Any) -> Any:
    return value[0] if isinstance(value, list) and len(value) == 1 else value


# ---------------------------------------------------------------- boxes, polygons, several labels
def _other_annotations(label: Any) -> tuple[tuple[str, ...], tuple[Region, ...]]:
    """The labels and the regions in what is no single label; what cannot be read is left to the row itself."""
    if not isinstance(label, list):
        return (), ()
    labels = tuple(one for one in label if isinstance(one, str))
    regions = tuple(region for one in label if isinstance(one, dict) for region in _regions(one))
    return labels, regions


def _regions(shape: Mapping[str, Any]) -> Iterator[Region]:
    """The box or the polygons of one annotation, in COCO's terms or in those of Azure ML's JSONL."""
    name, size = shape.get("label"), shape.get("size")
    if not isinstance(name, str):
        return
    corners = [shape.get(corner) for corner in ("topX", "topY", "bottomX", "bottomY")]
    polygons = shape.get("polygon") or shape.get("segmentation") or []
    try:
        if box := shape.get("bbox"):
            left, top, width, height = (float(value) for value in box)
            yield _region(name, "box", [left, top, left + width, top + height], size)
        elif None not in corners:
            yield _region(name, "box", [float(corner) for corner in corners], size)  # type: ignore[arg-type]
        else:
            for polygon in polygons:
                yield _region(name, "polygon", [float(value) for value in polygon], size)
    except (ValueError, TypeError, OverflowError):
        return


def _region(label: str, kind: Literal["box", "polygon"], flat: list[float], size: Any) -> Region:
    """Raises `ValueError`: the coordinates are no pairs of finite numbers."""
    if len(flat) % 2 or len(flat) < 4 or not all(map(math.isfinite, flat)):
        raise ValueError(f"{flat}: expected pairs of finite numbers")
    points = list(zip(flat[::2], flat[1::2], strict=True))
    if max(flat) <= 1:
        return Region(label, tuple(points), kind, "share")
    # Azure ML writes 0 and 8000 for sizes that it does not know
    width, height = (float(side or 0) for side in size or (0, 0))
    if min(width, height) > 0 and all(x <= width and y <= height for x, y in points) and 8000 not in (width, height):
        return Region(label, tuple((x / width, y / height) for x, y in points), kind, "share")
    return Region(label, tuple(points), kind, "pixel")


# ---------------------------------------------------------------- rows
def _why_not(row: _Row, known: Collection[str], settings: LabelingSettings) -> str | None:
    """Why this row cannot be a label, or None where it can."""
    if isinstance(row.label, list):
        if all(isinstance(one, str) for one in row.label):
            return f"{len(row.label)} labels for one image; a classifier is trained on exactly one"
        return "a box or polygon, not a label of the image; this classifier is trained on image labels"
    if not isinstance(row.label, str) or not row.label:
        return f"label {row.label!r} is no class name"
    if row.image_id not in known:
        return f"image {row.image_id!r} is unknown here: neither selected nor in the image store"
    if settings.classes and row.label not in settings.classes and settings.new_classes == "refuse":
        near = difflib.get_close_matches(row.label, settings.classes, n=1)
        hint = f"; did they mean {near[0]!r}?" if near else ""
        return f"class {row.label!r} is not in labeling.classes{hint} (labeling.new_classes = 'grow' accepts new ones)"
    try:
        label = _label(row)
        f"{label.label}{label.annotator}".encode()  # half a surrogate pair is valid JSON, but no text
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        return f"a value that cannot be read: {error}"
    return None


def _label(row: _Row) -> ExportedLabel:
    labeled_at = datetime.fromisoformat(row.labeled_at.replace("Z", "+00:00")) if row.labeled_at else None
    if labeled_at is not None:
        labeled_at = (
            labeled_at.astimezone(timezone.utc) if labeled_at.tzinfo else labeled_at.replace(tzinfo=timezone.utc)
        )
    return ExportedLabel(
        image_id=row.image_id,
        label=row.label,
        annotator=str(row.annotator) if row.annotator else None,
        labeled_at=labeled_at,
        confidence=None if row.confidence is None else float(row.confidence),
        annotation_seconds=None if row.annotation_seconds is None else float(row.annotation_seconds),
    )


def _without_contradictions(labels: list[ExportedLabel]) -> tuple[list[ExportedLabel], list[SetAside]]:
    """One label per image and annotator: a repeated one counts once, two different ones not at all."""
    answers: dict[tuple[str, str | None], list[ExportedLabel]] = defaultdict(list)
    for label in labels:
        answers[label.image_id, label.annotator].append(label)
    good, bad = [], []
    for (image_id, _), given in answers.items():
        names = sorted({label.label for label in given})
        if len(names) == 1:
            good.append(given[0])
        else:
            reason = f"two labels for one image: {' and '.join(map(repr, names))}; decide, and export again"
            bad += [SetAside(image_id, reason, {"label": label.label}, tuple(names)) for label in given]
    return good, bad


def _export_id(rows: Iterable[_Row]) -> str:
    lines = sorted(
        json.dumps([row.image_id, row.label, row.annotator, row.labeled_at, row.confidence], default=str)
        for row in rows
    )
    return hashlib.blake2b("\n".join(lines).encode(), digest_size=16).hexdigest()
