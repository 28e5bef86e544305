"""Exports: what people release, read into labels. Which formats there are, `al_resources.labeling.formats` says.

What cannot be a label is set aside with its reason, row by row; a file that is broken as a whole is refused.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal

from al_core.class_folders import alike, loosely, plain_class
from al_resources.labeling.formats import Reading, read_export
from al_resources.labeling.formats.contract import BrokenExport, Outcome, Row, listed
from al_resources.labeling.names import ImageNames, Match, own_part
from al_resources.settings import LabelingSettings

__all__ = ["BrokenExport", "ExportedLabel", "ParsedExport", "Region", "SetAside", "parse_export"]

_CLOCK = re.compile(r"\d+:[0-5]?\d:[0-5]?\d(\.\d+)?")
_DAY = re.compile(r"20\d{6}")  # 20260105: as seconds it would be in 1970
_DAY_FIRST = re.compile(r"(\d{1,2})\.(\d{1,2})\.(\d{4})(?!\d)")
EARLIEST = datetime(2000, 1, 1, tzinfo=UTC).timestamp()  # a number before it is no time of an answer


@dataclass(frozen=True)
class ExportedLabel:
    """One answer as the export tells it; what the tool does not report is None, and `label` is None without a class."""

    image_id: str
    label: str | None
    annotator: str | None = None
    labeled_at: datetime | None = None
    confidence: float | None = None
    annotation_seconds: float | None = None
    outcome: Outcome = "label"
    mode: str | None = None


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
    format: str = ""
    unlabeled: int = 0  # images that the export names without an answer
    remarks: tuple[str, ...] = ()  # what a person should know of it


def parse_export(
    data: bytes,
    path: str,
    settings: LabelingSettings,
    known_images: Callable[[Collection[str]], Collection[str]],
    own_names: Callable[[], Iterable[tuple[str, str]]] = tuple,
    reading: Reading | None = None,
) -> ParsedExport:
    """Read an export, whatever tool wrote it.

    Args:
        data: The file's bytes.
        path: Its name, for messages.
        settings: Which classes there are, what they are also called, and whether new ones are welcome.
        known_images: Of these image ids, those that exist.
        own_names: (name, image id) of every name under which an image came.
        reading: What it says, where it was read already; then there are no bytes.

    Raises:
        BrokenExport: nothing in it can be used, or it is no export at all.
    """
    reading = reading or read_export(data, path, settings.columns, known_classes(settings))
    rows = [_with_class_name(row, settings) for row in reading.rows]
    if settings.boxes == "largest":
        rows = _with_largest_boxes(rows)
    if not rows:
        none = f" ({reading.unlabeled} images without an answer)" if reading.unlabeled else ""
        raise BrokenExport(f"the export holds no labels{none}; was it released before anybody had labeled?")
    labels: list[ExportedLabel] = []
    set_aside: list[SetAside] = []
    by_name: list[str] = []  # with a picture that is not in the store
    for row, match in zip(rows, ImageNames(known_images, own_names).match(rows), strict=True):
        reason = _why_not(row, match, settings)
        if reason is None:
            labels.append(_label(row, match))
            by_name += [row.image] if row.content not in (None, match.image_id) else []
        else:
            set_aside.append(SetAside(row.image, reason, row.source, *_other_annotations(row.label)))
    labels, contradictions = _one_answer_each(labels)
    set_aside += contradictions
    if not labels:
        first = f"no row can be used; the first of {len(set_aside)}: {set_aside[0].reason}"
        raise BrokenExport(first, set_aside=tuple(set_aside))
    remarks = _remarks(labels, reading, by_name)
    return ParsedExport(_export_id(rows), tuple(labels), tuple(set_aside), reading.format, reading.unlabeled, remarks)


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
def known_classes(settings: LabelingSettings) -> tuple[str, ...]:
    """Every name under which a class may come."""
    return (*settings.classes, *settings.aliases) if settings.classes else ()


def _with_class_name(row: Row, settings: LabelingSettings) -> Row:
    """The row with its class as it counts here: normalised, and by its proper name where it is an alias."""
    if isinstance(row.label, int) and not isinstance(row.label, bool):
        return _with_class_name(replace(row, label=str(row.label)), settings)  # as the same table says it as CSV
    if not isinstance(row.label, str):
        return row
    aliases = {plain_class(alias): plain_class(name) for alias, name in settings.aliases.items()}
    name = plain_class(row.label)
    return replace(row, label=aliases.get(name, name))


def _with_largest_boxes(rows: list[Row]) -> list[Row]:
    """Of the boxes and polygons of one image, the largest one is its label; everything else stays as it is."""
    largest: dict[tuple[str, Any], tuple[float, Row]] = {}
    kept = []
    for row in rows:
        regions = _other_annotations(row.label)[1]
        if not regions:
            kept.append(row)
            continue
        area, name = max((_area(region), region.label) for region in regions)
        place = (row.image, row.annotator)
        if place not in largest or area > largest[place][0]:
            largest[place] = (area, replace(row, label=plain_class(name)))
    return kept + [row for _, row in largest.values()]


def _area(region: Region) -> float:
    if region.kind == "box":
        (left, top), (right, bottom) = region.points
        return abs((right - left) * (bottom - top))
    ends = zip(region.points, region.points[1:] + region.points[:1], strict=True)
    return abs(sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in ends)) / 2


def _why_not(row: Row, match: Match, settings: LabelingSettings) -> str | None:
    """Why this row cannot be a label, or None where it can."""
    if row.outcome == "label" and (reason := _why_no_class(row.label)):
        return reason
    if match.image_id is None:
        return match.problem
    if row.outcome == "label" and settings.classes and settings.new_classes == "refuse":
        classes = [plain_class(name) for name in settings.classes]
        if row.label not in classes:
            return _unknown_class(row.label, classes)
    try:
        label = _label(row, match)
        f"{label.label}{label.annotator}".encode()  # half a surrogate pair is valid JSON, but no text
    except (ValueError, TypeError, AttributeError, OverflowError, OSError) as error:
        return f"a value that cannot be read: {error}"
    return None


def _why_no_class(label: Any) -> str | None:
    if isinstance(label, list) and label:
        if all(isinstance(one, str) for one in label):
            return f"{len(label)} labels for one image; a classifier is trained on exactly one"
        way_out = " (labeling.boxes = 'largest' takes the largest one's)" if _other_annotations(label)[1] else ""
        return f"a box or polygon, not a label of the image; this classifier is trained on image labels{way_out}"
    if isinstance(label, dict) and label.get("human-annotated") == "no":
        return "answered by a model and by no person (human-annotated: no)"
    if isinstance(label, dict) and "cut" in label:
        return f"the file ends in the middle of this line, after {label['cut']!r}; end it with a line break"
    if isinstance(label, dict) and "rejected" in label:
        return f"a person said that it is not {label['rejected']!r}, and not what it is"
    return None if isinstance(label, str) and label else f"label {label!r} is no class name"


def _unknown_class(label: str, classes: Sequence[str]) -> str:
    same = [name for name in classes if loosely(name) == loosely(label)]
    if same:
        alias = f"labeling.aliases = {{{json.dumps(label, ensure_ascii=False)} = {json.dumps(same[0])}}} takes it"
        return (
            f"class {label!r} is not in labeling.classes; it differs from {same[0]!r} in case or spacing only: {alias}"
        )
    near = difflib.get_close_matches(label, classes, n=1)
    hint = f"; did they mean {near[0]!r}?" if near else ""
    return f"class {label!r} is not in labeling.classes{hint} (labeling.new_classes = 'grow' accepts new ones)"


def _label(row: Row, match: Match) -> ExportedLabel:
    assert match.image_id is not None
    return ExportedLabel(
        image_id=match.image_id,
        label=row.label if row.outcome == "label" else None,
        annotator=str(row.annotator) if row.annotator not in (None, "") else None,
        labeled_at=_time(row.labeled_at),
        confidence=_number("confidence", row.confidence),
        annotation_seconds=_number("annotation_seconds", row.annotation_seconds),
        outcome=row.outcome,
        mode=row.mode,
    )


def _number(column: str, value: Any) -> float | None:
    """A number as spreadsheets write it, too: `0,94`, `94 %`, and times `0:00:03`. Raises `ValueError`."""
    if value in (None, ""):
        return None
    text = str(value).strip().replace(",", ".", str(value).count(",") == 1)
    share = 100 if text.endswith("%") else 1
    text = text.removesuffix("%").strip()
    try:
        if _CLOCK.fullmatch(text):
            hours, minutes, seconds = text.split(":")
            return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
        number = float(text) / share
        if math.isinf(number):
            raise ValueError(value)
        return None if math.isnan(number) else number
    except ValueError as error:
        raise ValueError(
            f'{column} {value!r}; expected a number. labeling.columns = {{{column} = ""}} leaves the column out'
        ) from error


def _time(value: Any) -> datetime | None:
    """ISO 8601 and what is written like it, UTC where it names no zone; RFC 2822; `5.1.2026 10:59`; or seconds since
    1970, or thousandths or millionths of them. Raises `ValueError`.

    Of 05/01/2026 nobody knows which is the month: it is no time here.
    """
    if value in (None, ""):
        return None
    try:
        seconds = float(value)
        if _DAY.fullmatch(str(value)):
            raise ValueError(value)
    except ValueError:
        told = _told(str(value).strip())
        return told.astimezone(UTC) if told.tzinfo else told.replace(tzinfo=UTC)
    while 1e11 < seconds < 1e20:
        seconds /= 1000
    if not seconds >= EARLIEST:
        raise ValueError(f"{value!r} is no time of an answer: expected ISO 8601 or seconds since 1970")
    return datetime.fromtimestamp(seconds, UTC)


def _told(text: str) -> datetime:
    written = re.sub(r"\s?(Z|UTC|GMT)$", "+00:00", text)
    if re.match(r"\d{4}/\d{1,2}/\d{1,2}\b", written):
        written = written.replace("/", "-", 2)
    if match := _DAY_FIRST.match(written):
        written = f"{match[3]}-{int(match[2]):02}-{int(match[1]):02}{written[match.end() :]}"
    for read in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            return read(written)
        except ValueError:
            continue
    raise ValueError(
        f"labeled_at {text!r} is no time of an answer: expected ISO 8601 like 2026-01-05T10:59:13Z, or seconds since "
        '1970. labeling.columns = {labeled_at = ""} leaves the column out'
    )


def _one_answer_each(labels: list[ExportedLabel]) -> tuple[list[ExportedLabel], list[SetAside]]:
    """One answer an image and annotator: of different ones the latest by the export's own times, or else none."""
    answers: dict[tuple[str, str | None], list[ExportedLabel]] = defaultdict(list)
    for label in labels:
        answers[label.image_id, label.annotator].append(label)
    good, bad = [], []
    for (image_id, _), given in answers.items():
        said = {(label.outcome, label.label) for label in given}
        dated = sorted({label.labeled_at for label in given if label.labeled_at is not None})
        last = [label for label in given if dated and label.labeled_at == dated[-1]]
        if len(said) == 1:
            good.append(last[0] if last else given[0])
        elif all(label.labeled_at for label in given) and len({(one.outcome, one.label) for one in last}) == 1:
            good.append(last[0])
        else:
            names = sorted({label.label or label.outcome for label in given})
            reason = f"two labels for one image: {' and '.join(map(repr, names))}; decide, and export again"
            bad += [SetAside(image_id, reason, {"label": label.label}, tuple(names)) for label in given]
    return good, bad


def _remarks(labels: Iterable[ExportedLabel], reading: Reading, by_name: Sequence[str]) -> tuple[str, ...]:
    """What a person should know of an export that can be used."""
    found = []
    if by_name:
        found.append(
            f"{len(by_name)} of its pictures, like {by_name[0]}, are none of the store's, byte by byte; their labels "
            "went to the pictures of the same names. Are they the same? If not, `al import --ingest` stores them first"
        )
    for names in alike(label.label for label in labels if label.label is not None):
        found.append(
            f"classes {listed(map(repr, names))} differ in case or spacing only; labeling.aliases makes them one"
        )
    if reading.skipped_files:
        found.append(f"not read in it: {listed(reading.skipped_files)}")
    return tuple(found)


def _export_id(rows: Iterable[Row]) -> str:
    lines = sorted(
        json.dumps(
            [own_part(row.image), row.label, row.annotator, row.labeled_at, row.confidence]
            + ([] if row.outcome == "label" else [row.outcome]),
            default=str,
        )
        for row in rows
    )
    return hashlib.blake2b("\n".join(lines).encode(), digest_size=16).hexdigest()
