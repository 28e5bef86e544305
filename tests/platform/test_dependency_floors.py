"""The lowest versions that may be installed have no known hole, and the versions that are tested satisfy them."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
# package -> (the first version without the hole, the hole)
MENDED = {
    "torch": ("2.6.0", "CVE-2025-32434: torch.load with weights_only=True runs code"),
    "starlette": (
        "0.49.1",
        "CVE-2025-54121, CVE-2025-62727: large forms block the loop; Range costs the square",
    ),
    "filelock": ("3.20.3", "CVE-2025-68146, CVE-2026-22701: a link in place of the lock file is followed"),
    "python-multipart": ("0.0.22", "CVE-2024-53981, CVE-2026-24486: endless logging; files written elsewhere"),
    "h11": ("0.16.0", "CVE-2025-43859: malformed chunks smuggle requests"),
    "pillow": ("11.3.0", "CVE-2025-48379: DDS images write beyond the buffer"),
    "pyarrow": ("14.0.1", "CVE-2023-47248: reading a file runs code"),
    "cryptography": ("44.0.1", "CVE-2024-12797: a server with a raw public key is believed"),
}


def requirements() -> Iterator[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for group in (project["dependencies"], *project["optional-dependencies"].values()):
        yield from (Requirement(line) for line in group)


@pytest.mark.parametrize("package", MENDED)
def test_no_version_with_a_known_hole_may_be_installed(package: str) -> None:
    mended, hole = MENDED[package]
    declared = [each for each in requirements() if canonicalize_name(each.name) == package]
    assert declared, f"{package} is not declared, so nothing keeps it at {mended}: {hole}"
    for requirement in declared:
        floors = [Version(each.version) for each in requirement.specifier if each.operator in (">=", "==", "~=")]
        assert floors, f"{requirement} has no lowest version"
        assert max(floors) >= Version(mended), f"{requirement} lets in a version with {hole}"


def test_the_pinned_versions_are_those_that_may_be_installed() -> None:
    lines = (line.partition("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines())
    pinned = {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines if line)}
    for requirement in requirements():
        version = pinned.get(canonicalize_name(requirement.name))
        if version is not None:
            assert requirement.specifier.contains(version, prereleases=True), f"{requirement}, but {version} is pinned"
