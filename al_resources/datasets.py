"""The versions of the labeled dataset: JSONL files per split below `datasets/<version>/`, the manifest written last."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Literal

import polars as pl

from al_core.records import DatasetManifest

if TYPE_CHECKING:
    from al_core.dataset import Dataset
    from al_resources.blob_store import BlobStore
    from al_resources.image_store import ImageStore
    from al_resources.ledgers import Ledgers
    from al_resources.settings import HoldoutSettings

FOLDER = "datasets"
MANIFEST = "manifest.json"


class DatasetStore:
    """All published versions; they never change."""

    def __init__(self, blobs: BlobStore) -> None:
        self.blobs = blobs
        self._manifests: dict[str, DatasetManifest] = {}  # published ones never change, so each is read once

    def manifests(self) -> list[DatasetManifest]:
        """Of every version, in the order of creation."""
        for blob in self.blobs.list(FOLDER):
            path = PurePosixPath(blob.path)
            if path.name == MANIFEST and path.parent.name not in self._manifests:
                self._manifests[path.parent.name] = DatasetManifest.model_validate_json(self.blobs.read(blob.path))
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
            raise KeyError(f"there is no dataset of round {round_} or before; materialize labeled_dataset first")
        of_round = [manifest for manifest in made if manifest.round == round_]
        return self.of_version((of_round or made)[-1].version)

    def of_version(self, version: str) -> Dataset:
        """A version with its rows. Raises `KeyError`, naming the versions there are."""
        from al_core.dataset import SPLITS, Dataset, from_jsonl

        known = {manifest.version: manifest for manifest in self.manifests()}
        if version not in known:
            raise KeyError(f"there is no dataset version {version}; there are: {', '.join(known) or 'none yet'}")
        files = [self.blobs.read(f"{FOLDER}/{version}/{split}.jsonl") for split in SPLITS]
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


def build_and_publish(
    datasets: DatasetStore,
    ledgers: Ledgers,
    images: ImageStore,
    *,
    round_: int,
    holdout: HoldoutSettings,
    resolve: Literal["latest", "majority"],
    near_duplicate_distance: int,
) -> Dataset:
    """The dataset that the label ledger amounts to now; the same labels give the version there is."""
    from al_core.dataset import build_dataset, resolve_labels

    parent = datasets.latest()
    resolved = resolve_labels(ledgers.read("labels"), resolve)
    selections = ledgers.read("selections").unique("image_id", keep="last")
    new = resolved if parent is None else resolved.join(parent.rows, on="image_id", how="anti")
    urls, hashes = _describe(new["image_id"].to_list(), selections, images)
    dataset = build_dataset(
        resolved,
        reasons=dict(selections.select("image_id", "reason").iter_rows()),
        urls=urls,
        hashes=hashes,
        parent=parent,
        holdout_share=holdout.share,
        validation_share=holdout.validation_share,
        near_duplicate_distance=near_duplicate_distance,
        round_=round_,
    )
    datasets.publish(dataset)
    return dataset


def _describe(
    image_ids: list[str], selections: pl.DataFrame, images: ImageStore
) -> tuple[dict[str, str], dict[str, str | None]]:
    """Address and near-duplicate hash of each image: from its selection, or from the image itself."""
    from al_core.images import BadImage, decode_image, near_duplicate_hash

    urls: dict[str, str] = dict(selections.select("image_id", "image_uri").iter_rows())
    hashes: dict[str, str | None] = dict(selections.select("image_id", "image_hash").iter_rows())
    for image_id in image_ids:
        if image_id not in urls:
            urls[image_id] = images.path_of(image_id)
        if hashes.get(image_id) is None:
            try:
                hashes[image_id] = near_duplicate_hash(decode_image(images.read(urls[image_id]), name=urls[image_id]))
            except (BadImage, FileNotFoundError):
                hashes[image_id] = None  # training records and skips what it cannot read
    return urls, hashes
