"""VGG Image Annotator 3: its project, where attributes and their options have numbers, and its CSV, which says what
these mean in remarks.

Source: VIA 3's documentation and its exports (robots.ox.ac.uk/~vgg/software/via).
"""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from al_resources.labeling.formats.contract import Answers, BrokenExport, Kind, NotThisFormat, Row, the_question
from al_resources.labeling.formats.document import Document

NAME = "VGG VIA 3"
KINDS: tuple[Kind, ...] = ("json", "table")
HEADER = "# CSV_HEADER = metadata_id,file_list,flags,temporal_coordinates,spatial_coordinates,metadata"
CHECKBOX = 2


def rows(document: Document) -> Iterator[Row]:
    """See `Format.rows`: one row a picture."""
    try:
        if document.kind == "table":
            content = _of_csv(document)
        else:
            content = document.object("file", "view", "metadata", "attribute")
        yield from _rows(content, document.columns.get("label"))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        cut = document.kind == "table"  # its CSV ends without a line break
        reason = f"VIA 3 that cannot be read: {type(error).__name__} {error}"
        raise BrokenExport(reason, incomplete=cut) from error


def _rows(content: Mapping[str, Any], wanted: str | None) -> list[Row]:
    attributes = content["attribute"]
    names = {str(number): str(attribute["aname"]) for number, attribute in attributes.items()}
    said = defaultdict(list)  # view -> what was said of it
    for one in content["metadata"].values():
        said[str(one["vid"])].append(one)
    of_files = [one for entries in said.values() for one in entries if not one["xy"] and not one["z"]]
    asked = [
        names[number] for one in of_files for number, value in one["av"].items() if value != "" and number in names
    ]
    question = the_question(asked, wanted, "VIA's attributes")
    found = []
    for view, files in content["view"].items():
        whole = [one["av"] for one in said[str(view)] if not one["xy"] and not one["z"]]
        answers = Answers(
            [
                option
                for answered in whole
                for number, value in answered.items()
                if names.get(number) == question and value != ""
                for option in _options(attributes[number], str(value))
            ]
        )
        regions = [{"label": _name_of(one, attributes)} for one in said[str(view)] if one["xy"]]
        shapes = [] if answers.names else regions
        source = {"view": view, "metadata": said[str(view)]}
        for number in files["fid_list"]:
            file = content["file"][str(number)]
            image = str(file.get("src") or file["fname"])
            outcome = "label" if shapes else answers.outcome
            found.append(
                Row(
                    str(file["fname"]) if "base64," in image else image,
                    shapes or answers.label,
                    source,
                    outcome=outcome,
                )
            )
    return found


def _of_csv(document: Document) -> Mapping[str, Any]:
    """The CSV as the project that it was written of; files that nobody annotated are not in it."""
    if document.data.startswith((b"PK", b"PAR1")) or HEADER not in document.text:
        raise NotThisFormat(f"the remark {HEADER!r}")
    lines = document.text.splitlines()
    (attributes,) = (line.partition("=")[2] for line in lines if line.startswith("# ATTRIBUTE ="))
    content: dict[str, Any] = {"attribute": json.loads(attributes), "metadata": {}, "view": {}, "file": {}}
    for number, files, _, z, xy, av in csv.reader(line for line in lines if line and not line.startswith("#")):
        names = json.loads(files)
        content["metadata"][number] = {"vid": files, "z": json.loads(z), "xy": json.loads(xy), "av": json.loads(av)}
        content["view"][files] = {"fid_list": names}
        content["file"] |= {name: {"fname": name} for name in names}
    return content


def _name_of(region: Mapping[str, Any], attributes: Mapping[str, Any]) -> str | None:
    options = [
        option
        for number, value in region["av"].items()
        if number in attributes and value != ""
        for option in _options(attributes[number], str(value))
    ]
    return options[0] if options else None


def _options(attribute: Mapping[str, Any], value: str) -> list[str]:
    """What an answer says: the names of options, of check boxes several, or text."""
    options = attribute.get("options") or {}
    chosen = value.split(",") if attribute.get("type") == CHECKBOX else [value]
    return [str(options.get(one, one)) for one in chosen]
