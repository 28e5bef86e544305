"""The loop in process under everything that may happen to it, in any order; the claims hold after every step.

Exports are delivered, again, under other names, corrected; the process is killed at any of its writes, clocks jump,
the cursor is reset, people roll back. What a kill left is done again, as a run that is started anew does.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from datetime import datetime, timedelta, tzinfo
from functools import partial
from io import BytesIO
from pathlib import Path

import pytest
from failing_disk import FailingDisk, Killed
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test
from PIL import Image
from resource_adapters import coco, image
from small_models import register_model

from al_core import records
from al_core.dataset import resolve_labels
from al_core.errors import GiveUp
from al_core.records import SELECTIONS, table_of, utc_now
from al_loop import deploying
from al_loop.claims import check_claims
from al_loop.labeling import merge_exports, publish_dataset
from al_loop.operating import rollback
from al_resources import delta_durability
from al_resources.labeling.inbox import INBOX
from al_resources.labeling.look import InboxCursor, look
from al_resources.platform import Platform
from al_resources.settings import Settings

Kill = tuple[int, str] | None
IMAGES = [image(n) for n in range(8)]
ANSWERS = st.dictionaries(st.sampled_from(IMAGES), st.sampled_from(["3", "7"]), min_size=1, max_size=4)
# None, or at which of its writes a piece of work is killed, and what becomes of what was not synced
KILLS = st.none() | st.tuples(st.integers(1, 40), st.sampled_from(["kill", "lost", "torn"]))
COUNTED = {"steps": 0, "kills": 0}


class JumpingClock(datetime):
    """The clock of `utc_now`, as far off as somebody set it."""

    off = timedelta()

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:
        return datetime.now(tz) + cls.off


class Loop(RuleBasedStateMachine):
    """One home. What people answered is known here as well: the last new answer to an image stands, as on record."""

    def __init__(self) -> None:
        super().__init__()
        self.home = Path(tempfile.mkdtemp(dir=os.environ.get("PYTEST_DEBUG_TEMPROOT")))
        self.patch = pytest.MonkeyPatch()
        JumpingClock.off = timedelta()
        self.patch.setattr(records, "datetime", JumpingClock)
        # what a rollout asks first: no images of the holdout were judged by these models
        self.patch.setattr(deploying, "_smoke_images", lambda *_: [(_picture(), None)])
        self.settings = Settings(home=self.home, deployment={"traffic_steps": [50], "watch_seconds": 0})
        self.platform = Platform(self.settings)
        rows = [
            {"round": 0, "image_id": one, "image_uri": f"{one}.png", "image_hash": f"{n:032x}", "reason": "control"}
            for n, one in enumerate(IMAGES)
        ]
        self.platform.ledgers.insert_new("selections", table_of(SELECTIONS, rows), ["image_id"])
        self.cursor = InboxCursor()
        self.delivered = 0
        self.contents: dict[str, dict[str, str]] = {}  # path -> answers
        self.ever: dict[tuple[str, str], dict[str, str]] = {}  # (path, etag) -> answers
        self.at_work: str | None = None  # the export that is merged just now
        self.undone: list[Callable[[], None]] = []  # what a kill interrupted

    # ---------------------------------------------------------------- what people and tools do
    @rule(answers=ANSWERS)
    def deliver(self, answers: dict[str, str]) -> None:
        self._write(f"{INBOX}/{self.delivered}.json", answers)

    @precondition(lambda self: self.contents)
    @rule(data=st.data())
    def deliver_again_under_another_name(self, data: st.DataObject) -> None:
        old = data.draw(st.sampled_from(sorted(self.contents)))
        self._write(f"{INBOX}/{self.delivered}-again.json", self.contents[old])

    @precondition(lambda self: self.contents and not self.undone)
    @rule(data=st.data())
    def rename(self, data: st.DataObject) -> None:
        old = data.draw(st.sampled_from(sorted(self.contents)))
        self._write(f"{INBOX}/{self.delivered}-renamed.json", self.contents[old])
        self.platform.blobs.delete(old)
        del self.contents[old]

    @precondition(lambda self: self.contents and not self.undone)
    @rule(answers=ANSWERS, data=st.data())
    def correct(self, answers: dict[str, str], data: st.DataObject) -> None:
        """The same file, written anew."""
        self._write(data.draw(st.sampled_from(sorted(self.contents))), answers)

    @rule(hours=st.sampled_from([-48, -1, 1, 48]))
    def clock_jump(self, hours: int) -> None:
        JumpingClock.off += timedelta(hours=hours)
        _count("steps")

    @rule()
    def reset_the_cursor(self) -> None:
        self.cursor = InboxCursor()
        _count("steps")

    # ---------------------------------------------------------------- what the loop does
    @precondition(lambda self: not self.undone)
    @rule(kill=KILLS)
    def tick(self, kill: Kill) -> None:
        """The sensor's look, and the runs that it asks for."""
        self._do(self._tick, kill)

    @precondition(lambda self: not self.undone and self.platform.ledgers.read("labels").height)
    @rule(kill=KILLS)
    def train_and_deploy(self, kill: Kill) -> None:
        self._do(self._train_and_deploy, kill)

    @precondition(lambda self: not self.undone)
    @rule(kill=KILLS)
    def roll_back(self, kill: Kill) -> None:
        self._do(self._roll_back, kill)

    @precondition(lambda self: self.undone)
    @rule(kill=KILLS)
    def retry(self, kill: Kill) -> None:
        self._do(self.undone.pop(), kill)

    def teardown(self) -> None:
        try:
            while self.undone:
                self._do(self.undone.pop(), None)
            self.cursor = InboxCursor()
            while waiting := len(self.platform.inbox.unmerged()):
                self._do(self._tick, None)
                assert len(self.platform.inbox.unmerged()) < waiting, "a tick brings what waits further"
        finally:
            self.patch.undo()
            shutil.rmtree(self.home)

    # ---------------------------------------------------------------- how
    def _write(self, path: str, answers: dict[str, str]) -> None:
        self.delivered += 1
        # COCO has no time of an answer: the file's own is what a clock may spoil
        self.platform.blobs.write(path, coco(answers))
        self.contents[path] = answers
        file = next(self.home.rglob(Path(path).name))
        moment = utc_now().timestamp()
        os.utime(file, (moment, moment))
        self.ever[path, self.platform.blobs.info(path).etag] = answers
        _count("steps")

    def _tick(self) -> None:
        found = look(self.platform.inbox, self.cursor, limit=5, now=utc_now())
        for plan in found.ready:
            self._merge(plan.export.path)
        self.cursor = found.cursor

    def _merge(self, path: str) -> None:
        self.at_work = path
        merge_exports(self.platform, path, lambda line: None)
        self.at_work = None

    def _train_and_deploy(self) -> None:
        dataset = publish_dataset(self.platform, 0)
        version = register_model(self.platform, training_key=dataset.manifest.version, round=0)
        deploying.deploy(self.platform, self.platform.registry.manifest(version), run_id=None, log=lambda line: None)

    def _roll_back(self) -> None:
        try:
            rollback(self.platform, reason="worse", person="ana", log=lambda line: None)
        except GiveUp as refused:
            if "materialize `deployment`" in str(refused):  # what a kill left; it is ended as the message says
                deploying.end_killed_rollout(self.platform, run_id=None, log=lambda line: None)
                self._roll_back()
            elif "ever served" not in str(refused):
                raise

    def _do(self, work: Callable[[], None], kill: Kill) -> None:
        _count("steps")
        if kill is None:
            work()
            return self._check()
        with pytest.MonkeyPatch.context() as failing:
            disk = FailingDisk(failing, *kill)
            try:
                work()
            except Killed:
                again = self.at_work  # a run that was killed is started anew, and others wait for it
                self.undone.append(work if again is None else partial(self._merge, again))
                self.at_work = None
        disk.cut_the_power()
        delta_durability._looked_at.clear()
        self.platform = Platform(self.settings)
        if self.undone:
            return _count("kills")
        return self._check()

    def _check(self) -> None:
        broken = [one for one in check_claims(self.platform) if not one.holds]
        assert [one for one in broken if one.claim != "nothing waits for a person"] == []
        standing: dict[str, str] = {}
        seen: list[dict[str, str]] = []
        for key in self.platform.ledgers.read("exports").select("path", "etag").iter_rows():
            if (answers := self.ever[key]) not in seen:  # the same labels again bring nothing
                seen.append(answers)
                standing |= answers
        resolved = resolve_labels(self.platform.ledgers.read("labels"), "latest")
        assert dict(resolved.select("image_id", "label").iter_rows()) == standing


def _count(what: str) -> None:
    COUNTED[what] += 1


def _picture() -> bytes:
    content = BytesIO()
    Image.new("L", (16, 16), 100).save(content, "PNG")
    return content.getvalue()


def _run(examples: int, steps: int, record_property: Callable[[str, object], None]) -> None:
    COUNTED.update(steps=0, kills=0)
    run_state_machine_as_test(
        Loop,
        settings=settings(
            max_examples=examples, stateful_step_count=steps, derandomize=True, database=None, deadline=None,
            phases=[Phase.generate, Phase.shrink],
        ),
    )  # fmt: skip
    record_property("tries", COUNTED["steps"])
    print(json.dumps(COUNTED))


def test_whatever_happens_to_the_loop_its_claims_hold(record_property: Callable[[str, object], None]) -> None:
    _run(examples=3, steps=20, record_property=record_property)


@pytest.mark.slow
@pytest.mark.timeout(14_400)
def test_whatever_happens_to_the_loop_for_ten_thousand_steps(
    record_property: Callable[[str, object], None],
) -> None:
    """A night's work; `LOOP_STEPS` makes it shorter or longer."""
    steps = int(os.environ.get("LOOP_STEPS", "10000"))
    _run(examples=steps // 45, steps=50, record_property=record_property)  # not each example comes to fifty
    assert COUNTED["steps"] >= steps
