"""What every labeling tool has to do behind the port, whoever answers and however the answers come back."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol
from uuid import uuid4

import pytest
from running_label_studio import INSTALL_SECONDS, RunningLabelStudio, label_studio
from running_page import CLASSES, picture_of, stage

from al_core.answers import standing
from al_core.records import utc_now
from al_resources.labeling import LabelingProject
from al_resources.labeling.answers import Answer, AnswerLog
from al_resources.labeling.inbox import INBOX
from al_resources.labeling.merge import merge_export
from al_resources.labeling.projects.label_studio_client import TOKEN_VARIABLE
from al_resources.labeling.staging import staged_images
from al_resources.platform import Platform
from al_resources.settings import LabelingSettings, Settings
from al_resources.settings.label_studio import LabelStudioSettings
from al_resources.settings.labeling_page import LabelingPageSettings


class People(Protocol):
    """Those who answer with one tool."""

    def __init__(self, platform: Platform) -> None: ...

    def answer(self, round_: int, labels: Mapping[str, str]) -> None:
        """Say these labels, and release them."""


class OracleKnows:
    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        self.known: dict[str, str] = {}

    def answer(self, round_: int, labels: Mapping[str, str]) -> None:
        self.known |= labels
        Path(self.platform.settings.labeling.oracle_labels).write_text(json.dumps(self.known))
        fresh = Platform(self.platform.settings)
        fresh.labeling.answer(round_)  # type: ignore[attr-defined]


class PeopleWithAnotherTool:
    def __init__(self, platform: Platform) -> None:
        self.platform = platform

    def answer(self, round_: int, labels: Mapping[str, str]) -> None:
        names = {image.image_id: image.file_name for image in staged_images(self.platform.blobs, round_)}
        rows = ["image,label", *(f"{names[image]},{label}" for image, label in labels.items()), ""]
        self.platform.blobs.write(f"{INBOX}/theirs-{uuid4()}.csv", "\n".join(rows).encode())


class PeopleOnThePage:
    def __init__(self, platform: Platform) -> None:
        self.platform = platform

    def answer(self, round_: int, labels: Mapping[str, str]) -> None:
        log = AnswerLog(self.platform.blobs, round_)
        for image_id, label in labels.items():
            said = {"image_id": image_id, "annotator": "ada", "kind": "label", "label": label}
            log.append(Answer(event_id=str(uuid4()), round=round_, at=utc_now(), milliseconds=800, **said))  # type: ignore[arg-type]


class PeopleInLabelStudio:
    def __init__(self, platform: Platform) -> None:
        settings = platform.settings.label_studio
        self.server = RunningLabelStudio(settings.url, os.environ[TOKEN_VARIABLE])
        self.title = settings.project

    def answer(self, round_: int, labels: Mapping[str, str]) -> None:
        for task in self.server.tasks(self.title):
            if task["data"]["round"] == f"round-{round_:04d}" and task["data"]["image_id"] in labels:
                self.server.annotate(task, labels[task["data"]["image_id"]])


TOOLS: dict[str, type[People]] = {
    "oracle": OracleKnows,
    "manual": PeopleWithAnotherTool,
    "page": PeopleOnThePage,
    "label_studio": PeopleInLabelStudio,
}


SLOW = (pytest.mark.slow, pytest.mark.timeout(INSTALL_SECONDS))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningLabelStudio]:
    with label_studio(tmp_path_factory.mktemp("label-studio")) as running:
        yield running


@pytest.fixture(params=[pytest.param(one, marks=SLOW if one == "label_studio" else ()) for one in TOOLS])
def tool(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def open_platform(
    tool: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], Platform]:
    """The platform as a new process opens it."""
    theirs = LabelStudioSettings()
    if tool == "label_studio":
        running = request.getfixturevalue("server")
        monkeypatch.setenv(TOKEN_VARIABLE, running.token)
        theirs = LabelStudioSettings(url=running.url, project=f"contract {uuid4()}")
    labeling = LabelingSettings(project=tool, classes=CLASSES, oracle_labels=str(tmp_path / "truth.json"))  # type: ignore[arg-type]
    page = LabelingPageSettings(auto_release=True)
    settings = Settings(home=tmp_path / "home", labeling=labeling, labeling_page=page, label_studio=theirs)
    return lambda: Platform(settings)


@pytest.fixture
def people(tool: str, open_platform: Callable[[], Platform]) -> People:
    return TOOLS[tool](open_platform())


def arrived(platform: Platform) -> dict[str, str]:
    """Merge what lies in the inbox once the tool was asked; image id -> label as the ledger knows it."""
    platform.labeling.collect()
    for blob in platform.inbox.unmerged():
        merge_export(platform.inbox, blob.path)
    return dict(standing(platform.ledgers.read("labels")).select("image_id", "label").iter_rows())


@contextmanager
def announced(platform: Platform, round_: int, first: int, count: int) -> Iterator[list[str]]:
    ids = stage(platform, round_, [picture_of(number) for number in range(first, first + count)])
    platform.labeling.announce(round_)
    yield ids


def counts(project: LabelingProject, round_: int) -> tuple[int, int]:
    status = project.status(round_)
    return status.total, status.labeled


def test_what_people_say_of_a_round_arrives_once(open_platform: Callable[[], Platform], people: People):
    platform = open_platform()
    with announced(platform, 0, 0, 3) as ids:
        assert counts(platform.labeling, 0) == (3, 0)
        assert arrived(platform) == {}
        said = dict(zip(ids, CLASSES, strict=True))
        people.answer(0, said)
        assert arrived(open_platform()) == said
        assert counts(open_platform().labeling, 0) == (3, 3)
        rows = platform.ledgers.read("labels").height
        for _ in range(3):
            assert arrived(open_platform()) == said
        assert platform.ledgers.read("labels").height == rows


def test_a_round_that_is_announced_again_changes_nothing(open_platform: Callable[[], Platform], people: People):
    platform = open_platform()
    with announced(platform, 0, 0, 2) as ids:
        people.answer(0, dict.fromkeys(ids, "cat"))
        platform.labeling.announce(0)
        open_platform().labeling.announce(0)
        assert arrived(open_platform()) == dict.fromkeys(ids, "cat")
        assert counts(open_platform().labeling, 0) == (2, 2)


def test_rounds_are_told_apart(open_platform: Callable[[], Platform], people: People):
    platform = open_platform()
    with announced(platform, 0, 0, 2) as first, announced(platform, 1, 2, 3) as second:
        people.answer(1, dict.fromkeys(second, "dog"))
        assert arrived(open_platform()) == dict.fromkeys(second, "dog")
        people.answer(0, dict.fromkeys(first, "fox"))
        assert arrived(open_platform()) == dict.fromkeys(second, "dog") | dict.fromkeys(first, "fox")
        assert counts(open_platform().labeling, 0) == (2, 2)
        assert counts(open_platform().labeling, 1) == (3, 3)
        labels = platform.ledgers.read("labels")
        assert dict(labels.select("image_id", "round").iter_rows()) == dict.fromkeys(first, 0) | dict.fromkeys(
            second, 1
        )


def test_a_round_that_is_not_staged_is_named(open_platform: Callable[[], Platform]):
    with pytest.raises(FileNotFoundError, match="0007"):
        open_platform().labeling.status(7)
