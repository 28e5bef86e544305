"""Names of images: under which paths and file names each came, by content id. The store itself knows only contents."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from types import TracebackType
from typing import TYPE_CHECKING

from al_core.records import IMAGE_NAMES, table_of, utc_now
from al_resources.forgotten import without_forgotten

if TYPE_CHECKING:
    from typing import Self

    from al_resources.ledgers import LedgerReader, Ledgers

PAGE = 1_000  # names written at once


def record_names(ledgers: Ledgers, names: Iterable[tuple[str, str]], source: str) -> None:
    """Put (name, image id) pairs on record that are not yet, but for forgotten images; `source` as in `NameLog`."""
    now = utc_now()
    rows = [{"name": name, "image_id": image_id, "source": source, "recorded_at": now} for name, image_id in names]
    if rows:
        ledgers.insert_new(
            "image_names", without_forgotten(table_of(IMAGE_NAMES, rows), ledgers), on=["name", "image_id"]
        )


class NameLog:
    """Puts names on record, a page at a time; leave the `with` block to write the last page.

    `source`: the way they came, like `ingest` or `score`.
    """

    def __init__(self, ledgers: Ledgers, source: str) -> None:
        self._ledgers = ledgers
        self._source = source
        self._names: list[tuple[str, str]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._write()

    def add(self, name: str, image_id: str) -> None:
        """The image came under this name; the same again is the same."""
        self._names.append((name, image_id))
        if len(self._names) >= PAGE:
            self._write()

    def _write(self) -> None:
        record_names(self._ledgers, self._names, self._source)
        self._names = []


def first_names(ledgers: LedgerReader, image_ids: Collection[str]) -> dict[str, str]:
    """Of those images that came under a name: image id -> the first one."""
    names = ledgers.read("image_names").select("image_id", "name", "recorded_at")
    return {
        image_id: name
        for image_id, name, _ in names.sort("recorded_at", "name", descending=True).iter_rows()
        if image_id in image_ids
    }


def own_names(ledgers: LedgerReader) -> list[tuple[str, str]]:
    """(name, image id) of every name on record."""
    return list(ledgers.read("image_names").select("name", "image_id").iter_rows())
