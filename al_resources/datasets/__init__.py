"""The versions of the labeled dataset: published whole, never changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from al_core.dataset import Dataset
    from al_core.records import DatasetManifest


class DatasetStore(Protocol):
    """What every dataset store can do. A version is named by the hash of its rows."""

    def manifests(self) -> list[DatasetManifest]:
        """Of every version, in the order of creation."""

    def latest(self) -> Dataset | None:
        """The newest version, if there is one."""

    def of_round(self, round_: int) -> Dataset:
        """The newest version made in that round; one without new labels goes on with an earlier version.

        Raises:
            KeyError: there is no dataset up to that round.
        """

    def of_version(self, version: str) -> Dataset:
        """A version with its rows. Raises `KeyError`, naming the versions there are."""

    def publish(self, dataset: Dataset) -> None:
        """Write a version; one that is there already is left as it is."""
