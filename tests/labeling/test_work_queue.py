"""The work queue by its rules: leases, overlap, late answers, reviews; with a clock of its own."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from al_labeling.look_alikes import Predictions, look_alikes
from al_labeling.work_queue import WorkQueue
from al_resources.blobs.local import FsspecBlobStore
from al_resources.labeling import StagedImage
from al_resources.labeling.answers import Answer, AnswerLog, standing_answers

START = datetime(2026, 1, 1, tzinfo=UTC)
TAB, OTHER_TAB = "tab-0001", "tab-0002"


class Clock:
    def __init__(self) -> None:
        self.time = START

    def __call__(self) -> datetime:
        self.time += timedelta(microseconds=1)
        return self.time

    def pass_seconds(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


def image(number: int, reason: str = "strategy") -> StagedImage:
    name = f"{number:032x}"
    return StagedImage(image_id=name, file_name=f"{name}.png", image_uri=f"x/{name}.png", reason=reason, rank=number)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make(tmp_path: Path, clock: Clock) -> Callable[..., WorkQueue]:
    def make(images: int | list[StagedImage] = 3, **how: Any) -> WorkQueue:
        staged = [image(number) for number in range(images)] if isinstance(images, int) else images
        blobs = FsspecBlobStore(tmp_path / "blobs")
        return WorkQueue(blobs, 0, staged, lease=timedelta(minutes=10), now=clock, **how)

    return make


def say(
    queue: WorkQueue, number: int, annotator: str, kind: str = "label", label: str | None = "cat", **more: Any
) -> Answer:
    answer = Answer(
        event_id=str(uuid4()),
        round=0,
        image_id=image(number).image_id,
        annotator=annotator,
        kind=kind,  # type: ignore[arg-type]
        label=label if kind == "label" else None,
        at=queue._now(),
        **more,
    )
    queue.record(answer)
    return answer


def numbers(images: list[StagedImage]) -> list[int]:
    return [one.rank for one in images]


def test_pictures_come_in_the_order_of_the_selection_and_each_to_one_person(make: Callable[..., WorkQueue]):
    queue = make()
    assert numbers(queue.next("ada", TAB, 2)) == [0, 1]
    assert numbers(queue.next("bob", OTHER_TAB, 5)) == [2]
    assert numbers(queue.next("cid", "tab-0003", 5)) == []


def test_a_picture_that_nobody_answered_comes_back_when_its_time_is_over(make: Callable[..., WorkQueue], clock: Clock):
    queue = make()
    queue.next("ada", TAB, 3)
    clock.pass_seconds(599)
    assert queue.next("bob", OTHER_TAB, 3) == []
    clock.pass_seconds(2)
    assert numbers(queue.next("bob", OTHER_TAB, 3)) == [0, 1, 2]


def test_a_late_answer_is_kept_and_two_of_two_people_are_both_kept(make: Callable[..., WorkQueue], clock: Clock):
    queue = make()
    queue.next("ada", TAB, 1)
    clock.pass_seconds(700)
    queue.next("bob", OTHER_TAB, 1)
    say(queue, 0, "bob", label="dog")
    say(queue, 0, "ada", label="cat")
    assert queue.progress("ada").settled == 1
    standing = standing_answers(queue.log)
    assert {who: one.label for (_, who), one in standing.items()} == {"ada": "cat", "bob": "dog"}


def test_a_second_tab_of_one_person_is_given_other_pictures_and_the_first_ones_only_at_the_end(
    make: Callable[..., WorkQueue],
):
    queue = make()
    assert numbers(queue.next("ada", TAB, 2)) == [0, 1]
    assert numbers(queue.next("ada", OTHER_TAB, 3)) == [2, 0, 1]
    say(queue, 0, "ada", label="cat")
    say(queue, 0, "ada", label="dog")
    assert [one.label for one in standing_answers(queue.log).values()] == ["dog"]
    assert queue.progress("ada").mine == 1


def test_a_closed_page_gives_its_pictures_back_at_once(make: Callable[..., WorkQueue]):
    queue = make()
    held = queue.next("ada", TAB, 3)
    queue.hand_back("ada", TAB, [one.image_id for one in held])
    assert numbers(queue.next("bob", OTHER_TAB, 3)) == [0, 1, 2]


def test_a_page_that_starts_again_knows_what_was_handed_out_and_answered(make: Callable[..., WorkQueue]):
    first = make()
    first.next("ada", TAB, 2)
    say(first, 0, "ada")
    again = make()
    assert numbers(again.next("bob", OTHER_TAB, 3)) == [2]
    assert again.progress("ada").settled == 1


def test_taking_back_opens_the_picture_again_and_the_answer_before_it_stands(make: Callable[..., WorkQueue]):
    queue = make()
    first = say(queue, 0, "ada", label="cat")
    second = say(queue, 0, "ada", label="dog")
    say(queue, 0, "ada", "undo", undoes=second.event_id)
    assert [one.label for one in standing_answers(queue.log).values()] == ["cat"]
    say(queue, 0, "ada", "undo", undoes=first.event_id)
    assert queue.progress("ada").settled == 0
    assert numbers(queue.next("ada", TAB, 1)) == [0]


def test_with_an_overlap_of_two_every_picture_goes_to_two_people_and_to_nobody_twice(make: Callable[..., WorkQueue]):
    queue = make(overlap=2)
    assert numbers(queue.next("ada", TAB, 3)) == [0, 1, 2]
    assert numbers(queue.next("bob", OTHER_TAB, 3)) == [0, 1, 2]
    assert queue.next("cid", "tab-0003", 3) == []
    say(queue, 0, "ada")
    assert queue.next("ada", TAB, 3, have=[image(1).image_id, image(2).image_id]) == []
    assert not queue.is_settled(image(0).image_id)
    say(queue, 0, "bob", label="dog")
    assert queue.is_settled(image(0).image_id)


def test_a_second_person_is_asked_only_where_the_first_and_the_model_disagree(make: Callable[..., WorkQueue]):
    predicted = {image(0).image_id: "cat", image(1).image_id: "dog"}
    queue = make(3, overlap=2, overlap_when="model_disagrees", predicted=lambda: predicted)
    for number in range(3):
        say(queue, number, "ada", label="cat")
    assert numbers(queue.next("bob", OTHER_TAB, 3)) == [1, 2]  # the model never saw the third


def test_one_look_at_a_bad_picture_is_enough_and_unsure_is_an_answer(make: Callable[..., WorkQueue]):
    queue = make(2, overlap=3)
    say(queue, 0, "ada", "bad_image")
    say(queue, 1, "ada", "unsure")
    assert numbers(queue.next("bob", OTHER_TAB, 2)) == [1]
    progress = queue.progress("ada")
    assert (progress.settled, progress.unsure, progress.bad, progress.labeled) == (1, 1, 1, 0)


def test_what_another_tool_labeled_is_not_asked_again_unless_it_is_under_review(make: Callable[..., WorkQueue]):
    images = [image(0), image(1, "review"), image(2)]
    elsewhere = {image(0).image_id: {"cvat"}, image(1).image_id: {"cvat"}}
    queue = make(images, labeled_elsewhere=lambda: elsewhere)
    assert numbers(queue.next("ada", TAB, 3)) == [1, 2]


def test_the_time_left_is_the_median_of_ones_own_answers_times_what_is_open(make: Callable[..., WorkQueue]):
    queue = make(10)
    assert queue.progress("ada").seconds_left is None
    for number, seconds in enumerate((1, 2, 30)):
        say(queue, number, "ada", milliseconds=1000 * seconds)
    assert queue.progress("ada").seconds_left == 2 * 7
    assert queue.progress("bob").seconds_left is None


def test_a_blob_that_is_no_answer_is_named_and_passed_over(tmp_path: Path):
    blobs = FsspecBlobStore(tmp_path)
    blobs.write("labeling/answers/0000/stray.json", b"{}")
    log = AnswerLog(blobs, 0)
    assert log.refresh() == []
    assert log.unreadable == ["labeling/answers/0000/stray.json"]


def test_ten_thousand_pictures_are_handed_out_without_a_pause(make: Callable[..., WorkQueue]):
    """The next picture costs a small part of reading the round, which is done once: no clock of the machine decides."""
    import time

    begun = time.perf_counter()
    queue = make(10_000)
    queue.next("ada", TAB, 6)
    reading = time.perf_counter() - begun
    begun = time.perf_counter()
    queue.next("ada", TAB, 6, have=[image(number).image_id for number in range(6)])
    queue.progress("ada")
    assert time.perf_counter() - begun < max(1.0, reading)


events = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from(["ada", "bob"]), st.sampled_from(["label", "unsure", "undo"])),
    max_size=30,
)


@settings(max_examples=60, deadline=None)
@given(events=events, order=st.randoms())
def test_what_stands_depends_on_the_answers_and_not_on_the_order_in_which_they_are_read(events, order):
    answers: list[Answer] = []
    for place, (number, annotator, kind) in enumerate(events):
        own = [one for one in answers if one.annotator == annotator and one.image_id == str(number)]
        if kind == "undo" and not own:
            continue
        answers.append(
            Answer(
                event_id=str(uuid4()),
                round=0,
                image_id=str(number),
                annotator=annotator,
                kind=kind,
                label="cat" if kind == "label" else None,
                undoes=own[-1].event_id if kind == "undo" else None,
                at=START + timedelta(seconds=place),
            )
        )
    shuffled = list(answers)
    order.shuffle(shuffled)
    assert standing_answers(shuffled + shuffled) == standing_answers(answers)


@settings(max_examples=60, deadline=None)
@given(events=events, overlap=st.integers(1, 2), cvat=st.sets(st.integers(0, 3)), order=st.randoms())
def test_progress_is_what_the_answers_amount_to(tmp_path_factory, events, overlap: int, cvat: set[int], order):
    """Counted anew from all answers, it is what was kept up to date with each."""
    clock, elsewhere = Clock(), {image(number).image_id: {"cvat"} for number in cvat}
    blobs = FsspecBlobStore(tmp_path_factory.mktemp("blobs"))
    how = {"lease": timedelta(minutes=10), "overlap": overlap, "now": clock, "labeled_elsewhere": lambda: elsewhere}
    images = [image(number) for number in range(4)]
    queue = WorkQueue(blobs, 0, images, **how)
    queue.refresh()
    for number, annotator, kind in events:
        own = [one for one in queue.log if one.annotator == annotator and one.image_id == image(number).image_id]
        if kind != "undo" or own:
            undone = {"undoes": order.choice(own).event_id} if kind == "undo" else {}
            say(queue, number, annotator, kind, milliseconds=1000, **undone)
    again = WorkQueue(blobs, 0, images, **how)
    again.refresh()
    for who in ("ada", "bob"):
        assert queue.progress(who) == again.progress(who)
        standing = {one.image_id for (_, name), one in standing_answers(queue.log).items() if name == who}
        assert queue.progress(who).mine == len(standing)
        assert len(queue.open_to(who, TAB)) <= queue.progress(who).open_to_me
    voices = {one: set(elsewhere.get(one, ())) for one in queue.images}
    for image_id, annotator in standing_answers(queue.log):
        voices[image_id].add(annotator)
    assert queue.progress("ada").settled == sum(len(voice) >= overlap for voice in voices.values())
    assert queue.is_done() == (queue.progress("ada").settled == 4)


def test_look_alikes_are_predicted_alike_and_the_densest_place_comes_first():
    import numpy as np

    generator = np.random.default_rng(0)
    ids = [f"{number:02d}" for number in range(40)]
    centres = np.eye(4)[[0, 1, 2, 3]]
    embeddings = {}
    for place, name in enumerate(ids):
        spread = 0.01 if place % 4 == 2 else 0.3
        vector = centres[place % 4] + generator.normal(0, spread, 4)
        embeddings[name] = (vector / np.linalg.norm(vector)).astype(np.float32)
    labels = {name: "ab"[place % 4 // 2] for place, name in enumerate(ids)}
    labels |= dict.fromkeys(ids[:4], "c")
    alike = look_alikes(ids, Predictions(labels=labels, embeddings=embeddings), most=6)
    assert len(alike) == len(set(alike)) == 6
    assert {int(name) % 4 for name in alike} == {2}
    assert look_alikes(ids, Predictions()) == []
