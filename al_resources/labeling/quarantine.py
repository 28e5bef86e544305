"""Quarantine: what could not be used, with the reason beside it. The original stays where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from al_resources.labeling.exports import SetAside

if TYPE_CHECKING:
    from al_resources.blobs import BlobStore

QUARANTINE = "labeling/quarantine"


def quarantine_folder(path: str, etag: str) -> str:
    """One folder per content of an export: the same name twice does not mix."""
    digest = hashlib.blake2b(f"{path}@{etag}".encode(), digest_size=4).hexdigest()
    return f"{QUARANTINE}/{PurePosixPath(path).name}-{digest}"


def quarantine_export(
    blobs: BlobStore, path: str, etag: str, reason: str, tried: Mapping[str, str] | None = None
) -> str:
    """Copy a refused export to quarantine with its reason and what each format that was tried needs; returns the
    folder.
    """
    folder = quarantine_folder(path, etag)
    blobs.copy(path, f"{folder}/{PurePosixPath(path).name}")
    blobs.write(f"{folder}/reason.json", _json({"export": path, "etag": etag, "reason": reason, "tried": tried or {}}))
    return folder


def quarantine_rows(blobs: BlobStore, path: str, etag: str, rows: Sequence[SetAside]) -> str:
    """Keep the rows that are no labels here, as they came and as they were understood; returns the folder."""
    folder = quarantine_folder(path, etag)
    blobs.write(
        f"{folder}/set_aside.json",
        _json({"export": path, "etag": etag, "rows": [asdict(row) for row in rows]}),
    )
    return folder


def _json(value: object) -> bytes:
    return json.dumps(value, indent=1, default=str).encode()
