"""Where the images of a simulation come from."""

from __future__ import annotations

import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
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
    with pytest.raises(BadData, match="neither a folder nor a tar archive"):
        load_data(f"cifar10:{tmp_path / 'data.tar'}")


def test_a_test_set_as_large_as_the_data_leaves_no_pool(tmp_path: Path):
    data = load_data(f"imagefolder:{write_images(tmp_path, 4)}")
    with pytest.raises(BadData, match="a test set of 12 leaves no pool"):
        data.split(0, 12)
