"""What `al forget` erased: known by content id, so that it is not brought in again."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from al_core.errors import InvalidInput

if TYPE_CHECKING:
    import pyarrow as pa

    from al_resources.ledgers import LedgerReader

IMAGE_ID = re.compile("[0-9a-f]{32}")


def forgotten_ids(ledgers: LedgerReader) -> frozenset[str]:
    """The ids of all forgotten images."""
    return frozenset(ledgers.read("forgotten")["image_id"])


def without_forgotten(rows: pa.Table, ledgers: LedgerReader) -> pa.Table:
    """`rows` with a column `image_id`, without those of forgotten images."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not (forgotten := forgotten_ids(ledgers)):
        return rows
    return rows.filter(pc.invert(pc.is_in(rows["image_id"], pa.array(sorted(forgotten), pa.string()))))


def check_ids(image_ids: Iterable[str]) -> None:
    """Raises `InvalidInput` for what is no content id: the ids become part of a command."""
    if wrong := [one for one in image_ids if not IMAGE_ID.fullmatch(one)]:
        raise InvalidInput(f"{wrong[0]!r} is no image id; expected 32 hexadecimal digits")
