"""Renaming, merging and adding classes: what it does to labels that stand, told first, and then done and put on record.

The labeling page and `al classes` call the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import ValidationError

from al_core.answers import standing
from al_core.class_folders import plain_class
from al_core.records import utc_now
from al_resources.labeling.answers import Answer, AnswerLog, rounds_with_answers, standing_answers
from al_resources.labeling.class_list import ClassChange, ClassChangeRefused, ClassList, change_classes, class_list
from al_resources.labeling.releases import release_renamed

if TYPE_CHECKING:
    import polars as pl

    from al_resources.blobs import BlobStore
    from al_resources.ledgers import LedgerReader
    from al_resources.settings import LabelingSettings


@dataclass(frozen=True)
class PlannedChange:
    """A change of the classes that makes sense, and what it does."""

    change: ClassChange
    before: ClassList
    after: ClassList
    votes: pl.DataFrame  # everybody's standing answers that name a class
    recorded: bool = False  # it is on record already, and labels did not follow yet

    @property
    def labels(self) -> int:
        """How many standing labels in the ledger it changes."""
        return 0 if self.change.kind == "add" else self.votes.filter(label=self.change.name).height


@dataclass(frozen=True)
class DoneChange:
    """The classes in force after a change, and the export that carries standing labels over."""

    classes: ClassList
    path: str | None


def classes_in_force(blobs: BlobStore, ledgers: LedgerReader, settings: LabelingSettings) -> ClassList:
    """The classes; where the settings name none, those that somebody labeled with already."""
    if settings.classes:
        return class_list(blobs, settings)
    labeled_with = standing(ledgers.read("labels"))["label"].unique().sort()
    return class_list(blobs, settings, tuple(labeled_with))


def labels_of_classes(blobs: BlobStore, ledgers: LedgerReader, settings: LabelingSettings) -> dict[str, int]:
    """Class in force -> how many images stand under it in the ledger, whoever says so; those without any, too."""
    classes = classes_in_force(blobs, ledgers, settings)
    votes = standing(ledgers.read("labels")).select("image_id", "label").unique()
    counts = Counter(classes.current(label) for label in votes["label"])
    return {name: counts.pop(name, 0) for name in classes.names} | dict(counts)


def plan_class_change(
    blobs: BlobStore,
    ledgers: LedgerReader,
    settings: LabelingSettings,
    kind: Literal["add", "rename", "merge"],
    name: str,
    into: str | None,
    person: str,
) -> PlannedChange:
    """What a change would do; nothing is written.

    Raises:
        ClassChangeRefused: it makes no sense; the message says which would.
    """
    before = classes_in_force(blobs, ledgers, settings)
    name, into = plain_class(name), plain_class(into or "") or None
    try:
        change = ClassChange(kind=kind, name=name, into=into, annotator=person, at=utc_now())
    except ValidationError as error:
        raise ClassChangeRefused(f"a class needs a name of 1 to 100 characters: {error.errors()[0]['msg']}") from error
    votes = standing(ledgers.read("labels"))
    if into is not None and before.became.get(name) == into and votes.filter(label=name).height:
        return PlannedChange(change, before, before, votes, recorded=True)  # interrupted, or not merged yet
    return PlannedChange(change, before, before.after(change), votes)


def make_class_change(blobs: BlobStore, planned: PlannedChange) -> DoneChange:
    """Put it on record; labels that stand follow by an export of their own, which the sensor merges.

    Raises:
        ClassChangeRefused: somebody else changed the classes in between.
    """
    change = planned.change
    after = planned.after if planned.recorded else change_classes(blobs, planned.before, change)
    path = None
    if planned.labels and change.into:
        path = release_renamed(blobs, planned.votes, change.name, change.into, change.at.isoformat()).path
    return DoneChange(after, path)


def labels_on_the_page(planned: PlannedChange, logs: Iterable[Iterable[Answer]]) -> int:
    """Answers that stand on the labeling page, released or not, and follow a change."""
    if planned.change.kind == "add":
        return 0
    answers = (answer for log in logs for answer in standing_answers(log).values() if answer.label is not None)
    return sum(planned.before.current(answer.label or "") == planned.change.name for answer in answers)


def answers_of_all_rounds(blobs: BlobStore) -> Iterator[AnswerLog]:
    """Everything that was said on the page."""
    for round_ in rounds_with_answers(blobs):
        log = AnswerLog(blobs, round_)
        log.refresh()
        yield log
