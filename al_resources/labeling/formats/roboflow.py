"""Roboflow's multi-class CSV, and every other table of one column a class that holds 0 or 1.

Source: Roboflow's documentation (formats/multi-class-classification).
"""

from __future__ import annotations

from collections.abc import Iterator

from al_resources.labeling.formats.columns import IMAGE, LABEL, find_column
from al_resources.labeling.formats.contract import Answers, Kind, NotThisFormat, Row
from al_resources.labeling.formats.document import Document

NAME = "Roboflow multi-class CSV"
KINDS: tuple[Kind, ...] = ("table",)
UNLABELED = "unlabeled"
TRUE, FALSE = ("1", "1.0", "true", "True"), ("0", "0.0", "false", "False", "")


def rows(document: Document) -> Iterator[Row]:
    """See `Format.rows`."""
    table = document.table
    image = find_column(table.columns, IMAGE, document.columns.get("image"))
    classes = [column for column in table.columns if column != image]
    if find_column(classes, LABEL, None) and UNLABELED not in map(str.lower, classes):  # of classes called 0 and 1
        raise NotThisFormat("no column of labels")
    if image is None or len(classes) < 2 or not table[classes].isin([*TRUE, *FALSE]).to_numpy().all():
        raise NotThisFormat("a column of file names and one of 0 and 1 for each class")
    for row in table.to_dict("records"):
        answers = Answers([name for name in classes if row[name] in TRUE])
        if [str(name).lower() for name in answers.names] == [UNLABELED]:  # a class that Roboflow adds
            answers = Answers()
        yield Row(str(row[image]), answers.label, row, outcome=answers.outcome)
