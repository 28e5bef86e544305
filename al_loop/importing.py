"""Labels that exist already, and answers taken back: read, shown, and put into the inbox, where the sensor looks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from al_core.errors import GiveUp
from al_resources.image_store import ImageStore
from al_resources.labeling.inbox import INBOX, RANDOM_SAMPLE

if TYPE_CHECKING:
    from al_resources.blobs import BlobStore
    from al_resources.labeling.exports import ExportedLabel
    from al_resources.labeling.formats import Reading
    from al_resources.labeling.inbox import Inbox
    from al_resources.labeling.merge import Plan
    from al_resources.platform import Platform

IMPORTS = f"{INBOX}/imports"
REASONS_TOLD, LONGEST_REASON = 10, 300


@dataclass(frozen=True)
class Import:
    """What a file of labels would bring, and the bytes that bring it."""

    source: str
    data: bytes
    facts: dict[str, Any] = field(default_factory=dict)
    random_sample: bool = False  # declared to be one

    @property
    def brings(self) -> bool:
        """Whether anything changes by it."""
        return any(self.facts[name] for name in ("new", "changed", "taken_back", "declared"))


def read_source(source: str, platform: Platform) -> tuple[bytes | None, Reading | None]:
    """A file's bytes, whether it lies here or at an address; or the reading of a folder, of which one a class is.

    Raises:
        GiveUp: there is no such thing, or it cannot be fetched.
        BrokenExport: the folder holds no labels.
    """
    if "://" in source:
        return _fetch(source), None
    path = Path(source).expanduser()
    if path.is_dir():
        return None, _read_folder(path, platform)
    try:
        return path.read_bytes(), None
    except OSError as error:
        raise GiveUp(f"{source}: {error.strerror or error}; expected a file, a folder or an address") from error


def plan_import(
    platform: Platform,
    source: str,
    *,
    complete: bool = False,
    again: bool = False,
    coming: bool = False,
    random_sample: bool = False,
) -> Import:
    """What importing would do; nothing is written.

    Args:
        platform: Where the labels are to go.
        source: A file, folder or address.
        complete: It is all that its annotators have answered: what they answered before and is not in it is taken back.
        again: It was delivered before, and its labels are to count as if they were given now.
        coming: Its pictures will be in the image store by then.
        random_sample: Chance decided which images were labeled, so that the reserved ones among them may judge.

    Raises:
        GiveUp: the source cannot be read.
        BrokenExport: nothing in it can be used; the message says why.
    """
    from al_core.answers import votes
    from al_core.records import utc_now
    from al_resources.blobs import BlobInfo
    from al_resources.labeling.merge import plan_merge

    data, reading = read_source(source, platform)
    export = BlobInfo(f"{IMPORTS}/{file_name(source)}", "", len(data or b""), utc_now())
    inbox = platform.inbox
    if coming:
        inbox = replace(inbox, images=_AsItWillBe(platform.blobs, _pictures_coming(data, reading)))
    plan = plan_merge(inbox, export, data=data, reading=reading)
    standing = votes(platform.ledgers.read("labels"))
    rewritten: Sequence[ExportedLabel] = plan.parsed.labels
    if again:
        rewritten = [replace(label, labeled_at=export.modified_at) for label in rewritten]
    removed = _missing(plan, standing) if complete else []
    if again or removed or data is None:
        from al_resources.labeling.writers import to_jsonl

        data = to_jsonl([*rewritten, *removed])
    brings = plan_merge(inbox, export, data=data)
    facts = _facts(source, plan, brings, standing, len(removed)) | _judging(platform, inbox, plan, random_sample)
    return Import(source, data, facts, random_sample)


def _pictures_coming(data: bytes | None, reading: Reading | None) -> set[str]:
    """The content ids of the pictures that a folder or an archive brings along."""
    from al_core.images import content_id
    from al_resources.labeling.formats.archive import pictures_in

    if reading is not None:
        return {row.content for row in reading.rows if row.content}
    return {content_id(picture) for _, picture in pictures_in(data or b"")}


class _AsItWillBe(ImageStore):
    """The image store once some more pictures are in it."""

    def __init__(self, blobs: BlobStore, coming: set[str]) -> None:
        super().__init__(blobs)
        self._coming = coming

    def exists(self, image_id: str) -> bool:
        """Whether the image is there, or about to be."""
        return image_id in self._coming or super().exists(image_id)

    def ids(self, start_key: int = 0) -> Iterator[str]:
        """Those that are there, and those about to be."""
        yield from super().ids(start_key)
        yield from self._coming


def deliver(platform: Platform, found: Import) -> str:
    """Put it into the inbox; returns the path there. The same content is the same file."""
    from al_core.images import content_id

    folder = RANDOM_SAMPLE if found.random_sample else IMPORTS
    path = f"{folder}/{content_id(found.data)[:12]}-{file_name(found.source)}"
    platform.blobs.write(path, found.data)
    return path


def take_back(platform: Platform, references: Sequence[str], annotator: str | None = None) -> str:
    """Put into the inbox that the answers for some images no longer stand; returns the path.

    `references`: image ids or names; `annotator`: only this one's answers.

    Raises:
        NotFound: no image goes by that name.
    """
    from al_core.records import utc_now
    from al_loop.trace import image_id_of
    from al_resources.labeling.exports import ExportedLabel
    from al_resources.labeling.writers import to_jsonl

    now = utc_now()
    ids = dict.fromkeys(image_id_of(platform, reference) for reference in references)
    removals = [ExportedLabel(image_id, None, annotator, now, outcome="removed") for image_id in ids]
    return deliver(platform, Import("taken-back.jsonl", to_jsonl(removals)))


def file_name(source: str) -> str:
    """What a source is called in the inbox: its last part, without what no path may hold."""
    name = PurePosixPath(source.split("?", 1)[0].rstrip("/\\").replace("\\", "/")).name
    return "".join(one if one.isalnum() or one in "-_." else "_" for one in name).lstrip(".")[-80:] or "labels"


def _missing(plan: Plan, standing: Any) -> list[ExportedLabel]:
    """What the annotators of a full export answered before and no longer do, taken back."""
    from al_resources.labeling.exports import ExportedLabel
    from al_resources.labeling.merge import UNKNOWN_ANNOTATOR

    there = {(label.image_id, label.annotator or UNKNOWN_ANNOTATOR) for label in plan.parsed.labels}
    people = {annotator for _, annotator in there}
    return [
        ExportedLabel(image_id, None, annotator, plan.export.modified_at, outcome="removed")
        for image_id, annotator, outcome in standing.select("image_id", "annotator", "outcome").iter_rows()
        if annotator in people and (image_id, annotator) not in there and outcome != "removed"
    ]


def _facts(source: str, plan: Plan, brings: Plan, standing: Any, removed: int) -> dict[str, Any]:
    """What a person wants to know before the labels count: what the source says, and what of it is news."""
    from al_resources.labeling.formats.contract import shortened

    known = set(standing.select("image_id", "annotator").iter_rows())
    written = brings.rows.select("image_id", "annotator", "outcome").rows()
    changed = sum((image_id, who) in known for image_id, who, outcome in written if outcome != "removed")
    reasons = Counter(shortened(row.reason, LONGEST_REASON) for row in plan.set_aside)
    chosen = brings.rows["round"].is_not_null().sum()
    return {
        "source": without_secrets(source),
        "format": plan.parsed.format,
        "matched": len(plan.parsed.labels),
        "new": len(written) - changed - removed,
        "changed": changed,
        "taken_back": removed,
        "unchanged": max(0, len(plan.parsed.labels) - len(written) + removed),
        "set_aside": len(plan.set_aside),
        "reasons": dict(reasons.most_common(REASONS_TOLD)),
        "unlabeled": plan.parsed.unlabeled,
        "classes": dict(Counter(label.label for label in plan.parsed.labels if label.label).most_common()),
        "differing": list(plan.differing),
        "of_chosen_images": int(chosen),
        "remarks": list(plan.parsed.remarks),
    }


def _judging(platform: Platform, inbox: Inbox, plan: Plan, random_sample: bool) -> dict[str, Any]:
    """How many of the labels may judge, and why: images that no round drew judge where they are a random sample."""
    import polars as pl

    from al_core.judging.truth import LABELED_BEFORE
    from al_loop.labeling import reasons_to_judge
    from al_resources.labeling.merge import declared_random

    dataset = platform.datasets.latest()
    known = set() if dataset is None else set(dataset.rows["image_id"])
    named = [label.image_id for label in plan.parsed.labels if label.label is not None]
    selections = platform.ledgers.read("selections")
    fresh = [image_id for image_id in named if image_id not in known]
    labels = pl.concat([platform.ledgers.read("labels"), plan.rows], how="diagonal_relaxed")
    reasons = reasons_to_judge(fresh, selections, labels, dataset, platform.ledgers, inbox.images)
    chosen = set(selections["image_id"])
    others = [image_id for image_id in fresh if image_id not in chosen]
    declared = declared_random(platform.ledgers)
    sample = [one for one in others if random_sample or reasons.get(one) in LABELED_BEFORE]
    return {
        "declared": len([one for one in others if random_sample and one not in declared]),
        "sample": "random" if random_sample else "all" if sample and len(sample) == len(others) else None,
        "judging": len(platform.settings.holdout.judges.among(sample)),
        "taught_before": len([one for one in named if one in known and one not in chosen]) if random_sample else 0,
    }


def _read_folder(folder: Path, platform: Platform) -> Reading:
    """A folder as a zip of it would be read; its pictures are known by their content."""
    from al_core.images import content_id
    from al_core.picture_files import find_pictures
    from al_resources.labeling.class_list import class_list
    from al_resources.labeling.exports import BrokenExport, known_classes
    from al_resources.labeling.formats import read_files
    from al_resources.labeling.formats.archive import may_hold_labels

    found = find_pictures(folder)
    read = {path: data for path in found.others if (data := _still_there(path, found.rejected)) is not None}
    documents = [
        (path.relative_to(folder).as_posix(), data)
        for path, data in read.items()
        if may_hold_labels(path.name, partial(bytes, data))
    ]
    pictures = {
        path.relative_to(folder).as_posix(): content_id(data)
        for path in found.pictures
        if (data := _still_there(path, found.rejected)) is not None
    }
    labeling = platform.settings.labeling
    classes = known_classes(class_list(platform.blobs, labeling).widened(labeling))
    try:
        reading = read_files(pictures, documents, labeling.columns, "folder", classes)
    except BrokenExport as error:
        if not found.rejected:
            raise
        name, why = next(iter(found.rejected.items()))
        beside = f"{len(found.rejected)} files cannot be read, like {name} ({why})"
        raise BrokenExport(f"{error.reason}; {beside}", tried=error.tried | found.rejected) from error
    return replace(reading, skipped_files=reading.skipped_files | found.rejected)


def _still_there(path: Path, why_not: dict[str, str]) -> bytes | None:
    """A file's bytes; where it is gone or closed since it was listed, that is kept in `why_not`."""
    try:
        return path.read_bytes()
    except OSError as error:
        why_not[str(path)] = f"cannot be read: {error.strerror or error}"
        return None


def _fetch(address: str) -> bytes:
    if address.lower().startswith(("http://", "https://")):
        return _download(address)
    import fsspec

    try:
        with fsspec.open(address, "rb") as file:
            return bytes(file.read())
    except (OSError, ValueError, ImportError) as error:
        raise GiveUp(f"{without_secrets(address)} cannot be fetched: {type(error).__name__} {error}") from error


def _download(address: str) -> bytes:
    """What a web server answers; of its errors only the kind is told, for they repeat the address and its token."""
    import httpx

    try:
        answer = httpx.get(address, follow_redirects=True, timeout=60)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise GiveUp(
            f"{without_secrets(address)} cannot be fetched: {type(error).__name__}; is the address right, and does its "
            "server run?"
        ) from error
    if not answer.is_success:
        raise GiveUp(
            f"{without_secrets(address)} cannot be fetched: the server answers {answer.status_code} "
            f"{answer.reason_phrase}; expected the file of labels, to whoever has the address"
        )
    return answer.content


def without_secrets(source: str) -> str:
    """An address without what lets people in: a name and a password in front of the host, a token behind the path."""
    if "://" not in source:
        return source
    scheme, _, rest = source.partition("://")
    host, slash, path = rest.partition("?")[0].partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"
