"""What `al start` takes a folder for, and what is there before any process runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from al_cli.digits import digit_pngs
from al_cli.init import write_project
from al_cli.start import _prepared, sizes_for
from al_core.picture_files import find_pictures
from al_resources.labeling.staging import staged_images
from al_resources.platform import Platform

DIGITS = digit_pngs()[:60]


@pytest.fixture(autouse=True)
def _own_settings() -> Iterator[None]:
    yield
    os.environ.pop("AL_CONFIG", None)


def folder_of(tmp_path: Path, *, of_classes: bool, loose: int = 0) -> Path:
    """Digits in class folders, or all in one; so many of them in none."""
    folder = tmp_path / "digits"
    for number, (png, label) in enumerate(DIGITS):
        place = folder / label if of_classes and number >= loose else folder
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}.png").write_bytes(png)
    return folder


def begun(tmp_path: Path, folder: Path, *classes: str, labeled: bool | None = None) -> Platform:
    return _prepared(folder, tmp_path / "home", classes, labeled, "small_cnn")


def test_pictures_in_one_folder_are_staged_at_once_for_the_classes_that_are_named(tmp_path: Path) -> None:
    platform = begun(tmp_path, folder_of(tmp_path, of_classes=False), "odd", "even")
    assert platform.settings.labeling.classes == ("odd", "even")
    assert platform.images.count() == len(DIGITS)
    assert 36 <= len(staged_images(platform.blobs, 0)) <= 40  # without near-duplicates
    assert platform.inbox.unmerged() == []


def test_class_folders_name_the_classes_and_label_their_pictures_so_that_nobody_is_asked(tmp_path: Path) -> None:
    platform = begun(tmp_path, folder_of(tmp_path, of_classes=True))
    assert sorted(platform.settings.labeling.classes) == list("0123456789")
    assert len(platform.inbox.unmerged()) == 1
    assert platform.ledgers.read("selections").is_empty()


def test_where_some_are_labeled_the_first_batch_is_drawn_from_all_before_their_labels_arrive(tmp_path: Path) -> None:
    platform = begun(tmp_path, folder_of(tmp_path, of_classes=True, loose=20))
    assert len(platform.inbox.unmerged()) == 1
    assert platform.ledgers.read("selections").height >= 36


def test_folders_that_are_no_classes_are_taken_for_none(tmp_path: Path) -> None:
    platform = begun(tmp_path, folder_of(tmp_path, of_classes=True), "cat", "dog")
    assert platform.settings.labeling.classes == ("cat", "dog")
    assert platform.inbox.unmerged() == []
    assert platform.ledgers.read("selections").height >= 36
    assert begun(tmp_path, tmp_path / "digits").inbox.unmerged() == [], "and for none when it goes on"


def test_the_same_command_again_brings_in_what_came_since_and_asks_nothing_twice(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, of_classes=False)
    first = begun(tmp_path, folder, "odd", "even")
    staged = first.ledgers.read("selections")
    (folder / "new.png").write_bytes(digit_pngs()[61][0])
    again = begun(tmp_path, folder)
    assert again.images.count() == len(DIGITS) + 1
    assert again.ledgers.read("selections").equals(staged)
    assert again.settings.labeling.classes == ("odd", "even")


def test_without_a_terminal_and_classes_it_says_how_to_name_them(tmp_path: Path, al: Callable[..., Any]) -> None:
    folder = folder_of(tmp_path, of_classes=False)
    done = al("start", str(folder), "--home", str(tmp_path / "home"))
    assert done.returncode == 2
    assert "--class cat --class dog" in done.stderr
    inside = al("start", str(folder), "--home", str(folder / "loop"))
    assert "would lie among the pictures" in inside.stderr
    assert find_pictures(folder).pictures, "and nothing was moved"


@pytest.mark.parametrize("pictures", [1, 40, 100, 300, 2_000, 1_000_000])
def test_sizes_suit_folders_of_every_size(pictures: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    monkeypatch.setenv("AL_CONFIG", "")
    settings = write_project(tmp_path / "home", ["a", "b"], sizes=sizes_for(pictures))
    assert 10 <= settings.selection.budget <= 50
    assert 40 <= settings.selection.initial_budget <= 100
    assert 0.2 <= settings.holdout.reserve <= 0.5
    assert settings.labeling_page.auto_release
    assert settings.selection.min_new_predictions == settings.selection.budget


def test_weights_are_of_an_encoder_that_is_named(tmp_path: Path, al: Callable[..., Any]) -> None:
    weights = tmp_path / "lite0.safetensors"
    weights.write_bytes(b"")
    said = al("init", str(tmp_path / "home"), "--weights", str(weights)).stderr
    assert "of which encoder? Name it with --encoder" in " ".join(said.split())
    assert not (tmp_path / "home" / "al.toml").exists()


def test_weights_that_lie_here_are_named_by_their_place_and_nothing_is_fetched(tmp_path: Path) -> None:
    weights = tmp_path / 'odd "name".safetensors'
    weights.write_bytes(b"")
    settings = write_project(tmp_path / "home", ["a", "b"], "resnet18", weights=weights)
    assert (settings.training.architecture, settings.training.weights) == ("resnet18", str(weights))
    assert settings.training.frozen
