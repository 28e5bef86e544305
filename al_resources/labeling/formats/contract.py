"""What every format is: a module with `NAME`, `KINDS` and `rows`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from al_core.errors import ActiveLearningError
from al_resources.labeling.formats.columns import LABEL

if TYPE_CHECKING:
    from al_resources.labeling.formats.document import Document

Kind = Literal["zip", "table", "xml", "json", "records"]
# label: an answer; skip: "unsure"; bad: the picture cannot be judged; removed: the answer is taken back;
# unanswered: the file names the image, nobody has answered
Outcome = Literal["label", "skip", "bad", "removed", "unanswered"]


@dataclass(frozen=True)
class Row:
    """What a file says of one image, before anybody asked whether it can be used.

    `label` is a class name, a list of them, or a list of shapes `{"label", "bbox" | "topX"... | "polygon", "size"}`.
    """

    image: str  # as the file names it
    label: Any
    source: Any  # the row as it came, for quarantine
    annotator: Any = None
    labeled_at: Any = None  # ISO 8601, or seconds since 1970
    confidence: Any = None
    annotation_seconds: Any = None
    outcome: Outcome = "label"
    mode: str | None = None  # single | grid, where the labeling page wrote it
    content: str | None = None  # content id of the image's bytes, where the file brings them along


class NotThisFormat(Exception):
    """The file is in another format; the message says what this one needs and the file lacks."""


class BrokenExport(ActiveLearningError):
    """The export cannot be used. `incomplete`: it may still be in the middle of being written."""

    def __init__(
        self,
        reason: str,
        *,
        incomplete: bool = False,
        set_aside: tuple[Any, ...] = (),
        tried: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(shortened(reason, 900))
        self.reason = shortened(reason, 900)
        self.incomplete = incomplete
        self.set_aside = set_aside  # what could be read all the same
        self.tried = dict(tried or {})  # format, or file of an archive -> why it was not read as such
        self.format = ""  # which one it is in, if that is known


class Format(Protocol):
    """A module that reads one format."""

    NAME: str
    KINDS: tuple[Kind, ...]

    def rows(self, document: Document) -> Iterable[Row]:
        """What the file says, in its order.

        Raises:
            NotThisFormat: it is another format.
            BrokenExport: it is this format, and cannot be used.
        """


@dataclass
class Answers:
    """Class names of one image, as one label: one is itself, however often it is said, none is no answer, several stay
    a list.
    """

    names: list[Any] = field(default_factory=list)

    @property
    def label(self) -> Any:
        """The label of a `Row`."""
        names = list(dict.fromkeys(self.names)) if all(isinstance(name, str) for name in self.names) else self.names
        return names[0] if len(names) == 1 else names

    @property
    def outcome(self) -> Outcome:
        """`unanswered` where there is none."""
        return "label" if self.names else "unanswered"


def the_question(asked: Iterable[str], wanted: str | None, what: str) -> str | None:
    """Of the questions that a file answers of its images, the one whose answer is the class; None where none is.

    Args:
        asked: The names of those that anything was answered to.
        wanted: What `labeling.columns` calls the label's.
        what: What the tool calls such questions, for the message.

    Raises:
        BrokenExport: there are several, and neither the settings nor a usual name say which one it is.
    """
    names = list(dict.fromkeys(asked))
    if wanted in names:
        return wanted
    usual = [name for name in names if name.strip().lower() in LABEL]
    likely = usual if len(usual) == 1 else names
    if len(likely) > 1:
        raise BrokenExport(
            f"{what} {listed(sorted(names))} are answered; which one is the class? "
            'labeling.columns = {label = "..."} names it'
        )
    return likely[0] if likely else None


def shortened(text: str, most: int) -> str:
    """Text of at most `most` characters, its end cut off visibly."""
    return text if len(text) <= most else f"{text[: most - 4].rstrip()} ..."


def listed(names: Iterable[object], most: int = 5) -> str:
    """The first few names and how many more there are."""
    all_names = [shortened(str(name), 40) for name in names]
    more = f" and {len(all_names) - most} more" if len(all_names) > most else ""
    return f"{', '.join(all_names[:most]) or 'nothing'}{more}"
