"""Names of images: under which paths and file names each came, by content id. The store itself knows only contents."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from al_core.records import IMAGE_NAMES, table_of, utc_now
from al_resources.forgotten import without_forgotten

if TYPE_CHECKING:
    from typing_extensions import Self

    from al_resources.ledgers import LedgerReader, Ledgers

PAGE = 1_000  # names written at once


class NameLog:
    """Puts names on record, a page at a time; leave the `with` block to write the last page.

    `source`: the way they came, like `ingest` or `score`.
    """

    def __init__(self, ledgers: Ledgers, source: str) -> None:
        self._ledgers = ledgers
        self._source = source
        self._rows: list[dict[str, object]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._write()

    def add(self, name: str, image_id: str) -> None:
        """The image came under this name; the same again is the same."""
        self._rows.append({"name": name, "image_id": image_id, "source": self._source, "recorded_at": utc_now()})
        if len(self._rows) >= PAGE:
            self._write()

    def _write(self) -> None:
        if self._rows:
            rows = without_forgotten(table_of(IMAGE_NAMES, self._rows), self._ledgers)
            self._ledgers.insert_new("image_names", rows, on=["name", "image_id"])
            self._rows = []


def own_names(ledgers: LedgerReader) -> list[tuple[str, str]]:
    """(name, image id) of every name on record."""
    return list(ledgers.read("image_names").select("name", "image_id").iter_rows())
