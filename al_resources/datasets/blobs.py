"""The versions of the labeled dataset: JSONL files per split below `datasets/<version>/`, the manifest written last."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from al_core.errors import NotThere
from al_core.records import DatasetManifest

if TYPE_CHECKING:
    from al_core.dataset import Dataset
    from al_resources.blobs import BlobStore

FOLDER = "datasets"
MANIFEST = "manifest.json"


class BlobDatasetStore:
    """`DatasetStore` in the blob store."""

    def __init__(self, blobs: BlobStore) -> None:
        self.blobs = blobs
        self._manifests: dict[str, DatasetManifest] = {}  # published ones never change, so each is read once

    def manifests(self) -> list[DatasetManifest]:
        """Of every version, in the order of creation."""
        for version in self.blobs.folders(FOLDER):
            if version not in self._manifests:
                with suppress(FileNotFoundError):  # it is being written
                    content = self.blobs.read(f"{FOLDER}/{version}/{MANIFEST}")
                    self._manifests[version] = DatasetManifest.model_validate_json(content)
        return sorted(self._manifests.values(), key=lambda manifest: manifest.sequence)

    def latest(self) -> Dataset | None:
        """The newest version, if there is one."""
        manifests = self.manifests()
        return self.of_version(manifests[-1].version) if manifests else None

    def of_round(self, round_: int) -> Dataset:
        """The newest version made in that round; one without new labels goes on with an earlier version.

        Raises:
            KeyError: there is no dataset up to that round.
        """
        made = [manifest for manifest in self.manifests() if manifest.round <= round_]
        if not made:
            raise NotThere(f"there is no dataset of round {round_} or before; materialize labeled_dataset first")
        of_round = [manifest for manifest in made if manifest.round == round_]
        return self.of_version((of_round or made)[-1].version)

    def of_version(self, version: str) -> Dataset:
        """A version with its rows. Raises `KeyError`, naming the versions there are."""
        from al_core.dataset import SPLITS, Dataset, from_jsonl

        known = {manifest.version: manifest for manifest in self.manifests()}
        if version not in known:
            raise NotThere(f"there is no dataset version {version}; there are: {', '.join(known) or 'none yet'}")
        splits = [split for split in SPLITS if split in known[version].counts]  # older versions know fewer
        files = [self.blobs.read(f"{FOLDER}/{version}/{split}.jsonl") for split in splits]
        return Dataset(from_jsonl(line for file in files for line in file.splitlines()), known[version])

    def publish(self, dataset: Dataset) -> None:
        """Write a version; one that is there already is left as it is."""
        from al_core.dataset import SPLITS, to_jsonl

        folder = f"{FOLDER}/{dataset.manifest.version}"
        if self.blobs.exists(f"{folder}/{MANIFEST}"):
            return
        for split in SPLITS:
            self.blobs.write(f"{folder}/{split}.jsonl", to_jsonl(dataset.rows.filter(split=split)))
        self.blobs.write(f"{folder}/{MANIFEST}", dataset.manifest.model_dump_json(indent=1).encode())
