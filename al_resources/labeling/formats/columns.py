"""What people and tools usually call the columns of a table."""

from __future__ import annotations

import re
from collections.abc import Iterable

IMAGE = (
    "image", "image_url", "image_id", "image_path", "image_name", "file_name", "filename", "file", "filepath", "path",
    "img", "picture", "photo", "url", "uri", "key", "name", "id",
)  # fmt: skip
LABEL = (
    "label", "labels", "class", "choice", "choices", "category", "class_name", "label_name", "category_name",
    "annotation", "answer", "tag", "target", "ground_truth",
)  # fmt: skip


def find_columns(columns: Iterable[str], names: Iterable[str], wanted: str | None) -> list[str]:
    """The column that the settings name, or all with one of the usual names, whatever their case and separators, in
    the order of these names.
    """
    there = list(columns)
    if wanted is not None:
        return [wanted] if wanted in there else []
    plain = {re.sub(r"[\s-]+", "_", str(column).strip().lower()): column for column in reversed(there)}
    return [plain[name] for name in names if name in plain]


def find_column(columns: Iterable[str], names: Iterable[str], wanted: str | None) -> str | None:
    """The first of them."""
    return next(iter(find_columns(columns, names, wanted)), None)
