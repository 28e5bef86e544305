"""What the pages of Dagster show of a loop comes from the same server: pictures and reports, and nothing else."""

from __future__ import annotations

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from al_cli.loop_files import files_route
from al_resources.platform import Platform
from al_serving.guard import PageGuard, new_token


@pytest.fixture
def pages(platform: Platform, png: bytes) -> TestClient:
    for path in ("reports/0003/contact_sheet.png", "images/ab/secret.txt", "labeling/exports/a.png"):
        platform.blobs.write(path, png)
    platform.blobs.write("reports/studies/a/report.html", b"<p>a report</p>")
    return TestClient(Starlette(routes=[files_route("/loop/files", lambda: platform.blobs)]))


def test_a_picture_is_shown_as_a_picture_and_kept_by_nobody_else(pages: TestClient, png: bytes) -> None:
    answer = pages.get("/loop/files/reports/0003/contact_sheet.png?abc")
    assert (answer.status_code, answer.content) == (200, png)
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "private" in answer.headers["cache-control"]


def test_a_report_runs_nothing_and_fetches_nothing(pages: TestClient) -> None:
    answer = pages.get("/loop/files/reports/studies/a/report.html")
    assert answer.text == "<p>a report</p>"
    assert "sandbox; default-src 'none'" in answer.headers["content-security-policy"]


@pytest.mark.parametrize(
    "path",
    [
        "reports/0003/missing.png",
        "images/ab/secret.txt",
        "labeling/exports/a.png",
        "reports/../labeling/exports/a.png",
        "reports/%2e%2e/labeling/exports/a.png",
        "reports/%2e%2e%2f%2e%2e%2fetc/passwd.png",
        "/etc/passwd.png",
    ],
)
def test_nothing_else_is_handed_out(pages: TestClient, path: str) -> None:
    assert pages.get(f"/loop/files/{path}").status_code == 404


def test_nobody_gets_a_picture_without_the_link(platform: Platform) -> None:
    guarded = PageGuard(Starlette(routes=[files_route("/loop/files", lambda: platform.blobs)]), new_token(), way_in="")
    answer = TestClient(guarded, base_url="http://127.0.0.1").get("/loop/files/reports/0003/contact_sheet.png")
    assert answer.status_code == 401
