"""The project's own labeling page (`al label`): people answer there, and a release is an export in the inbox."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from al_resources.labeling import LabelingStatus
from al_resources.labeling.answers import AnswerLog, rounds_with_answers, standing_answers
from al_resources.labeling.class_list import class_list
from al_resources.labeling.releases import NothingToRelease, is_round_settled, release_round
from al_resources.labeling.staging import is_staged, staged_images

if TYPE_CHECKING:
    from al_resources.blobs import BlobStore
    from al_resources.labeling import Predict
    from al_resources.ledgers import Ledgers
    from al_resources.settings import LabelingSettings

RELEASED_LATE = 3  # rounds looked at for late answers, the newest ones that somebody answered in


class PageLabeling:
    """The page and this adapter meet in the blob store: neither needs the other to run.

    `auto_release`: a round whose pictures are all answered is released, also when the page has died since.
    """

    def __init__(
        self, blobs: BlobStore, ledgers: Ledgers, settings: LabelingSettings, *, auto_release: bool = False
    ) -> None:
        self.blobs = blobs
        self.ledgers = ledgers
        self.settings = settings
        self.auto_release = auto_release

    def announce(self, round_: int) -> None:
        """Nothing to do: the page looks for staged rounds by itself."""

    def status(self, round_: int) -> LabelingStatus:
        """Labeled on the page or, as an export of any other tool, in the ledger."""
        from al_core.answers import standing

        staged = {image.image_id for image in staged_images(self.blobs, round_)}
        here = standing_answers(_read(self.blobs, round_)).values()
        answered = {kind: {one.image_id for one in here if one.kind == kind} for kind in ("label", "unsure")}
        bad = {one.image_id for one in here if one.kind == "bad_image"}
        labeled = (answered["label"] | set(standing(self.ledgers.read("labels"))["image_id"])) & staged
        return LabelingStatus(
            total=len(staged), labeled=len(labeled), skipped=len((answered["unsure"] | bad) & staged - labeled)
        )

    def collect(self) -> list[str]:
        """Release what is complete and was not released as it stands; with `auto_release` only."""
        if not self.auto_release:
            return []
        released = []
        for round_ in rounds_with_answers(self.blobs)[:RELEASED_LATE]:
            log = _read(self.blobs, round_)
            if not is_staged(self.blobs, round_) or not is_round_settled(self.blobs, round_, log):
                continue
            with suppress(NothingToRelease):
                release = release_round(self.blobs, round_, log, class_list(self.blobs, self.settings))
                released += [release.path] if release.new else []
        return released

    def refresh(self, version: int, predict: Predict) -> int:
        """Nothing to do: the page reads the log."""
        return 0


def _read(blobs: BlobStore, round_: int) -> AnswerLog:
    log = AnswerLog(blobs, round_)
    log.refresh()
    return log
