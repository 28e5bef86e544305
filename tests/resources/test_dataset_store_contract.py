"""The contract of every dataset store: versions are published whole, found by round and by hash, and never change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from resource_adapters import BLOB_STORES
from training_workspace import publish_dataset

from al_resources.platform import Platform
from al_resources.settings import Settings

STORES: dict[str, Callable[[pytest.FixtureRequest, Path], Platform]] = {
    f"blobs in {name}": lambda _, folder, make=make: Platform(Settings(home=folder / "home"), blobs=make(folder))
    for name, make in BLOB_STORES.items()
} | {"azure ml": lambda request, _: request.getfixturevalue("workspace").platform}


@pytest.fixture(params=STORES)
def platform(request: pytest.FixtureRequest, tmp_path: Path) -> Platform:
    return STORES[request.param](request, tmp_path)


def test_before_the_first_version_there_is_none(platform: Platform) -> None:
    assert platform.datasets.manifests() == []
    assert platform.datasets.latest() is None
    with pytest.raises(KeyError, match="there is no dataset of round 0 or before; materialize labeled_dataset first"):
        platform.datasets.of_round(0)


def test_what_is_published_is_read_back_as_it_was(platform: Platform) -> None:
    published = publish_dataset(platform)
    found = platform.datasets.of_version(published.manifest.version)
    assert found.manifest == published.manifest
    assert found.rows.sort("image_id").equals(published.rows.sort("image_id"))
    with pytest.raises(
        KeyError, match=f"there is no dataset version nonsense; there are: {published.manifest.version}"
    ):
        platform.datasets.of_version("nonsense")


def test_the_newest_version_of_a_round_counts_and_a_round_without_one_goes_on_with_an_earlier(
    platform: Platform,
) -> None:
    first, third = publish_dataset(platform, sequence=1), publish_dataset(platform, sequence=3)
    assert [manifest.sequence for manifest in platform.datasets.manifests()] == [1, 3]
    latest = platform.datasets.latest()
    assert latest is not None
    assert latest.manifest == third.manifest
    assert platform.datasets.of_round(0).manifest == first.manifest
    assert platform.datasets.of_round(1).manifest == first.manifest, "round 1 brought no labels"
    assert platform.datasets.of_round(2).manifest == third.manifest


def test_a_version_that_is_there_stays_as_it_is(platform: Platform) -> None:
    published = publish_dataset(platform)
    manifest = published.manifest.model_copy(update={"round": 7})
    platform.datasets.publish(type(published)(published.rows.head(1), manifest))
    assert platform.datasets.of_version(published.manifest.version).manifest.round == 0


def test_another_process_sees_what_was_published(platform: Platform) -> None:
    platform.datasets.manifests()
    published = publish_dataset(platform)
    there = Platform(platform.settings, blobs=platform.blobs)
    assert there.datasets.of_round(0).manifest == published.manifest
