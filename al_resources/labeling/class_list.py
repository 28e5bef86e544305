"""The classes people choose from: those of the settings, and what was added, renamed or merged while labeling.

Each change is a numbered blob, create-only: who finds the number taken looks at what the other one did first.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field

from al_core.class_folders import plain_class
from al_core.errors import ActiveLearningError

if TYPE_CHECKING:
    from al_resources.blobs import BlobStore
    from al_resources.settings import LabelingSettings

CHANGES = "labeling/classes"
LONGEST_NAME = 100


class ClassChangeRefused(ActiveLearningError):
    """A change of the classes that makes no sense; the message says which would."""


class ClassChange(BaseModel):
    """One change: `name` is added, or becomes `into` (renamed where that is new, merged where it is there)."""

    model_config = ConfigDict(frozen=True)

    kind: Literal["add", "rename", "merge"]
    name: str = Field(min_length=1, max_length=LONGEST_NAME)
    into: str | None = Field(None, min_length=1, max_length=LONGEST_NAME)
    annotator: str
    at: datetime


@dataclass(frozen=True)
class ClassList:
    """The classes in force."""

    names: tuple[str, ...]
    became: Mapping[str, str] = field(default_factory=dict)  # former name -> name in force
    changes: int = 0

    def current(self, name: str) -> str:
        """What a class of that name is called now."""
        return self.became.get(name, name)

    def widened(self, settings: LabelingSettings) -> LabelingSettings:
        """The settings with every class that an export may name: those in force and what they were called before."""
        if not settings.classes:
            return settings
        return settings.model_copy(update={"classes": tuple(dict.fromkeys([*self.names, *self.became]))})

    def after(self, change: ClassChange) -> ClassList:
        """The list once a change is made. Raises `ClassChangeRefused`."""
        name, into = plain_class(change.name), plain_class(change.into or "")
        if change.kind == "add":
            if name in self.names:
                raise ClassChangeRefused(f"class {name!r} is there already; choose it")
            became = {old: new for old, new in self.became.items() if old != name}  # a former name may come back
            return ClassList((*self.names, name), became, self.changes + 1)
        if name not in self.names:
            raise ClassChangeRefused(f"there is no class {name!r}; expected one of the list")
        if not into or into == name:
            raise ClassChangeRefused(f"class {name!r} needs another name to become, not {into!r}")
        if (into in self.names) != (change.kind == "merge"):
            there = "is there already: merge the two" if change.kind == "rename" else "is not there: rename instead"
            raise ClassChangeRefused(f"class {into!r} {there}")
        renamed = [into if one == name else one for one in self.names]
        became = {old: into if new == name else new for old, new in self.became.items()} | {name: into}
        became.pop(into, None)
        return ClassList(tuple(dict.fromkeys(renamed)), became, self.changes + 1)


def class_list(blobs: BlobStore, settings: LabelingSettings, besides: tuple[str, ...] = ()) -> ClassList:
    """The classes in force. `besides`: what is known elsewhere where the settings name none."""
    current = ClassList(tuple(settings.classes or besides))
    for blob in blobs.list(CHANGES):
        change = ClassChange.model_validate_json(blobs.read(blob.path))
        try:
            current = current.after(change)
        except ClassChangeRefused:
            current = _after_all(current, change, stated=bool(settings.classes))
    return current


def _after_all(current: ClassList, change: ClassChange, *, stated: bool) -> ClassList:
    """What a change on record says where the classes are others by now.

    Settings that have it in them already leave the former name to be read under the new one; settings with both names
    overrule it. Where they name none (not `stated`), the classes are what was seen, and all of them follow.
    """
    name, into = plain_class(change.name), plain_class(change.into or "")
    holds = bool(into) and into != name and (not stated or (name not in current.names and into in current.names))
    if change.kind == "add" or not holds:
        return ClassList(current.names, current.became, current.changes + 1)
    names = tuple(dict.fromkeys([*(into if one == name else one for one in current.names), into]))
    became = {old: into if new == name else new for old, new in current.became.items()} | {name: into}
    became.pop(into, None)
    return ClassList(names, became, current.changes + 1)


def change_classes(blobs: BlobStore, before: ClassList, change: ClassChange) -> ClassList:
    """Put a change on record, after all that `before` knows of.

    Raises:
        ClassChangeRefused: it makes no sense, or somebody else changed the classes in between.
    """
    after = before.after(change)
    path = f"{CHANGES}/{after.changes:04d}.json"
    if not blobs.write(path, json.dumps(change.model_dump(mode="json")).encode(), if_absent=True):
        raise ClassChangeRefused("somebody else changed the classes just now; look at the list and decide again")
    return after
