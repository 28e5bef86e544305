"""The contract of every blob store."""

from __future__ import annotations

import os
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from al_resources.blobs import BlobStore
from al_resources.blobs.local import FsspecBlobStore


def paths(blobs: BlobStore, prefix: str) -> list[str]:
    return [blob.path for blob in blobs.list(prefix)]


def test_what_was_written_is_read_back(blobs: BlobStore) -> None:
    assert blobs.write("a/b/c.bin", b"\0\xff")
    assert blobs.read("a/b/c.bin") == b"\0\xff"
    assert blobs.exists("a/b/c.bin")
    assert blobs.write("a/empty", b"")
    assert blobs.read("a/empty") == b""


@pytest.mark.parametrize("path", ["missing", "folder", "folder/file/below"])
def test_what_is_no_blob_is_missing(blobs: BlobStore, path: str) -> None:
    blobs.write("folder/file", b"x")
    assert not blobs.exists(path)
    with pytest.raises(FileNotFoundError):
        blobs.read(path)
    with pytest.raises(FileNotFoundError):
        blobs.info(path)
    with pytest.raises(FileNotFoundError):
        blobs.copy(path, "elsewhere")


def test_a_second_create_changes_nothing_and_says_so(blobs: BlobStore) -> None:
    assert blobs.write("once", b"first", if_absent=True)
    assert not blobs.write("once", b"second", if_absent=True)
    assert blobs.read("once") == b"first"


def test_of_many_that_create_the_same_blob_exactly_one_does(blobs: BlobStore) -> None:
    barrier = threading.Barrier(8)
    created: list[bytes] = []

    def create(number: int) -> None:
        barrier.wait()
        content = bytes([number]) * 1000
        if blobs.write("race", content, if_absent=True):
            created.append(content)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert created == [blobs.read("race")]


def test_overwriting_changes_the_etag_even_with_the_same_size_at_the_same_moment(blobs: BlobStore) -> None:
    etags = set()
    for number in range(50):
        blobs.write("same", f"{number:04d}".encode())
        etags.add(blobs.info("same").etag)
    assert len(etags) == 50
    assert blobs.info("same").etag == blobs.info("same").etag


def test_info_and_list_tell_the_same(blobs: BlobStore) -> None:
    before = datetime.now(UTC) - timedelta(seconds=2)
    blobs.write("x/one", b"123")
    info = blobs.info("x/one")
    assert (info.path, info.size) == ("x/one", 3)
    assert before < info.modified_at < before + timedelta(seconds=60)
    assert list(blobs.list("x")) == [info]


def test_a_listing_is_in_the_order_of_paths(blobs: BlobStore) -> None:
    names = ["a/x", "a-b/x", "a.txt", "b/1/2", "b/1-1", "b/10", "é/ü", "a/x y'(1)%20"]
    for name in names:
        blobs.write(name, b"")
    assert paths(blobs, "") == sorted(names)
    assert paths(blobs, "b") == ["b/1-1", "b/1/2", "b/10"]
    assert paths(blobs, "a") == ["a/x", "a/x y'(1)%20"]
    assert paths(blobs, "nothing") == []
    assert paths(blobs, "a.txt") == []


def test_a_listing_may_leave_out_what_the_caller_can_do_without_and_nothing_else(blobs: BlobStore) -> None:
    names = ["a", "b/a", "b/c", "b/d/a"]
    for name in names:
        blobs.write(name, b"")
    listed = [blob.path for blob in blobs.list("", but={"a", "b/c", "missing"})]
    assert listed in (["b/a", "b/d/a"], names)
    assert listed == [blob.path for blob in blobs.list("") if blob.path in listed]


def test_folders_are_told_by_name_without_what_is_below(blobs: BlobStore) -> None:
    for name in ("a", "b/10/x", "b/9/x", "b/9/y/z", "b/file", "é ü/x"):
        blobs.write(name, b"")
    assert blobs.folders("") == ["b", "é ü"]
    assert blobs.folders("b") == ["10", "9"]
    assert blobs.folders("b/9") == ["y"]
    assert blobs.folders("a") == blobs.folders("missing") == []


def test_deleting_what_is_missing_is_no_error(blobs: BlobStore) -> None:
    blobs.write("x", b"")
    blobs.delete("x")
    blobs.delete("x")
    assert not blobs.exists("x")


def test_a_copy_is_a_blob_of_its_own(blobs: BlobStore) -> None:
    blobs.write("from/a", b"1")
    blobs.copy("from/a", "to/b")
    blobs.write("from/a", b"2")
    assert blobs.read("to/b") == b"1"
    blobs.copy("from/a", "to/b")
    assert blobs.read("to/b") == b"2"


def test_urls_differ_where_paths_differ(blobs: BlobStore) -> None:
    assert blobs.url("a/b.png") != blobs.url("a/c.png")
    assert "://" in blobs.url("a/b.png")


@pytest.mark.parametrize(
    "path", ["", "/etc/passwd", "../x", "a/../../x", "a//b", "a/./b", "a/", "a\\b", "a\nb", "a\0b", ".."]
)
def test_a_path_that_could_leave_the_store_is_refused_and_named(blobs: BlobStore, path: str) -> None:
    for use in (blobs.read, blobs.exists, blobs.info, blobs.delete, blobs.url, lambda p: blobs.write(p, b"")):
        with pytest.raises(ValueError, match="blob path"):
            use(path)
    with pytest.raises(ValueError, match="blob path"):
        blobs.copy("a", path)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=st.text(max_size=12, alphabet=st.sampled_from("ab./\\ ~\0\n%:é")))
def test_every_path_stays_inside_the_folder_or_is_refused(tmp_path: Path, path: str) -> None:
    folder = tmp_path / "inside"
    blobs = FsspecBlobStore(folder)
    try:
        blobs.write(path, b"x")
    except ValueError:
        return
    except (FileExistsError, NotADirectoryError, IsADirectoryError):
        return  # an earlier example wrote a file where this one wants a folder
    assert blobs.read(path) == b"x"
    assert [p.name for p in tmp_path.iterdir()] == ["inside"]
    assert path in paths(blobs, "")


# ---------------------------------------------------------------------- a local folder
def test_a_reader_never_sees_half_a_blob(tmp_path: Path) -> None:
    blobs = FsspecBlobStore(tmp_path)
    contents = [bytes([number]) * 200_000 for number in range(2)]
    blobs.write("x", contents[0])
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            for content in contents:
                blobs.write("x", content)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert all(blobs.read("x") in contents for _ in range(200))
        assert all(path == "x" for _ in range(50) for path in paths(blobs, ""))
    finally:
        stop.set()
        writer.join()
    assert [file.name for file in tmp_path.iterdir()] == ["x"]


def test_what_a_writer_that_died_left_behind_is_no_blob(tmp_path: Path) -> None:
    blobs = FsspecBlobStore(tmp_path)
    (tmp_path / ".0123456789abcdef.tmp").write_bytes(b"half")
    assert paths(blobs, "") == []
    with pytest.raises(ValueError, match="middle of being written"):
        blobs.write(".0123456789abcdef.tmp", b"")


def test_a_file_moved_here_with_its_old_time_is_new(tmp_path: Path) -> None:
    blobs = FsspecBlobStore(tmp_path / "blobs")
    blobs.write("inbox/other", b"")
    old = tmp_path / "export.json"
    old.write_bytes(b"{}")
    os.utime(old, (0, 0))
    old.rename(tmp_path / "blobs" / "inbox" / "export.json")
    assert blobs.info("inbox/export.json").modified_at.year > 1970


def test_blobs_that_vanish_during_a_listing_are_left_out(tmp_path: Path) -> None:
    blobs = FsspecBlobStore(tmp_path)
    for name in ("a/1", "b/1", "c"):
        blobs.write(name, b"")
    listing = blobs.list("")
    assert next(listing).path == "a/1"
    blobs.delete("c")
    (tmp_path / "b" / "1").unlink()
    (tmp_path / "b").rmdir()
    assert list(listing) == []


def test_a_path_that_no_store_can_hold_is_refused_before_it_is_asked(blobs: BlobStore) -> None:
    for ask in (blobs.read, blobs.info, blobs.exists):
        with pytest.raises(ValueError, match="5,000 characters"):
            ask("x" * 5_000)


def test_a_name_that_a_file_system_cannot_hold_is_missing(tmp_path: Path) -> None:
    blobs = FsspecBlobStore(tmp_path)
    for ask in (blobs.read, blobs.info):
        with pytest.raises(FileNotFoundError):
            ask("images/" + "x" * 500)


def test_a_link_that_leads_out_of_the_store_is_not_followed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    blobs = FsspecBlobStore(tmp_path / "store")
    blobs.write("inbox/export.json", b"export")
    (tmp_path / "store/inbox/stolen.json").symlink_to(outside / "secret")
    (tmp_path / "store/folder").symlink_to(outside)
    assert paths(blobs, "inbox") == ["inbox/export.json"]
    assert "stolen.json" in caplog.text
    assert paths(blobs, "") == ["inbox/export.json"]
    for path in ("inbox/stolen.json", "folder/secret"):
        assert not blobs.exists(path)
        for ask in (blobs.read, blobs.info):
            with pytest.raises(FileNotFoundError):
                ask(path)
        with pytest.raises(FileNotFoundError):
            blobs.copy(path, "quarantine/stolen.json")
    with pytest.raises(ValueError, match="leads out of the store"):
        blobs.write("folder/new", b"x")
    with pytest.raises(ValueError, match="leads out of the store"):
        blobs.delete("folder/secret")
    assert (outside / "secret").read_bytes() == b"secret"


def test_what_lies_in_a_folder_and_can_be_no_blob_is_named_and_stops_no_listing(tmp_path: Path) -> None:
    blobs = FsspecBlobStore(tmp_path)
    blobs.write("inbox/good.json", b"x")
    folder = tmp_path / "inbox"
    for name in (b"caf\xe9.csv", b"two\nlines.json", b"back\\slash.json"):
        Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_bytes(b"x")
    os.mkfifo(folder / "pipe.json")
    (folder / "nowhere.json").symlink_to("/nowhere/at/all")
    (folder / "folder.json").mkdir()
    unfit: dict[str, str] = {}
    assert [blob.path for blob in blobs.list("inbox", unfit=unfit.__setitem__)] == ["inbox/good.json"]
    assert {path: reason.partition(";")[0].partition(":")[0] for path, reason in unfit.items()} == {
        "inbox/caf\\xe9.csv": "its name is no UTF-8",
        "inbox/two\nlines.json": "its name holds a backslash or control character",
        "inbox/back\\slash.json": "its name holds a backslash or control character",
        "inbox/pipe.json": "no regular file",
        "inbox/nowhere.json": "a link that leads out of the store",
    }


def test_a_link_within_the_store_and_a_store_behind_a_link_are_fine(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "store").symlink_to(tmp_path / "disk")
    blobs = FsspecBlobStore(tmp_path / "store")
    blobs.write("a", b"x")
    (tmp_path / "disk/b").symlink_to(tmp_path / "disk/a")
    assert paths(blobs, "") == ["a", "b"]
    assert blobs.read("b") == b"x"
