"""The versions of the labeled dataset: JSONL files per split below `datasets/<version>/`, and a manifest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from al_core.records import DatasetManifest
from al_core.training import LabeledImage

if TYPE_CHECKING:
    from al_resources.blob_store import BlobStore
    from al_resources.image_store import ImageStore
    from al_resources.ledgers import Ledgers
    from al_resources.settings import HoldoutSettings
