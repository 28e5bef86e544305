"""CVAT's XML, "CVAT for images 1.1": pictures with tags.

Source: CVAT's documentation (manual/advanced/xml_format).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from al_resources.labeling.formats.contract import Answers, Kind, NotThisFormat, Row
from al_resources.labeling.formats.document import Document

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

NAME = "CVAT for images (XML)"
KINDS: tuple[Kind, ...] = ("xml",)


def rows(document: Document) -> Iterator[Row]:
    """See `Format.rows`."""
    root = document.xml
    if root.tag != "annotations":
        raise NotThisFormat(f"<annotations>, not <{root.tag}>")
    if root.find("track") is not None:
        raise NotThisFormat("images and not the tracks of a video: export `CVAT for images`")
    of_task = {task.findtext("id"): task.findtext("assignee/username") for task in root.iter("task")}
    people = {person.text for person in root.iterfind(".//assignee/username")}
    only_one = people.pop() if len(people) == 1 else None
    for image in root.iter("image"):
        tags = image.findall("tag")
        shapes = [_shape(one, image) for one in image if one.tag != "tag"]  # boxes, masks, points, skeletons, ...
        answers = Answers([tag.get("label") for tag in tags] or shapes)
        yield Row(
            image=image.get("name") or f"image {image.get('id')}",
            label=answers.label if tags else answers.names,
            source={"image": image.attrib, "tags": [tag.attrib for tag in tags], "shapes": shapes},
            annotator=of_task.get(image.get("task_id"), only_one),
            outcome=answers.outcome,
        )


def _shape(one: Element, image: Element) -> dict[str, Any]:
    size = (float(image.get("width") or 0), float(image.get("height") or 0))
    if one.tag == "box":
        left, top, right, bottom = (float(one.get(side) or 0) for side in ("xtl", "ytl", "xbr", "ybr"))
        return {"label": one.get("label"), "bbox": [left, top, right - left, bottom - top], "size": size}
    if one.tag != "polygon":
        return {"label": one.get("label"), "kind": one.tag}
    flat = [float(value) for point in (one.get("points") or "").split(";") if point for value in point.split(",")]
    return {"label": one.get("label"), "polygon": [flat], "size": size}
