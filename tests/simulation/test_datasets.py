"""Where the images of a simulation come from."""

from __future__ import annotations

import shutil
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from small_study import write_images

from al_core.images import decode_image
from al_core.learning.contract import LabeledImage
from simulation.datasets import BadData, load_data, long_tailed


def test_digits_are_built_in():
    data = load_data("digits")
    assert len(data.images) == 1797
    assert data.classes == tuple("0123456789")
    assert decode_image(data.read(data.images[0].uri)).size == (8, 8)
    assert data.version == load_data("digits").version


def test_a_folder_and_the_tar_of_it_are_the_same_data(tmp_path: Path):
    root = write_images(tmp_path / "data", 5)
    with tarfile.open(tmp_path / "data.tar.gz", "w:gz") as archive:
        archive.add(root, "data")
    folder, archived = load_data(f"imagefolder:{root}"), load_data(f"cifar10:{tmp_path / 'data.tar.gz'}")
    assert folder.version == archived.version
    assert [image.label for image in folder.images] == [image.label for image in archived.images]
    assert folder.read(folder.images[0].uri) == archived.read(archived.images[0].uri)
    assert folder.test_ids is None


def test_a_test_folder_is_the_test_set(tmp_path: Path):
    write_images(tmp_path / "train", 6)
    write_images(tmp_path / "test", 4, seed=1)
    data = load_data(f"imagefolder:{tmp_path}")
    assert data.test_ids is not None
    assert len(data.test_ids) == 12
    pool, test = data.split(0, 500)
    assert (len(pool), len(test)) == (18, 12)
    fewer_pool, fewer = data.split(7, 5)
    assert {image.image_id for image in fewer} < {image.image_id for image in test}
    assert len(fewer) == 5
    assert fewer_pool == pool  # the rest of the test set does not become pool


def test_the_test_set_is_drawn_from_the_seed_and_lies_outside_the_pool(tmp_path: Path):
    data = load_data(f"imagefolder:{write_images(tmp_path, 10)}")
    pool, test = data.split(1, 10)
    assert (len(pool), len(test)) == (20, 10)
    assert not {image.image_id for image in pool} & {image.image_id for image in test}
    assert data.split(1, 10) == (pool, test)
    assert data.split(2, 10)[1] != test


@given(
    sizes=st.lists(st.integers(20, 60), min_size=2, max_size=6),
    imbalance=st.floats(1.5, 20),
    seed=st.integers(0, 1000),
)
def test_a_long_tail_thins_the_classes_in_equal_steps(sizes, imbalance, seed):
    images = [LabeledImage(f"{label}-{n}", "", str(label)) for label, size in enumerate(sizes) for n in range(size)]
    kept = long_tailed(images, imbalance, seed)
    assert kept == [image for image in images if image in set(kept)]  # some of them, in their order
    counts = Counter(image.label for image in kept)
    shares = sorted((counts[str(label)] / size for label, size in enumerate(sizes)), reverse=True)
    expected = np.geomspace(1, 1 / imbalance, len(sizes))
    assert np.allclose(shares, expected, atol=0.5 / min(sizes) + 1e-9)  # but for rounding to whole images


def test_which_classes_are_rare_depends_on_the_seed_and_the_test_set_stays(tmp_path: Path):
    data = load_data(f"imagefolder:{write_images(tmp_path, 40)}")
    pool, test = data.split(3, 30, imbalance=8)
    assert (pool, test) == data.split(3, 30, imbalance=8)
    assert test == data.split(3, 30)[1]
    assert set(pool) < set(data.split(3, 30)[0])
    rarest = {
        min(Counter(image.label for image in data.split(seed, 30, imbalance=8)[0]).items(), key=lambda item: item[1])[0]
        for seed in range(12)
    }
    assert rarest == set(data.classes)


def test_an_imbalance_that_leaves_nothing_of_a_class_is_an_error(tmp_path: Path):
    data = load_data(f"imagefolder:{write_images(tmp_path, 10)}")
    with pytest.raises(BadData, match=r"an imbalance of 100 leaves none of the \d+ images of class"):
        data.split(0, 5, imbalance=100)


def test_the_same_picture_twice_is_one_image_and_one_in_two_classes_is_none(tmp_path: Path):
    write_images(tmp_path, 4)
    first, second, third = sorted((tmp_path / "across").iterdir())[:3]
    (tmp_path / "across" / "again.png").write_bytes(first.read_bytes())
    (tmp_path / "down" / "disputed.png").write_bytes(second.read_bytes())
    data = load_data(f"imagefolder:{tmp_path}")
    assert len(data.images) == 11
    assert any("2 files repeat" in note for note in data.notes)
    assert any("1 images lie in two classes" in note for note in data.notes)
    assert third.exists()


def test_the_binary_version_of_cifar10_is_read(tmp_path: Path):
    rng = np.random.default_rng(0)
    for name in ("data_batch_1.bin", "test_batch.bin"):
        rows = rng.integers(0, 256, (20, 3073), dtype=np.uint8)
        rows[:, 0] = np.arange(20) % 10
        (tmp_path / name).write_bytes(rows.tobytes())
    data = load_data(f"cifar10:{tmp_path}")
    assert data.classes[0] == "airplane"
    assert data.test_ids is not None
    assert (len(data.images), len(data.test_ids)) == (40, 20)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("digitz", "expected one of digits"),
        ("imagefolder:/nowhere", "there is no /nowhere"),
        ("torchvision:Nothing", "torchvision has no dataset 'Nothing'"),
        ("imagefolder:", "no data is called"),
    ],
)
def test_data_that_is_not_there_is_named(spec, message):
    with pytest.raises(BadData, match=message):
        load_data(spec)


def test_a_folder_with_one_class_is_an_error(tmp_path: Path):
    write_images(tmp_path, 3, ("across",))
    with pytest.raises(BadData, match=r"has 1 class\(es\) \(across\); a classifier needs at least two"):
        load_data(f"imagefolder:{tmp_path}")


def test_an_empty_folder_is_an_error(tmp_path: Path):
    with pytest.raises(BadData, match="no image at all"):
        load_data(f"imagefolder:{tmp_path}")


def test_a_class_with_a_single_image_is_an_error(tmp_path: Path):
    write_images(tmp_path, 3, ("across", "down"))
    write_images(tmp_path, 1, ("spots",))
    with pytest.raises(BadData, match=r"class 'spots' .* has a single image"):
        load_data(f"imagefolder:{tmp_path}")


def test_a_file_that_is_no_archive_is_an_error(tmp_path: Path):
    (tmp_path / "data.tar").write_bytes(b"no tar")
    with pytest.raises(BadData, match="neither a folder nor a tar archive nor a zip"):
        load_data(f"cifar10:{tmp_path / 'data.tar'}")


@pytest.mark.parametrize(
    ("layout", "test"),
    [
        ("{label}/{n}.png", None),
        ("wrapper/set/{label}/{n}.png", None),
        ("{label}/{n}.png {label}/more/still/{n}b.png", None),
        ("train/{label}/{n}.png val/{label}/{n}b.png", 12),
        ("set/Train/{label}/{n}.png set/TEST/{label}/{n}b.png", 12),
        ("train/{label}/deep/{n}.png train/{label}/{n}b.png", None),
    ],
)
@pytest.mark.parametrize("pack", [None, "zip", "tar"])
def test_folders_of_classes_are_understood_however_they_lie(tmp_path: Path, layout: str, test: int | None, pack: str):
    for seed, place in enumerate(layout.split()):
        for label in ("across", "down"):
            for number in range(6):
                file = tmp_path / "data" / place.format(label=label, n=number)
                file.parent.mkdir(parents=True, exist_ok=True)
                noise = np.random.default_rng([seed, number, len(label)]).integers(0, 256, (8, 8), np.uint8)
                Image.fromarray(noise).save(file)
    source = tmp_path / "data"
    if pack is not None:
        source = Path(shutil.make_archive(str(tmp_path / "packed"), pack, source))
    data = load_data(f"imagefolder:{source}")
    assert data.classes == ("across", "down")
    assert len(data.images) == 12 * len(layout.split())
    assert (None if data.test_ids is None else len(data.test_ids)) == test


@pytest.mark.parametrize("layout", ["animals/{label}/{n}.png plants/oak/{n}.png", "{label}/a/{n}.png x/b/{n}.png"])
def test_folders_that_could_be_read_in_two_ways_are_refused_with_an_example(tmp_path: Path, layout: str):
    for place in layout.split():
        for label in ("across", "down"):
            write_images(tmp_path / "spare", 2, (label,))
            file = tmp_path / "data" / place.format(label=label, n=1)
            file.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(next((tmp_path / "spare" / label).iterdir()), file)
    with pytest.raises(
        BadData, match=r"is the class '\w+' or '\w+'\? Pictures have to lie in the folder of their class"
    ):
        load_data(f"imagefolder:{tmp_path / 'data'}")


@pytest.mark.parametrize("program", ["Finder", "a program for Windows"])
def test_names_in_a_zip_are_read_as_their_program_meant_them(tmp_path: Path, program: str):
    write_images(tmp_path / "data", 2, ("\u00c4pfel", "Birnen"))
    with zipfile.ZipFile(tmp_path / "packed.zip", "w") as archive:
        for file in sorted((tmp_path / "data").rglob("*.png")):
            name = file.relative_to(tmp_path).as_posix()
            archive.writestr(name if program == "Finder" else name.replace("/", "\\"), file.read_bytes())
    if program == "Finder":  # UTF-8, without the mark that says so
        data = (tmp_path / "packed.zip").read_bytes()
        for start in (b"PK\x03\x04\x14\x00", b"PK\x01\x02\x14\x03\x14\x00"):
            data = data.replace(start + b"\x00\x08", start + b"\x00\x00")
        (tmp_path / "packed.zip").write_bytes(data)
    assert load_data(f"imagefolder:{tmp_path / 'packed.zip'}").classes == ("Birnen", "\u00c4pfel")


def test_folders_by_kinds_of_files_are_no_classes(tmp_path: Path):
    write_images(tmp_path, 3, ("images", "masks"))
    with pytest.raises(BadData, match="'images' and 'masks' hold kinds of files and are no classes"):
        load_data(f"imagefolder:{tmp_path}")


def test_a_class_is_one_however_its_folder_is_written_and_what_may_be_one_is_told(tmp_path: Path):
    for seed, name in enumerate(("e\u0301", "\u00e9", "\u00e9 ", "other", "Other")):
        write_images(tmp_path, 2, (name,), seed)
    data = load_data(f"imagefolder:{tmp_path}")
    assert data.classes == ("Other", "other", "\u00e9")
    assert "the classes 'Other' and 'other' differ in case or spacing only; are they one?" in data.notes


def test_a_picture_that_is_gone_since_the_folder_was_listed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_images(tmp_path, 4)
    gone = sorted((tmp_path / "across").iterdir())[0]
    as_it_is = Path.read_bytes

    def read(self: Path) -> bytes:
        if self == gone:
            raise FileNotFoundError(2, "No such file or directory")
        return as_it_is(self)

    monkeypatch.setattr(Path, "read_bytes", read)
    data = load_data(f"imagefolder:{tmp_path}")
    assert len(data.images) == 11
    assert f"across/{gone.name} cannot be read: No such file or directory" in data.notes


def test_what_systems_leave_behind_is_no_class_and_no_picture_and_what_is_left_out_is_told(tmp_path: Path):
    write_images(tmp_path, 4)
    picture = next((tmp_path / "across").iterdir())
    for name in (
        "across/.ipynb_checkpoints/a.png",
        "down/._1.png",
        "@eaDir/x.png",
        "__MACOSX/down/1.png",
        "_unlabeled/1.png",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, tmp_path / name)
    (tmp_path / "down" / "0.jpg").write_bytes(b"no picture")
    (tmp_path / "down" / "notes.txt").write_text("x")
    (tmp_path / "down" / "link.png").symlink_to(picture)
    shutil.copy(picture, tmp_path / "loose.png")
    data = load_data(f"imagefolder:{tmp_path}")
    assert (len(data.images), len(data.classes)) == (12, 3)
    assert any("2 pictures lie in no folder of a class" in note for note in data.notes)
    assert {"4 files passed over: hidden", "1 files passed over: link", "1 files passed over: .txt"} <= set(data.notes)
    assert any("1 files are no readable pictures, like" in note for note in data.notes)


def test_a_test_set_as_large_as_the_data_leaves_no_pool(tmp_path: Path):
    data = load_data(f"imagefolder:{write_images(tmp_path, 4)}")
    with pytest.raises(BadData, match="a test set of 12 leaves no pool"):
        data.split(0, 12)
