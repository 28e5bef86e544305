"""What clients may send, and what they hear when it is something else."""

from __future__ import annotations

import base64
import contextlib
import json
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from al_resources.blobs import BlobInfo
from al_serving.payloads import BadRequest, SentImage, images_of_bytes, images_of_json


class Blobs:
    """The two things that are asked of a blob store here."""

    def info(self, path: str) -> BlobInfo:
        return BlobInfo(path, "etag", len(self.read(path)), datetime.now(UTC))

    def read(self, path: str) -> bytes:
        if path.startswith("/") or ".." in path.split("/"):
            raise ValueError("paths are relative and stay inside the store")
        if path != "images/ab/abcd.png":
            raise FileNotFoundError(path)
        return b"stored"


STORES: dict[str, Any] = {"workspaceblobstore": Blobs()}


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def parsed(content: Any) -> list[SentImage]:
    return images_of_json(json.dumps(content).encode(), STORES)


def test_rows_of_base64_are_images_named_by_their_index() -> None:
    content = {"input_data": {"columns": ["image"], "index": ["a.png", 7], "data": [encoded(b"x"), [encoded(b"y")]]}}
    assert parsed(content) == [SentImage("a.png", b"x"), SentImage("7", b"y")]


def test_the_image_column_is_found_among_others() -> None:
    content = {"input_data": {"columns": ["camera", "image"], "data": [["north", encoded(b"x")]]}}
    assert parsed(content) == [SentImage("0", b"x")]


def test_a_row_that_is_no_base64_does_not_spoil_the_others() -> None:
    bad, number, good = parsed({"input_data": {"columns": ["image"], "data": ["%%%", 5, encoded(b"x")]}})
    assert "base64" in bad.problem
    assert "int" in number.problem
    assert good == SentImage("2", b"x")


@given(st.binary(max_size=200), st.sampled_from([base64.encodebytes, base64.b64encode, base64.urlsafe_b64encode]))
def test_base64_is_read_as_clients_write_it(data: bytes, encode: Any) -> None:
    text = encode(data).decode()
    uri = f"data:image/png;base64,{text}"
    for written in (text, text.rstrip("=\n"), uri, quote(text), f"data:;base64,{quote(text)}", f" {text}\r\n"):
        assert parsed({"input_data": {"columns": ["image"], "data": [written]}})[0].data == data


@pytest.mark.parametrize("written", ["data:image/png,abc", "a", "ab?=", "é"])
def test_what_is_no_base64_in_any_spelling_is_said(written: str) -> None:
    assert "is no base64" in parsed({"input_data": {"columns": ["image"], "data": [written]}})[0].problem


@pytest.mark.parametrize("store", [{"datastore": "workspaceblobstore"}, {}])
def test_an_image_in_the_blob_store_is_named_by_its_path(store: dict[str, str]) -> None:
    assert parsed({"data": {**store, "img_path": "images/ab/abcd.png"}}) == [SentImage("images/ab/abcd.png", b"stored")]


@pytest.mark.parametrize("path", ["../secrets", "images/../../x", "/etc/passwd"])
def test_paths_out_of_the_store_are_refused(path: str) -> None:
    with pytest.raises(BadRequest, match="stay inside") as error:
        parsed({"data": {"img_path": path}})
    assert error.value.status == 400


@pytest.mark.parametrize("address", [{"img_path": "images/none.png"}, {"datastore": "other", "img_path": "x"}])
def test_what_is_not_in_the_store_is_not_found(address: dict[str, str]) -> None:
    with pytest.raises(BadRequest) as error:
        parsed({"data": address})
    assert error.value.status == 404


@pytest.mark.parametrize(
    "content",
    [
        [],
        "text",
        None,
        {},
        {"images": []},
        {"input_data": []},
        {"input_data": {"columns": ["image"]}},
        {"input_data": {"columns": ["image"], "data": []}},
        {"input_data": {"columns": ["image"], "data": ["eA=="] * 1001}},
        {"input_data": {"columns": ["picture"], "data": ["eA=="]}},
        {"input_data": {"columns": "image", "data": ["eA=="]}},
        {"input_data": {"columns": ["image"], "index": [0, 1], "data": ["eA=="]}},
        {"input_data": {"columns": ["image"], "index": 5, "data": ["eA=="]}},
        {"data": "images/ab/abcd.png"},
        {"data": {"img_path": ""}},
        {"data": {"img_path": ["images"]}},
        {"data": {"datastore": ["a"], "img_path": "x"}},
    ],
)
def test_other_json_is_refused_with_what_was_expected(content: Any) -> None:
    with pytest.raises(BadRequest) as error:
        parsed(content)
    assert error.value.status in (400, 404)
    assert len(error.value.reason) < 300


@pytest.mark.parametrize("body", [b"{", b"\xff\xfe{}", b"[" * 100_000])
def test_a_body_that_is_no_json_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequest, match="no JSON"):
        images_of_bytes(body, "application/json", STORES)


@pytest.mark.parametrize("kind", ["image/png", "application/octet-stream", "", "application/x-www-form-urlencoded"])
def test_raw_bytes_are_one_image_without_a_name(kind: str) -> None:
    assert images_of_bytes(b"\x89PNG...", kind, STORES) == [SentImage("", b"\x89PNG...")]


def test_json_is_recognised_without_its_content_type() -> None:
    body = json.dumps({"input_data": {"columns": ["image"], "data": [encoded(b"x")]}}).encode()
    assert images_of_bytes(body, "", STORES) == [SentImage("0", b"x")]


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["input_data", "data", "columns", "index", "image", "img_path", "datastore"]),
            inner,
        )
    ),
    max_leaves=8,
)


@given(JSON)
def test_whatever_json_comes_it_is_images_or_a_bad_request(content: Any) -> None:
    with contextlib.suppress(BadRequest):
        assert all(isinstance(image, SentImage) for image in parsed(content))


def test_a_stored_image_that_is_too_large_is_refused_before_it_is_read() -> None:
    body = json.dumps({"data": {"img_path": "images/ab/abcd.png"}}).encode()
    with pytest.raises(BadRequest, match="larger than 5 bytes") as refused:
        images_of_json(body, STORES, largest=5)
    assert refused.value.status == 413


def test_what_a_client_sends_is_quoted_in_short() -> None:
    for content in (
        {"data": {"img_path": "x" * 5_000}},
        {"data": {"datastore": "x" * 5_000, "img_path": "y"}},
        {"x" * 5_000: 1},
    ):
        with pytest.raises(BadRequest) as refused:
            parsed(content)
        assert len(refused.value.reason) < 600
