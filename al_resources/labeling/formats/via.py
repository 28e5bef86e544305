"""VGG Image Annotator: its JSON of annotations and its project file.

Source: VIA 2's documentation (robots.ox.ac.uk/~vgg/software/via).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from al_resources.labeling.formats.contract import Answers, Kind, NotThisFormat, Row, the_question
from al_resources.labeling.formats.document import Document

NAME = "VGG VIA JSON"
KINDS: tuple[Kind, ...] = ("json",)
NO_CLASSES = ("caption", "public_domain", "image_url")  # attributes that VIA brings along


def rows(document: Document) -> Iterator[Row]:
    """See `Format.rows`."""
    content = document.content
    files = content.get("_via_img_metadata", content) if isinstance(content, dict) else None
    if not isinstance(files, dict) or not files or not all(_is_file(one) for one in files.values()):
        raise NotThisFormat("one object a file, with filename and file_attributes")
    attribute = class_attribute((one["file_attributes"] for one in files.values()), document.columns.get("label"))
    for one in files.values():
        answers = answers_of(one["file_attributes"].get(attribute) if attribute else None)
        shapes = [] if answers.names else [_shape(region) for region in one.get("regions") or ()]
        yield Row(one["filename"], shapes or answers.label, one, outcome="label" if shapes else answers.outcome)


def _is_file(one: Any) -> bool:
    return isinstance(one, dict) and "filename" in one and isinstance(one.get("file_attributes"), dict)


def class_attribute(attributes: Iterable[Mapping[str, Any]], wanted: str | None) -> str | None:
    """The file attribute that holds the class; None where nothing is filled in. Raises `BrokenExport`."""
    filled = {name for one in attributes for name, value in one.items() if value not in ("", None, {})}
    return the_question(sorted(filled - set(NO_CLASSES) | filled & {wanted}), wanted, "VIA's file attributes")


def _shape(region: Mapping[str, Any]) -> dict[str, Any]:
    """A box or another region, called by the first of its attributes that is filled in."""
    named = [value for value in region.get("region_attributes", {}).values() if isinstance(value, str) and value]
    drawn = region.get("shape_attributes", {})
    box = [drawn.get(side) for side in ("x", "y", "width", "height")]
    return {"label": named[0] if named else None, **({} if None in box else {"bbox": box})}


def answers_of(value: Any) -> Answers:
    """Text, or for check boxes {name: whether}."""
    if isinstance(value, Mapping):
        return Answers([name for name, chosen in value.items() if chosen in (True, "true")])
    return Answers([value] if value not in (None, "") else [])
