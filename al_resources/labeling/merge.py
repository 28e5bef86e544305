"""Merging: the labels of an export into the ledger, each once, however often and under whatever name it comes."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Literal

import polars as pl

from al_core.answers import votes
from al_core.records import EXPORTS, LABELS, table_of, utc_now
from al_resources.blobs import BlobInfo
from al_resources.forgotten import forgotten_ids
from al_resources.image_names import own_names
from al_resources.labeling.class_list import ClassList, class_list
from al_resources.labeling.exports import BrokenExport, ExportedLabel, ParsedExport, SetAside, parse_export
from al_resources.labeling.formats.contract import shortened
from al_resources.labeling.inbox import RANDOM_SAMPLE
from al_resources.labeling.quarantine import quarantine_export, quarantine_rows

if TYPE_CHECKING:
    from al_resources.labeling.formats import Reading
    from al_resources.labeling.inbox import Inbox
    from al_resources.ledgers import LedgerReader, Ledgers

UNKNOWN_ANNOTATOR = "unknown"
SAME = ["image_id", "annotator", "label", "outcome"]  # what makes an answer another one
REASONS_TOLD = 3  # of rows that were set aside; quarantine has them all


@dataclass(frozen=True)
class Plan:
    """What merging an export would do."""

    export: BlobInfo
    parsed: ParsedExport
    rows: pl.DataFrame  # of `LABELS`: what the ledger has from this export and what it still lacks
    round: int | None  # the newest round among them; None where the export brings nothing new
    differing: tuple[str, ...] = ()  # of an export that was delivered before: which of its labels no longer stand

    @property
    def set_aside(self) -> tuple[SetAside, ...]:
        """What cannot be used."""
        return self.parsed.set_aside

    @property
    def remarks(self) -> str:
        """What a person should know of an export that was read: its format, what was set aside and why."""
        parsed = self.parsed
        words = [parsed.format]
        if self.differing:
            words.append(
                f"delivered before, and {len(self.differing)} of its labels differ from what counts now "
                f"({'; '.join(self.differing[:3])}); `al import --again FILE` makes them count"
            )
        if parsed.set_aside:
            reasons = Counter(shortened(row.reason, 160) for row in parsed.set_aside).most_common(REASONS_TOLD)
            told = "; ".join(f"{count} x {reason}" for reason, count in reasons)
            words.append(f"{len(parsed.set_aside)} rows set aside: {told}")
        if parsed.unlabeled:
            words.append(f"{parsed.unlabeled} images without an answer")
        return "; ".join([*words, *parsed.remarks])


@dataclass(frozen=True)
class Merge:
    """What became of an export."""

    path: str
    export_id: str | None
    status: Literal["merged", "nothing_new", "quarantined", "gone"]
    reason: str = ""
    round: int | None = None
    labels: int = 0
    new_labels: int = 0
    set_aside: int = 0


def declared_random(ledgers: LedgerReader) -> set[str]:
    """The images whose labels came in an export that was declared to be of a random sample."""
    exports = ledgers.read("exports").filter(pl.col("path").str.starts_with(f"{RANDOM_SAMPLE}/"))
    labels = ledgers.read("labels") if exports.height else None
    return set() if labels is None else set(labels.join(exports, on="export_id", how="semi")["image_id"])


def plan_merge(
    inbox: Inbox,
    export: BlobInfo,
    *,
    now: datetime | None = None,
    data: bytes | None = None,
    reading: Reading | None = None,
    ledgers: LedgerReader | None = None,
) -> Plan:
    """Read an export and compare it with the ledger; nothing is written.

    `data` or `reading`: what it holds, where it does not lie in the inbox yet; `ledgers`: the inbox's own, read
    before.

    A label is new where the same annotator's latest answer for that image is another one, so a cumulative
    export brings only what changed since the last. An export that was recorded before brings nothing, but for
    rows that were set aside then and can be used now: those of images its annotator never labeled.

    Raises:
        BrokenExport: see `parse_export`.
        FileNotFoundError: it is gone.
    """
    ledgers, images, settings = ledgers or inbox.ledgers, inbox.images, inbox.settings
    forgotten = forgotten_ids(ledgers)
    selections = ledgers.read("selections").select("image_id", "round")
    chosen = dict(selections.iter_rows())

    def known_images(image_ids: Collection[str]) -> set[str]:
        return {
            image_id for image_id in image_ids if image_id in chosen or image_id in forgotten or images.exists(image_id)
        }

    classes = class_list(inbox.blobs, settings)
    if data is None and reading is None:
        data = inbox.blobs.read(export.path)
    parsed = parse_export(
        data or b"", export.path, classes.widened(settings), known_images, lambda: own_names(ledgers), reading
    )
    parsed = _without_forgotten(parsed, forgotten)
    labels = ledgers.read("labels")
    rows = _label_rows(export, parsed, chosen, labels, classes, now or utc_now())
    others = labels.filter(pl.col("export_id") != parsed.export_id)  # not those of an interrupted attempt
    differing: tuple[str, ...] = ()
    if ledgers.read("exports", export_id=parsed.export_id).is_empty():
        new = rows.join(votes(others), on=SAME, how="anti", nulls_equal=True, maintain_order="left")
    else:
        new = rows.join(labels, on=["image_id", "annotator"], how="anti")
        differing = _no_longer_standing(rows, votes(labels))
    new = _numbered(new, others)
    newest = new["round"].max()
    fallback = max(chosen.values(), default=0)
    round_ = None if new.is_empty() else int(fallback if newest is None else newest)  # type: ignore[arg-type]
    return Plan(export, parsed, new, round_, differing)


def _without_forgotten(parsed: ParsedExport, forgotten: Collection[str]) -> ParsedExport:
    """What is forgotten is counted, and neither merged nor set aside: quarantine would keep its name and label."""
    labels = tuple(label for label in parsed.labels if label.image_id not in forgotten)
    if not (left_out := len(parsed.labels) - len(labels)):
        return parsed
    told = f"{left_out} labels of images that `al forget` erased are left out"
    return replace(parsed, labels=labels, remarks=(*parsed.remarks, told))


def merge_export(inbox: Inbox, path: str) -> Merge:
    """Bring one export into the ledger; it is recorded last, so a merge that was interrupted is done again.

    A broken export goes to quarantine. Raises `FileNotFoundError` where it is gone.
    """
    export = inbox.blobs.info(path)
    try:
        plan = plan_merge(inbox, export)
    except BrokenExport as error:
        return refuse(inbox, [(export, error)])[0]
    return carry_out(inbox, plan)


def carry_out(inbox: Inbox, plan: Plan) -> Merge:
    """Write what was planned; the export is recorded last."""
    if plan.rows.height:
        plan = replace(plan, rows=_insert_labels(inbox.ledgers, plan))
    (merge,) = put_on_record(inbox, [plan])
    return merge


def put_on_record(inbox: Inbox, plans: Sequence[Plan]) -> list[Merge]:
    """Record exports whose labels are in the ledger, or that bring none; their unusable rows go to quarantine."""
    for plan in plans:
        if plan.set_aside:
            quarantine_rows(inbox.blobs, plan.export.path, plan.export.etag, plan.set_aside)
    merges = [
        Merge(
            path=plan.export.path,
            export_id=plan.parsed.export_id,
            status="merged" if plan.rows.height else "nothing_new",
            reason=plan.remarks,
            round=plan.round,
            labels=len(plan.parsed.labels),
            new_labels=plan.rows.height,
            set_aside=len(plan.set_aside),
        )
        for plan in plans
    ]
    _record(inbox.ledgers, merges, [plan.export.etag for plan in plans])
    return merges


def refuse(
    inbox: Inbox,
    exports: Sequence[tuple[BlobInfo, BrokenExport]],
    *,
    seconds: float = float("inf"),
) -> list[Merge]:
    """Copy broken exports to quarantine, with the reason and what could be read of them, and put that on record.

    The first ones, where `seconds` do not suffice for all.
    """
    deadline = time.monotonic() + seconds
    merges: list[Merge] = []
    for export, why in exports:
        if merges and time.monotonic() > deadline:
            break
        quarantine_export(inbox.blobs, export.path, export.etag, why.reason, why.tried)
        if why.set_aside:
            quarantine_rows(inbox.blobs, export.path, export.etag, why.set_aside)
        merges.append(Merge(path=export.path, export_id=None, status="quarantined", reason=why.reason))
    _record(inbox.ledgers, merges, [export.etag for export, _ in exports[: len(merges)]])
    return merges


def note_gone(inbox: Inbox, path: str) -> None:
    """Put on record that an export was deleted before it could be read."""
    gone = Merge(path=path, export_id=None, status="gone", reason="deleted before it was read")
    _record(inbox.ledgers, [gone], [None])


def _label_rows(
    export: BlobInfo,
    parsed: ParsedExport,
    chosen: dict[str, int],
    labels: pl.DataFrame,
    classes: ClassList,
    now: datetime,
) -> pl.DataFrame:
    """Rows of `LABELS`; where the tool reports no time, the export's own counts.

    An answer that nobody is named to take back is taken back whoever gave it; where there is none, nothing is.

    No label is younger than now: a clock that is ahead would make it win over all later corrections. An answer without
    a time of its own comes after all that the ledger holds of its image, whatever the file's time says, and so does any
    answer where the ledger holds one from the future.
    """
    others = labels.filter(pl.col("export_id") != parsed.export_id)
    newest = dict(others.group_by("image_id").agg(pl.col("labeled_at").max()).iter_rows())

    def when(label: ExportedLabel) -> datetime:
        told = min(label.labeled_at or export.modified_at, now)
        before = newest.get(label.image_id)
        in_order = before is None or told > before or (label.labeled_at is not None and before <= now)
        return told if before is None or in_order else before + timedelta(microseconds=1)

    given: dict[str, list[str]] = defaultdict(list)
    if any(label.outcome == "removed" for label in parsed.labels):
        there = votes(others)
        for image_id, annotator, outcome in there.select("image_id", "annotator", "outcome").iter_rows():
            if outcome != "removed":
                given[image_id].append(annotator)
    rows = [
        {
            "image_id": label.image_id,
            "label": None if label.label is None else classes.current(label.label),
            "annotator": annotator,
            "labeled_at": when(label),
            "export_id": parsed.export_id,
            "round": chosen.get(label.image_id),
            "confidence": label.confidence,
            "annotation_seconds": label.annotation_seconds,
            "outcome": None if label.outcome == "label" else label.outcome,
            "mode": label.mode,
        }
        for label in parsed.labels
        for annotator in _whose(label, given)
    ]
    frame = pl.from_arrow(table_of(LABELS, rows))
    assert isinstance(frame, pl.DataFrame)
    return frame


def _numbered(rows: pl.DataFrame, others: pl.DataFrame) -> pl.DataFrame:
    """`rows` with `answer`: how many answers of the same annotator for the same image other exports brought before."""
    before = others.group_by("image_id", "annotator").agg(pl.len().cast(pl.Int64).alias("before"))
    counted = rows.join(before, on=["image_id", "annotator"], how="left", maintain_order="left")
    return counted.with_columns(answer=pl.col("before").fill_null(0)).drop("before")


def _insert_labels(ledgers: Ledgers, plan: Plan) -> pl.DataFrame:
    """The rows of the plan that are in the ledger now under this export.

    Not those that an overlapping export brought in the meantime: the number of the answer tells that it is the same.
    """
    key = [*SAME, "answer"]
    if ledgers.insert_new("labels", plan.rows.to_arrow().cast(LABELS), on=key) == plan.rows.height:
        return plan.rows
    own = ledgers.read("labels", export_id=plan.parsed.export_id)
    return plan.rows.join(own, on=SAME, how="semi", nulls_equal=True, maintain_order="left")


def _no_longer_standing(rows: pl.DataFrame, now: pl.DataFrame) -> tuple[str, ...]:
    """What an export says that its annotators have said otherwise since, in words."""
    both = rows.join(now, on=["image_id", "annotator"], suffix="_now")
    changed = both.filter(
        pl.col("label").ne_missing(pl.col("label_now")) | pl.col("outcome").ne_missing(pl.col("outcome_now"))
    )
    return tuple(
        f"{image_id}: {label or outcome} then, {label_now or outcome_now} now"
        for image_id, label, outcome, label_now, outcome_now in changed.select(
            "image_id", "label", "outcome", "label_now", "outcome_now"
        ).iter_rows()
    )


def _whose(label: ExportedLabel, given: dict[str, list[str]]) -> list[str]:
    """The annotators for whom an answer counts, or is taken back. `given`: image id -> who has answered."""
    if label.outcome != "removed":
        return [label.annotator or UNKNOWN_ANNOTATOR]
    return [one for one in given[label.image_id] if label.annotator in (None, one)]


def _record(ledgers: Ledgers, merges: Sequence[Merge], etags: Sequence[str | None]) -> None:
    now = utc_now()
    rows = [
        {
            "export_id": merge.export_id,
            "path": merge.path,
            "etag": etag,
            "status": merge.status,
            "reason": merge.reason,
            "round": merge.round,
            "labels": merge.labels,
            "new_labels": merge.new_labels,
            "set_aside": merge.set_aside,
            "recorded_at": now,
        }
        for merge, etag in zip(merges, etags, strict=True)
    ]
    ledgers.insert_new("exports", table_of(EXPORTS, rows), on=["path", "etag"])
