"""Which version of the formats a home is written in, and what brings an older one up to date.

Small changes need no upgrade: a table gains columns with the next row (nullable, appended last), rows of an older
spool are delivered, manifests with fields that this code does not know are read. These raise the minor version. What
older code would misunderstand raises the major one: a home of a newer major version is refused, by name.

The version lies in the blob store, beside everything else that several machines share: `format.json`. A home without
it was written before formats had numbers: that is 1.0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from al_core.errors import GiveUp

if TYPE_CHECKING:
    from al_resources.blobs import BlobStore
    from al_resources.platform import Platform

FILE = "format.json"


class FormatVersion(NamedTuple):
    """`major.minor`."""

    major: int
    minor: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"


BEFORE_NUMBERS = FormatVersion(1, 0)
# 1.2: the table of embeddings, which a home goes on without; 1.3: predictions of a frozen encoder refer to it: older
# code takes such a row for one without an embedding
CURRENT = FormatVersion(1, 3)


@dataclass(frozen=True)
class UpgradeStep:
    """One thing that an upgrade does; `do` may be repeated."""

    text: str
    do: Callable[[], object]


class _File(BaseModel):
    model_config = ConfigDict(extra="ignore")

    major: int
    minor: int


def version_of(blobs: BlobStore) -> FormatVersion:
    """The version that a home is written in. Raises `GiveUp` where that cannot be read."""
    try:
        said = _File.model_validate_json(blobs.read(FILE))
    except FileNotFoundError:
        return BEFORE_NUMBERS
    except ValidationError as error:
        raise GiveUp(
            f'{blobs.url(FILE)} does not say which format this home has: expected {{"major": 1, "minor": 1}}; '
            "remove the file where nothing newer than 1.0 ever wrote here"
        ) from error
    return FormatVersion(said.major, said.minor)


def check_version(blobs: BlobStore) -> FormatVersion:
    """The home's version, if this code can work with it. Raises `GiveUp` where a newer major version wrote it."""
    found = version_of(blobs)
    if found.major > CURRENT.major:
        raise GiveUp(
            f"this home has format {found}, this code knows formats up to {CURRENT.major}.x; install the version of "
            "active-learning-platform that wrote it, or a newer one"
        )
    return found


def upgrade_steps(platform: Platform) -> list[UpgradeStep]:
    """What brings the home up to date, in order; nothing where it is. Raises `GiveUp` as `check_version` does."""
    found = check_version(platform.blobs)
    steps = platform.profile.upgrade_steps(platform)
    if found < CURRENT:
        steps.append(UpgradeStep(f"note format {CURRENT} (it was {found})", lambda: write_version(platform.blobs)))
    return steps


def write_version(blobs: BlobStore) -> None:
    """Put on record that the home has the current format; done last."""
    blobs.write(FILE, _File(major=CURRENT.major, minor=CURRENT.minor).model_dump_json().encode())
