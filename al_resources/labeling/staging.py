"""Staging: the images of a round, copied to where people label them, and a manifest that is written last."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from al_resources.labeling import StagedImage

if TYPE_CHECKING:
    import polars as pl

    from al_resources.blobs import BlobStore
    from al_resources.image_store import ImageStore

INPUT = "labeling/input"
MANIFEST = "_manifest.json"
LONGEST_STEM = 60  # characters of an own name
COPIERS = 8  # images copied at once: a container answers each in tens of milliseconds


@dataclass(frozen=True)
class Staged:
    """A staged round: its folder, how many images lie there, and which could not be copied."""

    folder: str
    images: int
    missing: tuple[str, ...]


def round_folder(round_: int) -> str:
    """Where a round is staged."""
    return f"{INPUT}/{round_:04d}"


def stage_round(
    blobs: BlobStore, images: ImageStore, round_: int, chosen: pl.DataFrame, own: Mapping[str, str] | None = None
) -> Staged:
    """Copy the chosen images (rows of `SELECTIONS`) and write the manifest; doing it again changes nothing.

    An image whose file is gone is named in the result; the others are staged all the same.

    `own`: image id -> the person's own name, which a staged file carries behind the id.
    """
    folder = round_folder(round_)
    before = _file_names(blobs, round_)
    rows = list(chosen.sort("rank").iter_rows(named=True))

    def stage(row: dict[str, Any]) -> StagedImage | None:
        image_id = row["image_id"]
        file_name = before.get(image_id) or staged_name(image_id, row["image_uri"], (own or {}).get(image_id, ""))
        try:
            data = images.read(row["image_uri"])
        except FileNotFoundError:
            return None
        blobs.write(f"{folder}/{file_name}", data, if_absent=True)
        return StagedImage(
            image_id=image_id,
            file_name=file_name,
            image_uri=row["image_uri"],
            reason=row["reason"],
            rank=row["rank"],
        )

    with ThreadPoolExecutor(COPIERS) as pool:
        copies = list(pool.map(stage, rows))
    staged = [image for image in copies if image is not None]
    missing = [row["image_id"] for row, image in zip(rows, copies, strict=True) if image is None]
    content = {"round": round_, "images": [image.model_dump() for image in staged], "missing": missing}
    blobs.write(f"{folder}/{MANIFEST}", json.dumps(content, indent=1).encode())
    return Staged(folder, len(staged), tuple(missing))


def unstage(blobs: BlobStore, image_ids: Collection[str]) -> int:
    """Take images out of every staged round: from its manifest first, then the copies; how many copies there were."""
    copies: dict[str, list[str]] = {}
    for blob in blobs.list(INPUT):
        if PurePosixPath(blob.path).name[:32] in image_ids:  # its own name may follow
            copies.setdefault(str(PurePosixPath(blob.path).parent), []).append(blob.path)
    for folder, paths in copies.items():
        manifest = f"{folder}/{MANIFEST}"
        if blobs.exists(manifest):
            content = json.loads(blobs.read(manifest))
            content["images"] = [image for image in content["images"] if image["image_id"] not in image_ids]
            blobs.write(manifest, json.dumps(content, indent=1).encode())
        for path in paths:
            blobs.delete(path)
    return sum(map(len, copies.values()))


def staged_name(image_id: str, uri: str, own: str = "") -> str:
    """What an image's staged file is called: its id, the own name's stem as far as every tool takes it, its ending.

    An own name that holds what may be another image's id would lead an export astray, and is left out.
    """
    from al_resources.labeling.names import ids_in

    stem = "" if ids_in(own) else PurePosixPath(own.replace("\\", "/")).stem
    plain = re.sub(r"[^\w-]+", "_", stem).strip("_")[:LONGEST_STEM]
    return image_id + (f"_{plain}" if plain else "") + PurePosixPath(uri).suffix


def _file_names(blobs: BlobStore, round_: int) -> dict[str, str]:
    """Image id -> file name, of a round that is staged already: a name that came since moves no file."""
    try:
        return {image.image_id: image.file_name for image in staged_images(blobs, round_)}
    except FileNotFoundError:
        return {}


def is_staged(blobs: BlobStore, round_: int) -> bool:
    """Whether the round's manifest is there, and so all of its images."""
    return blobs.exists(f"{round_folder(round_)}/{MANIFEST}")


def staged_images(blobs: BlobStore, round_: int) -> Sequence[StagedImage]:
    """What a round's manifest names. Raises `FileNotFoundError` for a round that is not staged."""
    content = json.loads(blobs.read(f"{round_folder(round_)}/{MANIFEST}"))
    return [StagedImage.model_validate(image) for image in content["images"]]
