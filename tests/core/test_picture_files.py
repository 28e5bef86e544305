"""Which files of a folder are pictures, and what is said of the others."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from al_core.picture_files import find_pictures, is_left_behind, printable


def put(file: Path, data: bytes) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    return file


def test_a_picture_is_told_by_its_first_bytes_whatever_its_ending(tmp_path: Path, png: bytes) -> None:
    names = ["a.png", "B.JPG", "c.jfif", "d", "e.txt", "deep/er/f.png"]
    pictures = [put(tmp_path / name, png) for name in names]
    assert find_pictures(tmp_path).pictures == sorted(pictures)


def test_what_is_called_like_a_picture_and_is_none_is_named_and_the_rest_is_counted(tmp_path: Path, png: bytes) -> None:
    put(tmp_path / "empty.png", b"")
    put(tmp_path / "page.jpg", b"<html>")
    put(tmp_path / "notes.txt", b"x")
    put(tmp_path / "more.txt", b"x")
    put(tmp_path / "LICENSE", b"x")
    found = find_pictures(tmp_path)
    assert {Path(name).name: reason.split(":")[0] for name, reason in found.rejected.items()} == {
        "empty.png": "the file is empty (0 bytes); send it again",
        "page.jpg": "no image",
    }
    assert (found.pictures, found.passed_over) == ([], {".txt": 2, "no ending": 1})


def test_hidden_files_links_and_folders_called_like_pictures_are_no_pictures(tmp_path: Path, png: bytes) -> None:
    real = put(tmp_path / "a.png", png)
    for name in (".hidden.png", "._a.png", ".ipynb_checkpoints/a.png", "@eaDir/a.png/SYNO.jpg", "__MACOSX/a.png"):
        put(tmp_path / name, png)
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "link.png").symlink_to(real)
    (tmp_path / "nowhere.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "loop").symlink_to(tmp_path)
    found = find_pictures(tmp_path)
    assert (found.pictures, found.passed_over, found.rejected) == ([real], {"hidden": 5, "link": 3}, {})


def test_a_pipe_is_never_opened(tmp_path: Path, png: bytes) -> None:
    os.mkfifo(tmp_path / "camera.png")
    (tmp_path / "1.png").write_bytes(png)
    found = find_pictures(tmp_path)
    assert [path.name for path in found.pictures] == ["1.png"]
    assert found.passed_over == {"pipe, socket or device": 1}


def test_what_cannot_be_read_is_named(tmp_path: Path, png: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "a.png", png)
    closed = put(tmp_path / "closed.png", png)
    opened = Path.open

    def refuse(self: Path, *arguments: object) -> object:
        if self == closed:
            raise PermissionError(13, "Permission denied")
        return opened(self, *arguments)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", refuse)
    found = find_pictures(tmp_path)
    assert found.rejected == {str(closed): "cannot be read: Permission denied"}
    assert len(found.pictures) == 1


@pytest.mark.parametrize("asked", ["is_symlink", "exists", "is_file"])
def test_a_folder_that_may_be_listed_and_not_entered_is_no_end(
    tmp_path: Path, png: bytes, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    inside = put(tmp_path / "closed" / "1.png", png)
    put(tmp_path / "2.png", png)
    as_it_is = getattr(Path, asked)

    def refuse(self: Path) -> bool:
        if self == inside:
            raise PermissionError(13, "Permission denied")
        return bool(as_it_is(self))

    monkeypatch.setattr(Path, asked, refuse)
    found = find_pictures(tmp_path)
    assert found.rejected == {str(inside): "cannot be read: Permission denied"}
    assert [path.name for path in found.pictures] == ["2.png"]


def test_what_is_passed_over_is_named_with_its_kind(tmp_path: Path, png: bytes) -> None:
    for name in ("a/.ipynb_checkpoints/1.png", "notes.txt"):
        put(tmp_path / name, png if name.endswith("png") else b"x")
    (tmp_path / "away").symlink_to("/nowhere")
    left = {Path(name).relative_to(tmp_path).as_posix(): kind for name, kind in find_pictures(tmp_path).left.items()}
    assert left == {"a/.ipynb_checkpoints/1.png": "hidden", "notes.txt": ".txt", "away": "link"}


def test_a_name_in_no_utf_is_shown() -> None:
    assert printable("caf\udce9.jpg") == "caf\\xe9.jpg"
    assert printable("café.jpg") == "café.jpg"


@pytest.mark.parametrize("name", ["a.json", "_annotations.coco.json", "../a.json", "Export 1.zip", "a.b/c"])
def test_a_file_of_people_is_not_left_behind(name: str) -> None:
    assert not is_left_behind(name)
