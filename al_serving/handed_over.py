"""Segments that could not reach the log, handed over to the blob store: a container's disk goes with the container.

The collector puts them there (`hand_over`) where the profile says that its disk does not last, and `prediction_log`
delivers them (`deliver`). Either may happen twice: a prediction is told apart by its id.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from al_core.records import PREDICTIONS, REJECTED_IMAGES, fitted
from al_resources.forgotten import without_forgotten
from al_resources.image_names import record_names
from al_serving.spool import SEGMENT, names_in

if TYPE_CHECKING:
    from al_resources.blobs import BlobStore
    from al_resources.image_store import ImageStore
    from al_resources.platform import Platform

FOLDER = "spool"  # in the blob store
UNREADABLE = "spool-unreadable"


@dataclass(frozen=True)
class Delivered:
    """What came of the segments in the blob store."""

    segments: int
    rows: int  # that were new to the log
    unreadable: int  # moved to `UNREADABLE`, for a person


def hand_over(blobs: BlobStore, segment: Path) -> None:
    """Keep a segment in the blob store under its name, which no other has. Raises what the store raises."""
    blobs.write(f"{FOLDER}/{segment.name}", segment.read_bytes())


def waiting(blobs: BlobStore) -> int:
    """How many segments wait in the blob store for `prediction_log`."""
    return sum(1 for _ in blobs.list(FOLDER))


def deliver(platform: Platform) -> Delivered:
    """Bring every segment in the blob store into log and ledger, oldest first, and take it away.

    Raises:
        Exception: what a store raises that is away; the segments that are left wait for the next time.
    """
    segments = new_rows = unreadable = 0
    for blob in sorted(platform.blobs.list(FOLDER), key=lambda blob: blob.path):
        data = platform.blobs.read(blob.path)
        try:
            new_rows += _deliver(platform, blob.path, data)
        except (pa.ArrowInvalid, ValueError, TypeError):  # the rows themselves: repeating is no use
            platform.blobs.write(f"{UNREADABLE}/{blob.path.rsplit('/', 1)[-1]}", data)
            unreadable += 1
        platform.blobs.delete(blob.path)
        segments += 1
    return Delivered(segments, new_rows, unreadable)


def _deliver(platform: Platform, path: str, data: bytes) -> int:
    """One segment into its store; how many of its rows were new there."""
    import pyarrow.compute as pc

    read = pa.ipc.open_file(pa.py_buffer(data)).read_all()
    if path.endswith("-rejections.arrow"):
        rejected = fitted(read, REJECTED_IMAGES)
        return platform.ledgers.insert_new("rejected_images", rejected, on=["name", "reason", "source"])
    read = without_forgotten(fitted(read, SEGMENT), platform.ledgers)
    known = platform.predictions.rows_of(read["image_id"].unique().to_pylist(), ["prediction_id"])
    rows = read.filter(pc.invert(pc.is_in(read["prediction_id"], known["prediction_id"].combine_chunks())))
    if rows.num_rows:
        platform.predictions.append(_with_addresses(platform.images, rows))
    record_names(platform.ledgers, names_in(read), "service")
    return rows.num_rows


def _with_addresses(images: ImageStore, rows: pa.Table) -> pa.Table:
    """Store the images of the rows, and put their addresses in their place."""
    files = dict(zip(rows["image_id"].to_pylist(), rows["image"].to_pylist(), strict=True))
    uris = {image_id: images.put(data).uri for image_id, data in files.items()}
    addresses = pa.array([uris[image_id] for image_id in rows["image_id"].to_pylist()], pa.string())
    rows = rows.drop_columns(["image", "name"])
    return rows.set_column(rows.schema.get_field_index("image_uri"), PREDICTIONS.field("image_uri"), addresses)
