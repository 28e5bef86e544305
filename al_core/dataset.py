"""The labeled dataset: one label per image, splits that never leak, a version that is the hash of its content.

Pure functions; where the files lie is somebody else's business.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

import polars as pl

from al_core.answers import standing
from al_core.errors import InvalidInput
from al_core.judging.truth import CENSUS, DUEL, LABELED_BEFORE, SAMPLE, UNIFORM_REASONS, Reserve, Role
from al_core.near_duplicates import NearDuplicates
from al_core.records import DatasetManifest, utc_now

if TYPE_CHECKING:
    from al_core.learning.contract import LabeledImage

Split = Literal["train", "validation", "holdout", "duel", "excluded"]
SPLITS: tuple[Split, ...] = ("train", "validation", "holdout", "duel", "excluded")
JUDGES: tuple[Split, ...] = ("holdout", "duel")  # the holdout measures accuracies, both tell two models apart
VALIDATION_SALT = "validation"

ROWS = pl.Schema(
    {
        "image_id": pl.String(),
        "image_url": pl.String(),
        "label": pl.String(),
        "split": pl.String(),
        # why the image was selected: strategy, control, seed, duel; if it never was: sample or census where its label
        # may judge all the same (`al_core.judging.truth`), otherwise null
        "reason": pl.String(),
        "round": pl.Int64(),
        "image_hash": pl.String(),
        "note": pl.String(),  # why it is excluded, or follows another image
    }
)


@dataclass(frozen=True)
class Dataset:
    """One version: its rows (`ROWS`) and its manifest."""

    rows: pl.DataFrame
    manifest: DatasetManifest

    def images(self, split: Split) -> list[LabeledImage]:
        """The images of a split, in the order of their ids."""
        from al_core.learning.contract import LabeledImage

        rows = self.rows.filter(split=split).sort("image_id")
        return [LabeledImage(*row) for row in rows.select("image_id", "image_url", "label").iter_rows()]


def resolve_labels(labels: pl.DataFrame, rule: Literal["latest", "majority"] = "latest") -> pl.DataFrame:
    """One label per image, from the ledger's rows (`LABELS`): columns image_id, label, round.

    Every annotator has one vote, the latest answer, if it is a class. `latest`: the youngest vote counts. `majority`:
    the label with most votes counts. Ties go to the younger vote, then to the label that sorts first.
    """
    order = ["votes", "labeled_at"] if rule == "majority" else ["labeled_at", "votes"]
    return (
        counted_votes(labels)
        .sort([*order, "label"], descending=[True, True, False], nulls_last=True)
        .unique("image_id", keep="first", maintain_order=True)
        .select("image_id", "label", "round")
        .sort("image_id")
    )


def counted_votes(labels: pl.DataFrame) -> pl.DataFrame:
    """What was said of each image: columns image_id, label, votes, and of these the youngest: labeled_at, round."""
    return (
        standing(labels)
        .group_by("image_id", "label")
        .agg(pl.len().alias("votes"), pl.col("labeled_at").max(), pl.col("round").max())
    )


def build_dataset(
    resolved: pl.DataFrame,
    *,
    reasons: Mapping[str, str],
    urls: Mapping[str, str],
    hashes: Mapping[str, str | None],
    parent: Dataset | None,
    reserve: Reserve,
    validation_share: float,
    near_duplicate_distance: int,
    round_: int,
    taken_back: Collection[str] = (),
) -> Dataset:
    """The next dataset version, or one with the parent's version where nothing changed.

    An image keeps the split it has in the parent for ever; its label may change. One whose answers were all taken back
    leaves the dataset. A new one

    - judges if it is reserved: in the holdout where it was drawn uniformly, in duels where it was drawn from what
      two models disagree on; unless nearly the same picture was trained on already: then it follows its twin.
      Of labels that were there before, those reserved for duels are in the holdout, too, until there was a duel: what
      duels leave over is no uniform draw;
    - is excluded if nearly the same picture judges, or one is in train and another in validation;
    - goes where its twin is, if it has one in train or validation;
    - goes to validation if another hash falls below `validation_share`, else to train.

    Args:
        resolved: As `resolve_labels` returns them.
        reasons: Image id -> why it was selected.
        urls: Image id -> where it lies.
        hashes: Image id -> near-duplicate hash; needed for new images only. Without one nothing resembles it.
        parent: The version before.
        reserve: Which images may judge.
        validation_share: Of those that are trained with.
        near_duplicate_distance: Bits in which near-duplicates may differ; -1 for none.
        round_: The round this version is made in.
        taken_back: Image ids of the parent that have no label any more.

    Raises:
        ValueError: it is not known where a labeled image lies.
    """
    if parent is not None:
        relabeled = resolved.select("image_id", pl.col("label").alias("now"))
        kept = parent.rows.join(relabeled, on="image_id", how="left", maintain_order="left").with_columns(
            label=pl.coalesce("now", "label")
        )
        kept = kept.select(ROWS.names()).filter(~pl.col("image_id").is_in(list(taken_back)))
    else:
        kept = pl.DataFrame(schema=ROWS)
    new = resolved.join(kept, on="image_id", how="anti").sort("image_id")
    lost = [image_id for image_id in new["image_id"] if image_id not in urls]
    if lost:
        raise InvalidInput(
            f"{len(lost)} labeled image(s) have no address, like {lost[0]}; put them into the image store"
        )
    splitter = _Splitter(kept, near_duplicate_distance, reserve, validation_share)
    candidates = [(image_id, reasons.get(image_id), hashes.get(image_id)) for image_id in new["image_id"]]
    assigned = splitter.assign(candidates)
    added = pl.DataFrame(
        [
            {
                "image_id": image_id,
                "image_url": urls[image_id],
                "label": label,
                "split": assigned[image_id][0],
                "reason": reasons.get(image_id),
                "round": labeled_in,
                "image_hash": hashes.get(image_id),
                "note": assigned[image_id][1],
            }
            for image_id, label, labeled_in in new.select("image_id", "label", "round").iter_rows()
        ],
        schema=ROWS,
    )
    rows = pl.concat([kept, added]).sort("image_id")
    return Dataset(rows, _manifest(rows, parent, round_))


def uses(rows: pl.DataFrame) -> dict[str, int]:
    """What the labels are for: how many teach, how many judge and where these were drawn, how many are left out."""
    judging = {
        "seed": "judge: of seed rounds",
        "control": "judge: of control slices",
        DUEL: "judge: of duels",
        SAMPLE: "judge: of imports declared a random sample",
        CENSUS: "judge: of imports that labeled all images there were",
    }
    counts: dict[str, int] = {}
    for split, reason, count in rows.group_by("split", "reason").len().sort("split", "reason").iter_rows():
        use = "left out" if split == "excluded" else judging.get(reason, "judge") if split in JUDGES else "teach"
        counts[use] = counts.get(use, 0) + count
    return dict(sorted(counts.items(), key=lambda item: (item[0] != "teach", item[0])))


def leaks(rows: pl.DataFrame, near_duplicate_distance: int) -> list[dict[str, str]]:
    """Training or validation images that are, or nearly are, one that judges; empty as it should be."""
    index = NearDuplicates(near_duplicate_distance)
    held_out = rows.filter(pl.col("split").is_in(JUDGES))
    for image_id, image_hash in held_out.select("image_id", "image_hash").iter_rows():
        if image_hash:
            index.add(image_id, image_hash)
    used = rows.filter(pl.col("split").is_in(["train", "validation"]))
    own = set(held_out["image_id"])
    found = []
    for image_id, split, image_hash in used.select("image_id", "split", "image_hash").iter_rows():
        twin = image_id if image_id in own else index.find(image_hash) if image_hash else None
        if twin is not None:
            found.append({"image": image_id, "split": split, "holdout image": twin})
    return found


def below(image_id: str, salt: str, share: float) -> bool:
    """Whether a salted hash of the content id falls below the share: for ever the same answer for an image.

    The id's own digits would not do: random draws are windows of ids, and a window would fall into one split.
    """
    digest = hashlib.blake2b(f"{salt}:{image_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2**64


def to_jsonl(rows: pl.DataFrame) -> bytes:
    """One JSON object per line; `image_url` and `label` are the names that AutoML expects."""
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows.sort("image_id").to_dicts())


def from_jsonl(lines: Iterable[bytes]) -> pl.DataFrame:
    """Rows as `to_jsonl` wrote them."""
    return pl.DataFrame([json.loads(line) for line in lines if line.strip()], schema=ROWS)


class _Splitter:
    """Gives new images their split; near-duplicates never lie in two of judges, validation and train."""

    def __init__(self, kept: pl.DataFrame, distance: int, reserve: Reserve, validation_share: float) -> None:
        self._reserve = reserve
        self._validation_share = validation_share
        self._duelled = DUEL in kept["reason"]
        self._placed: dict[Split, NearDuplicates] = {
            split: NearDuplicates(distance) for split in SPLITS if split != "excluded"
        }
        for image_id, split, image_hash in kept.select("image_id", "split", "image_hash").iter_rows():
            self._remember(image_id, split, image_hash)

    def assign(self, images: Sequence[tuple[str, str | None, str | None]]) -> dict[str, tuple[Split, str | None]]:
        """Split and note of each (image id, reason, hash); candidates to judge have their turn first."""
        judges = {image_id: self._may_judge(image_id, reason) for image_id, reason, _ in images}
        assigned = {}
        for image_id, _, image_hash in sorted(images, key=lambda image: judges[image[0]] is None):
            assigned[image_id] = self._place(image_id, judges[image_id], image_hash)
            self._remember(image_id, assigned[image_id][0], image_hash)
        return assigned

    def _may_judge(self, image_id: str, reason: str | None) -> Split | None:
        before = reason in ("seed", *LABELED_BEFORE)  # drawn before any duel could leave something over
        measures: Role = "judge" if before and not self._duelled else "measure"
        if reason in UNIFORM_REASONS and self._reserve.holds(image_id, measures):
            return "holdout"
        return "duel" if (before or reason == DUEL) and self._reserve.holds(image_id, "duel") else None

    def _place(self, image_id: str, judging: Split | None, image_hash: str | None) -> tuple[Split, str | None]:
        found = {split: index.find(image_hash) for split, index in self._placed.items()} if image_hash else {}
        twins = {split: twin for split, twin in found.items() if twin is not None}
        if judging and twins.keys() <= set(JUDGES):
            return judging, f"near-duplicate of {next(iter(twins.values()))}" if twins else None
        if not twins:
            return "validation" if below(image_id, VALIDATION_SALT, self._validation_share) else "train", None
        split, twin = next(iter(twins.items()))
        if len(twins) > 1:
            where = " and ".join(f"{twin} ({split})" for split, twin in twins.items())
            return "excluded", f"near-duplicate of {where}"
        if split in JUDGES:
            return "excluded", f"near-duplicate of {twin}, which is held out"
        return split, f"near-duplicate of {twin}"

    def _remember(self, image_id: str, split: str, image_hash: str | None) -> None:
        if image_hash and split != "excluded":
            self._placed[cast(Split, split)].add(image_id, image_hash)


def _manifest(rows: pl.DataFrame, parent: Dataset | None, round_: int) -> DatasetManifest:
    version = _content_hash(rows)
    if parent is not None and parent.manifest.version == version:
        return parent.manifest
    before = parent.manifest.classes if parent is not None else ()
    fresh = sorted(set(rows.filter(pl.col("split") != "excluded")["label"]) - set(before))
    counts: dict[str, Any] = dict(rows["split"].value_counts().iter_rows())
    return DatasetManifest(
        version=version,
        sequence=1 if parent is None else parent.manifest.sequence + 1,
        parent=None if parent is None else parent.manifest.version,
        round=round_,
        classes=(*before, *fresh),
        counts={split: counts.get(split, 0) for split in SPLITS},
        holdout=_content_hash(rows.filter(split="holdout")),
        created_at=utc_now(),
    )


def _content_hash(rows: pl.DataFrame) -> str:
    lines = sorted("\t".join(row) for row in rows.select("image_id", "label", "split").iter_rows())
    return hashlib.blake2b("\n".join(lines).encode(), digest_size=6).hexdigest()
