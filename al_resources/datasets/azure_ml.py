"""The dataset's versions as data assets of Azure ML: an MLTable per split, as AutoML and jobs read them.

Beside the files of `datasets`, below `datasets/<version>/mltable/`:

    train/MLTable, train/images.jsonl, and the same for validation and holdout

A line of `images.jsonl` is `{"image_url": "azureml://...", "label": "..."}`, the schema of AutoML for images. The
assets are `<model>-train`, `<model>-validation` and `<model>-holdout`; their version is the dataset's number in the
order of creation, and a tag holds the hash that names it everywhere else.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from al_resources.azure.workspace import checked_name, datastore_uri
from al_resources.datasets.blobs import FOLDER, BlobDatasetStore
from al_resources.image_store import image_path

if TYPE_CHECKING:
    from al_core.dataset import Dataset, Split
    from al_core.learning.contract import LabeledImage
    from al_core.records import DatasetManifest
    from al_resources.azure.workspace import Arm
    from al_resources.blobs import BlobStore
    from al_resources.settings.azure_ml import AzureMLSettings

DATA_API = "2023-04-01"
LONGEST_TAG = 256
IMAGES_FILE = "images.jsonl"
TABLES: tuple[Split, ...] = ("train", "validation", "holdout")
LABEL_COLUMN = "label"
MLTABLE = f"""\
paths:
  - file: ./{IMAGES_FILE}
transformations:
  - read_json_lines:
      encoding: utf8
      invalid_lines: error
      include_path_column: false
  - convert_column_types:
      - columns: image_url
        column_type: stream_info
"""


class AzureMLDatasetStore(BlobDatasetStore):
    """`DatasetStore` whose versions are data assets of the workspace as well.

    The platform's own files are published first. A process that dies before a version is in the workspace leaves
    the rest to whoever publishes it again, or asks for a round's dataset.
    """

    def __init__(self, blobs: BlobStore, model_name: str, arm: Arm, settings: AzureMLSettings) -> None:
        super().__init__(blobs)
        self._arm = arm
        self._settings = settings
        self._names = {split: checked_name("data asset", f"{model_name}-{split}") for split in TABLES}
        self._entered: set[str] = set()

    def publish(self, dataset: Dataset) -> None:
        """Write a version and register it, see `DatasetStore`. Raises `WorkspaceError`."""
        super().publish(dataset)
        self._enter(dataset)

    def of_round(self, round_: int) -> Dataset:
        """The dataset of a round, in the workspace as well. Raises `KeyError` and `WorkspaceError`."""
        dataset = super().of_round(round_)
        self._enter(dataset)
        return dataset

    def _enter(self, dataset: Dataset) -> None:
        """Write the tables and register what the workspace does not know; a split without images has no table."""
        manifest = dataset.manifest
        if manifest.version in self._entered:
            return
        for split in TABLES:
            if images := dataset.images(split):
                folder = table_folder(manifest, split)
                self.blobs.write(f"{folder}/{IMAGES_FILE}", to_lines(images, self._settings))
                self.blobs.write(f"{folder}/MLTable", MLTABLE.encode())
                self._register(split, manifest, len(images))
        self._entered.add(manifest.version)

    def _register(self, split: Split, manifest: DatasetManifest, images: int) -> None:
        """By plain REST: the SDK downloads a schema from the internet first, and reads the table back.

        The same request again changes nothing, and a version that says something else is refused by Azure.
        """
        name = self._names[split]
        self._arm.call(
            "PUT",
            f"data/{name}/versions/{manifest.sequence}",
            what=f"registering data asset {name}:{manifest.sequence}",
            params={"api-version": DATA_API},
            body={
                "properties": {
                    "dataType": "mltable",
                    "dataUri": datastore_uri(self._settings, table_folder(manifest, split)),
                    "referencedUris": [f"./{IMAGES_FILE}"],
                    "tags": {
                        "dataset": manifest.version,
                        "parent": manifest.parent or "",
                        "round": str(manifest.round),
                        "images": str(images),
                        "classes": ", ".join(manifest.classes)[:LONGEST_TAG],
                    },
                }
            },
        )


def table_folder(manifest: DatasetManifest, split: Split) -> str:
    """Where in the blob store the MLTable of a split lies."""
    return f"{FOLDER}/{manifest.version}/mltable/{split}"


def asset_of(model_name: str, manifest: DatasetManifest, split: Split) -> str:
    """How a job names a registered split as its input."""
    return f"azureml:{model_name}-{split}:{manifest.sequence}"


def to_lines(images: Iterable[LabeledImage], settings: AzureMLSettings) -> bytes:
    """Labeled images as JSON lines in the schema of AutoML. Raises `FileNotFoundError` for a foreign address."""
    store = (
        f"azureml://subscriptions/{settings.subscription}/resourcegroups/{settings.resource_group}"
        f"/workspaces/{settings.workspace}/datastores/{settings.datastore}/paths"
    )
    rows = ({"image_url": f"{store}/{image_path(image.uri)}", LABEL_COLUMN: image.label} for image in images)
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def from_lines(lines: bytes) -> list[LabeledImage]:
    """The images of `to_lines`, in their order."""
    from al_core.learning.contract import LabeledImage

    rows = [json.loads(line) for line in lines.splitlines()]
    return [LabeledImage(PurePosixPath(row["image_url"]).stem, row["image_url"], row[LABEL_COLUMN]) for row in rows]
