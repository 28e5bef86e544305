"""What clients may send to be scored, turned into images.

Raw bytes, multipart files, `{"input_data": {"columns": ["image"], "data": ["<base64>", ...]}}` as Azure ML
sends it, and `{"data": {"datastore": ..., "img_path": ...}}` for an image that lies in the blob store.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from al_core.errors import ActiveLearningError

if TYPE_CHECKING:
    from al_resources.blobs import BlobStore

DATASTORE = "workspaceblobstore"  # what Azure ML calls a workspace's own blob store; here, the platform's
MAX_IMAGES = 1_000  # of one request: more belong into a batch
LONGEST_QUOTE = 200  # characters of what a client sent, in an answer
LARGEST = 100_000_000  # bytes of a stored image, where nothing else is said
RAW_TYPES = ("image/", "application/octet-stream")


class BadRequest(ActiveLearningError):
    """The request cannot be answered; `status` is the HTTP status that says why."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


@dataclass(frozen=True)
class SentImage:
    """One image of a request; `name` is what the client calls it, empty for raw bytes."""

    name: str
    data: bytes
    problem: str = ""  # why there are no bytes: one bad row is no reason to refuse the others


def images_of_json(body: bytes, datastores: Mapping[str, BlobStore], largest: int = LARGEST) -> list[SentImage]:
    """The images of a JSON body; `largest`: bytes of one that is stored. Raises `BadRequest`."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError too
        raise BadRequest(400, f"the body is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise BadRequest(400, f"the body is a JSON {type(content).__name__}, expected an object")
    if "input_data" in content:
        return _inline_images(content["input_data"])
    if "data" in content:
        return [_stored_image(content["data"], datastores, largest)]
    raise BadRequest(
        400,
        f"the body has the key(s) {[key[:LONGEST_QUOTE] for key in sorted(content)[:5]]}; expected "
        '{"input_data": {"columns": ["image"], "data": ["<base64>"]}} '
        'or {"data": {"datastore": ..., "img_path": ...}}',
    )


def images_of_bytes(
    body: bytes, content_type: str, datastores: Mapping[str, BlobStore], largest: int = LARGEST
) -> list[SentImage]:
    """The images of a body that is no multipart form. Raises `BadRequest`.

    Clients often forget the content type of raw images, so anything that is not declared as JSON and does not
    begin like a JSON object is taken for an image.
    """
    kind = content_type.split(";", maxsplit=1)[0].strip().lower()
    is_json = kind == "application/json" or kind.endswith("+json")
    if is_json or (not kind.startswith(RAW_TYPES) and body.lstrip()[:1] == b"{"):
        return images_of_json(body, datastores, largest)
    return [SentImage("", body)]


def _inline_images(table: Any) -> list[SentImage]:
    columns = table.get("columns") if isinstance(table, dict) else None
    rows = table.get("data") if isinstance(table, dict) else None
    if not isinstance(columns, list) or "image" not in columns or not isinstance(rows, list):
        raise BadRequest(400, 'input_data needs {"columns": ["image", ...], "data": [...]}')
    if not 1 <= len(rows) <= MAX_IMAGES:
        raise BadRequest(400, f"input_data holds {len(rows)} images; expected 1 to {MAX_IMAGES}")
    names = table.get("index", list(range(len(rows))))
    if not isinstance(names, list) or len(names) != len(rows):
        raise BadRequest(400, f"input_data has {len(rows)} rows and not one index entry for each")
    column = columns.index("image")
    return [_inline_image(str(name), row, column) for name, row in zip(names, rows, strict=True)]


def _inline_image(name: str, row: Any, column: int) -> SentImage:
    """One row's image: clients of Azure ML send it bare or as a list with one entry per column."""
    value = row[column] if isinstance(row, list) and len(row) > column else row
    if not isinstance(value, str):
        return SentImage(name, b"", f"holds a {type(value).__name__}, expected an image as base64 text")
    try:
        return SentImage(name, base64_bytes(value))
    except ValueError as error:
        return SentImage(name, b"", f"is no base64: {error}")


def base64_bytes(text: str) -> bytes:
    """Base64 as clients write it: with line breaks, as a data URI, in the URL-safe alphabet, without padding.

    Raises:
        ValueError: it is none of these.
    """
    if text[:5].lower() == "data:":
        head, _, text = text.partition(",")
        if not head.lower().endswith(";base64"):
            raise ValueError("a data URI without ;base64")
    text = unquote(text)  # + / and = are often encoded, in a data URI and in a form
    plain = "".join(text.split()).translate({ord("-"): "+", ord("_"): "/"}).rstrip("=")
    return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)


def _stored_image(address: Any, datastores: Mapping[str, BlobStore], largest: int) -> SentImage:
    path = address.get("img_path") if isinstance(address, dict) else None
    if not isinstance(path, str) or not path:
        raise BadRequest(400, 'data needs {"datastore": ..., "img_path": "<path in the datastore>"}')
    datastore = address.get("datastore", next(iter(datastores), ""))
    if not isinstance(datastore, str) or datastore not in datastores:
        raise BadRequest(
            404, f"there is no datastore {str(datastore)[:LONGEST_QUOTE]!r} here; known: {sorted(datastores)}"
        )
    shown = path[:LONGEST_QUOTE]
    try:
        if datastores[datastore].info(path).size > largest:  # before it is in memory
            raise BadRequest(413, f"image {shown!r} is larger than {largest:,} bytes; scale it down")
        return SentImage(path, datastores[datastore].read(path))
    except ValueError as error:  # .. and absolute paths, refused by the store
        raise BadRequest(400, f"img_path {shown!r}: {str(error)[:LONGEST_QUOTE]}") from error
    except FileNotFoundError as error:
        raise BadRequest(404, f"there is no image {shown!r} in datastore {datastore!r}") from error
