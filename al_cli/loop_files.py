"""Pictures and reports of a loop beside the pages of Dagster: what its events show and link to, behind the same guard.

Browsers open no `file://` link from a page, and Dagster hides a picture that is longer than a line behind a button.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

if TYPE_CHECKING:
    from al_resources.blobs import BlobStore

FOLDERS = ("reports/", "images/")  # labels, answers and models are nobody's to browse here
TYPES = {
    "png": "image/png",
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "webp": "image/webp",
    "gif": "image/gif",
    "bmp": "image/bmp",
    "html": "text/html",
}
HEADERS = {
    "cache-control": "private, no-cache",
    "content-security-policy": "sandbox; default-src 'none'; img-src 'self' data:; style-src 'unsafe-inline'",
    "x-content-type-options": "nosniff",
}


def files_route(path: str, blobs: Callable[[], BlobStore]) -> Route:
    """GET `path`/reports/... and `path`/images/...: pictures and reports, which run nothing and fetch nothing."""

    async def file(request: Request) -> Response:
        wanted = request.path_params["file"]
        type_ = TYPES.get(wanted.rpartition(".")[2].lower())
        if type_ is None or not wanted.startswith(FOLDERS):
            return PlainTextResponse(f"no picture or report: {wanted[:200]!r}", 404)
        try:
            content = await run_in_threadpool(lambda: blobs().read(wanted))
        except (FileNotFoundError, ValueError):
            return PlainTextResponse(f"there is no {wanted[:200]!r} (any more)", 404)
        return Response(content, media_type=type_, headers=HEADERS)

    return Route(f"{path}/{{file:path}}", file, methods=["GET"])
