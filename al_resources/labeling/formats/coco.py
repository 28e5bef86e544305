"""COCO with labels of whole images: Azure ML, Roboflow, FiftyOne, Datumaro and most others.

Boxes and polygons are understood too, and set aside unless `labeling.boxes` says that the largest one counts.
Sources: cocodataset.org (data format); Azure ML's export of labeling projects.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from al_resources.labeling.formats.contract import BrokenExport, Kind, Row
from al_resources.labeling.formats.document import Document

NAME = "COCO"
KINDS: tuple[Kind, ...] = ("json",)


def rows(document: Document) -> Iterator[Row]:
    """See `Format.rows`: one row an annotation, and one an image without any."""
    content = document.object("images", "annotations", "categories")
    try:
        names = _by_id("categories", ((one["id"], str(one["name"])) for one in content["categories"]))
        images = _by_id("images", ((one["id"], _image_name(one)) for one in content["images"]))
        sizes = {one["id"]: (one.get("width"), one.get("height")) for one in content["images"]}
        _refuse_mixed_boxes(content["annotations"])
        image_of, category_of = _Meant(images), _Meant(names)
        found = []
        for one in content["annotations"]:
            image = image_of(one["image_id"])
            found.append(_row(one, images.get(image), names.get(category_of(one["category_id"])), sizes.get(image)))
        annotated = {image_of(one["image_id"]) for one in content["annotations"]}
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise BrokenExport(f"not COCO: {type(error).__name__} {error}") from error
    if images and not found:
        raise BrokenExport(
            f"COCO with {len(images)} images and no annotation. CVAT leaves tags out of its COCO, Label Studio "
            "choices: export `CVAT for images` or Datumaro from CVAT, JSON from Label Studio"
        )
    yield from found
    for number, name in images.items():
        if number not in annotated:
            yield Row(name, None, {"image_id": number}, outcome="unanswered")


class _Meant:
    """The id that a reference means: itself, or the only one written like it, for some tools mix 1 and "1"."""

    def __init__(self, ids: Iterable[Any]) -> None:
        self._ids = set(ids)
        alike: dict[str, list[Any]] = {}
        for one in self._ids:
            alike.setdefault(_written(one), []).append(one)
        self._only = {text: ones[0] for text, ones in alike.items() if len(ones) == 1}

    def __call__(self, reference: Any) -> Any:
        return reference if reference in self._ids else self._only.get(_written(reference), reference)


def _written(number: Any) -> str:
    whole = isinstance(number, float) and number.is_integer()
    return str(int(number) if whole else number).strip()


def _by_id(what: str, items: Iterable[tuple[Any, str]]) -> dict[Any, str]:
    found: dict[Any, str] = {}
    for number, name in items:
        if found.setdefault(number, name) != name:
            raise BrokenExport(f"two {what} have the id {number!r}: {found[number]!r} and {name!r}")
    return found


def _image_name(image: Mapping[str, Any]) -> str:
    return str(image.get("file_name") or image.get("coco_url") or image.get("absolute_url") or image["id"])


def _row(annotation: Mapping[str, Any], image: str | None, category: str | None, size: tuple[Any, Any] | None) -> Row:
    label: Any = {"unknown category_id": annotation["category_id"]} if category is None else category
    shape = {key: annotation[key] for key in ("bbox", "segmentation") if annotation.get(key)}
    if not any(shape.get("bbox", ())):  # some tools write a box of nothing beside a label of the whole image
        shape.pop("bbox", None)
    if shape:
        label = [{"label": label, "size": size, **shape}]  # a box or a polygon, not a label of the image
    return Row(
        image=f"image_id {annotation['image_id']}" if image is None else image,
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
