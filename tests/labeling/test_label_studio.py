"""Label Studio, a real one: whose project it is, in which order it asks, and what becomes of its bad days."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import numpy as np
import psutil
import pytest
from running_label_studio import INSTALL_SECONDS, RunningLabelStudio, installed_environment, label_studio
from running_page import CLASSES, log_predictions, picture_of, stage
from small_models import register_model

from al_cli.doctor import run_checks
from al_cli.label_studio_server import USER
from al_core.answers import standing
from al_core.images import content_id
from al_loop.prelabeling import refresh_predictions
from al_resources.labeling import LabelingError, Prediction
from al_resources.labeling.inbox import INBOX
from al_resources.labeling.merge import merge_export
from al_resources.labeling.projects.label_studio import PROJECT
from al_resources.labeling.projects.label_studio_client import TOKEN_VARIABLE, LabelStudioClient, ProjectGone
from al_resources.labeling.staging import MANIFEST, round_folder
from al_resources.platform import Platform
from al_resources.settings import LabelingSettings, Settings
from al_resources.settings.label_studio import LabelStudioSettings

pytestmark = pytest.mark.timeout(INSTALL_SECONDS)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningLabelStudio]:
    with label_studio(tmp_path_factory.mktemp("label-studio")) as running:
        yield running


@pytest.fixture
def title() -> str:
    return f"trial {uuid4()}"


def platform_at(tmp_path: Path, url: str, title: str, classes: tuple[str, ...] = CLASSES, **more: Any) -> Platform:
    labeling = LabelingSettings(project="label_studio", classes=classes)
    theirs = LabelStudioSettings(url=url, project=title, **more)
    return Platform(Settings(home=tmp_path / "home", labeling=labeling, label_studio=theirs))


@pytest.fixture
def platform(server: RunningLabelStudio, title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Platform:
    monkeypatch.setenv(TOKEN_VARIABLE, server.token)
    return platform_at(tmp_path, server.url, title)


def staged(platform: Platform, round_: int, *numbers: int) -> list[str]:
    """Pictures of a round that Label Studio was told of; their ids."""
    ids = stage(platform, round_, [picture_of(number) for number in numbers])
    platform.labeling.announce(round_)
    return ids


def task_of(server: RunningLabelStudio, title: str, image_id: str) -> dict[str, Any]:
    [task] = [one for one in server.tasks(title) if one["data"]["image_id"] == image_id]
    return task


def arrived(platform: Platform) -> dict[str, str]:
    platform.labeling.collect()
    for blob in platform.inbox.unmerged():
        merge_export(platform.inbox, blob.path)
    return dict(standing(platform.ledgers.read("labels")).select("image_id", "label").iter_rows())


def exports(platform: Platform) -> list[list[dict[str, Any]]]:
    files = [platform.blobs.read(blob.path).decode() for blob in platform.blobs.list(INBOX)]
    return [[json.loads(line) for line in file.splitlines()] for file in files]


def only_rows(platform: Platform) -> list[dict[str, Any]]:
    """Of the one export that a look brings."""
    before = len(exports(platform))
    [path] = platform.labeling.collect()
    assert len(exports(platform)) == before + 1
    return [json.loads(line) for line in platform.blobs.read(path).decode().splitlines()]


# ---------------------------------------------------------------------- what people see
@pytest.mark.slow
def test_people_get_the_pictures_themselves(platform: Platform, server: RunningLabelStudio, title: str):
    [image] = staged(platform, 0, 7)
    [task] = server.tasks(title)
    shown = httpx.get(
        f"{server.url}{task['data']['image']}", headers={"authorization": f"Token {server.token}"}, timeout=60
    )
    assert content_id(shown.content) == image
    assert httpx.get(f"{server.url}{task['data']['image']}", timeout=60).status_code in (401, 403, 302)


@pytest.mark.slow
def test_new_rounds_are_added_to_the_same_project(platform: Platform, server: RunningLabelStudio, title: str):
    staged(platform, 0, 0, 1)
    staged(platform, 1, 2)
    assert sorted(task["data"]["round"] for task in server.tasks(title)) == ["round-0000", "round-0000", "round-0001"]


@pytest.mark.slow
def test_class_names_may_hold_markup(server: RunningLabelStudio, title: str, tmp_path: Path, platform: Platform):
    odd = ("<b>\"cat\" & 'co'</b>", "größe")
    platform = platform_at(tmp_path, server.url, title, odd)
    [image] = staged(platform, 0, 0)
    server.annotate(task_of(server, title, image), odd[0])
    assert arrived(platform) == {image: odd[0]}


@pytest.mark.slow
def test_a_class_that_is_new_can_be_chosen_from_the_next_round_on(
    server: RunningLabelStudio, title: str, tmp_path: Path, platform: Platform
):
    [first] = staged(platform, 0, 0)
    server.annotate(task_of(server, title, first), "cat")
    wider = platform_at(tmp_path, server.url, title, (*CLASSES, "owl"))
    [second] = staged(wider, 1, 1)
    server.annotate(task_of(server, title, second), "owl")
    assert arrived(wider) == {first: "cat", second: "owl"}


# ---------------------------------------------------------------------- predictions
@pytest.mark.slow
def test_the_most_uncertain_picture_comes_first_and_its_prediction_stays_hidden(
    platform: Platform, server: RunningLabelStudio, title: str
):
    ids = staged(platform, 0, 0, 1, 2, 3)
    doubts = dict(zip(ids, (0.1, 0.9, 0.3, 0.6), strict=True))

    def say(wanted: Any) -> list[Prediction]:
        return [Prediction(one, "cat", doubts[one]) for one in wanted]

    assert platform.labeling.refresh(1, say) == 4
    project = server.project(title)
    assert project["show_collab_predictions"] is False
    asked = []
    for _ in ids:
        task = server.ask("GET", f"/api/projects/{project['id']}/next/")
        asked.append(task["data"]["image_id"])
        server.annotate(task, "dog")
    assert asked == sorted(ids, key=lambda one: -doubts[one])


@pytest.mark.slow
def test_a_new_version_takes_the_place_of_the_old_one_on_open_tasks(
    platform: Platform, server: RunningLabelStudio, title: str
):
    done, open_ = staged(platform, 0, 0, 1)
    assert platform.labeling.refresh(1, lambda ids: [Prediction(one, "cat", 0.5) for one in ids]) == 2
    server.annotate(task_of(server, title, done), "cat")
    assert platform.labeling.refresh(2, lambda ids: [Prediction(one, "fox", 0.5) for one in ids]) == 1
    assert platform.labeling.refresh(2, lambda ids: pytest.fail("asked again")) == 0
    assert server.project(title)["model_version"] == "classifier v2"
    [prediction] = task_of(server, title, open_)["predictions"]
    assert prediction["model_version"] == "classifier v2"
    assert prediction["result"][0]["value"] == {"choices": ["fox"]}


@pytest.mark.slow
def test_the_newest_model_is_asked_for_what_the_log_does_not_hold(
    server: RunningLabelStudio, title: str, tmp_path: Path, platform: Platform
):
    platform = platform_at(tmp_path, server.url, title, tuple("0123456789"))
    logged, unknown = staged(platform, 0, 0, 1)
    assert refresh_predictions(platform, print) == 0  # no model yet
    assert register_model(platform) == 1
    sure = np.zeros((1, 10), np.float32)
    sure[0, 3] = 1
    log_predictions(platform, [logged], sure, np.zeros((1, 4), np.float32), tuple("0123456789"))
    told: list[str] = []
    assert refresh_predictions(platform, told.append) == 2
    assert "2 open images" in told[0]
    [prediction] = task_of(server, title, logged)["predictions"]
    assert (prediction["result"][0]["value"]["choices"], prediction["score"]) == (["3"], 1.0)
    [asked] = task_of(server, title, unknown)["predictions"]
    assert 0 <= asked["score"] <= 1


# ---------------------------------------------------------------------- answers
@pytest.mark.slow
def test_an_answer_sent_twice_counts_once_and_a_changed_mind_counts(
    platform: Platform, server: RunningLabelStudio, title: str
):
    [image] = staged(platform, 0, 0)
    task = task_of(server, title, image)
    server.annotate(task, "cat")
    twice = server.annotate(task, "cat")
    [row] = only_rows(platform)
    assert (row["label"], row["annotator"].partition("@")[1], row["annotation_seconds"]) == (["cat"], "@", 1.5)
    assert arrived(platform) == {image: "cat"}
    assert platform.ledgers.read("labels").height == 1
    twice["result"][0]["value"]["choices"] = ["dog"]
    server.ask("PATCH", f"/api/annotations/{twice['id']}/", json={"result": twice["result"]})
    assert arrived(platform) == {image: "dog"}


@pytest.mark.slow
def test_a_deleted_annotation_is_taken_back(platform: Platform, server: RunningLabelStudio, title: str):
    [image] = staged(platform, 0, 0)
    said = server.annotate(task_of(server, title, image), "cat")
    assert arrived(platform) == {image: "cat"}
    server.ask("DELETE", f"/api/annotations/{said['id']}/")
    assert arrived(platform) == {}
    assert platform.labeling.status(0).labeled == 0


@pytest.mark.slow
def test_a_skipped_task_is_an_answer_without_a_class(platform: Platform, server: RunningLabelStudio, title: str):
    image, other = staged(platform, 0, 0, 1)
    server.annotate(task_of(server, title, image), None)
    assert arrived(platform) == {}
    assert platform.ledgers.read("labels")["outcome"].to_list() == ["skip"]
    status = platform.labeling.status(0)
    assert (status.total, status.labeled, status.skipped) == (2, 0, 1)
    assert other not in set(platform.ledgers.read("labels")["image_id"])


@pytest.mark.slow
def test_a_look_begins_where_the_last_one_ended(
    platform: Platform, server: RunningLabelStudio, title: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("al_resources.labeling.projects.label_studio.LATE", timedelta())
    ids = staged(platform, 0, *range(6))
    for image in ids[:3]:
        server.annotate(task_of(server, title, image), "cat")
    assert len(only_rows(platform)) == 3
    read: list[int] = []
    tasks = LabelStudioClient.tasks

    def counted(self: LabelStudioClient, *args: Any, **more: Any) -> Iterator[dict[str, Any]]:
        for task in tasks(self, *args, **more):
            read.append(task["id"])
            yield task

    monkeypatch.setattr(LabelStudioClient, "tasks", counted)
    fresh = Platform(platform.settings)  # another process
    time.sleep(1.1)  # the server tells its time in seconds
    server.annotate(task_of(server, title, ids[5]), "dog")
    assert [row["image_url"] for row in only_rows(fresh)] == [ids[5]]
    assert len(read) <= 4  # those of the second in which the last look was, and the new one
    assert Platform(platform.settings).labeling.collect() == []


@pytest.mark.slow
def test_a_look_that_has_no_time_left_goes_on_at_the_next(
    server: RunningLabelStudio, title: str, tmp_path: Path, platform: Platform, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("al_resources.labeling.projects.label_studio.LATE", timedelta(days=-1))
    hasty = platform_at(tmp_path, server.url, title, poll_seconds=1e-9)
    ids = staged(hasty, 0, *range(4))
    for image in ids:
        server.annotate(task_of(server, title, image), "cat")
    looks = 0
    while len(standing(hasty.ledgers.read("labels"))) < 4:
        arrived(Platform(hasty.settings))
        looks += 1
        assert looks <= 8, "the looks come to nothing"
    assert looks > 1


@pytest.mark.slow
def test_a_cursor_that_was_lost_costs_a_second_look_and_changes_nothing(
    platform: Platform, server: RunningLabelStudio, title: str
):
    [image] = staged(platform, 0, 0)
    server.annotate(task_of(server, title, image), "cat")
    assert arrived(platform) == {image: "cat"}
    [cursor] = [blob.path for blob in platform.blobs.list("labeling/label_studio") if "cursor" in blob.path]
    platform.blobs.delete(cursor)  # as if killed between export and cursor
    assert arrived(Platform(platform.settings)) == {image: "cat"}
    assert platform.ledgers.read("labels").height == 1


@pytest.mark.slow
def test_what_is_corrupt_is_left_out_by_name(
    platform: Platform, server: RunningLabelStudio, title: str, caplog: pytest.LogCaptureFixture
):
    ids = stage(platform, 0, [picture_of(0), picture_of(1)])
    manifest = f"{round_folder(0)}/{MANIFEST}"
    told = json.loads(platform.blobs.read(manifest))
    told["images"][0]["file_name"] = f"{ids[0]}.tiff"  # no browser shows it, so it is converted: here there is nothing
    platform.blobs.write(manifest, json.dumps(told).encode())
    platform.blobs.write(f"{round_folder(0)}/{ids[0]}.tiff", b"no picture")
    platform.labeling.announce(0)
    assert [task["data"]["image_id"] for task in server.tasks(title)] == [ids[1]]
    assert ids[0] in caplog.text


# ---------------------------------------------------------------------- whose project
@pytest.mark.slow
def test_a_project_of_that_title_is_adopted_with_its_own_names(
    platform: Platform, server: RunningLabelStudio, title: str
):
    choices = "".join(f'<Choice value="{name}"/>' for name in (*CLASSES, "other"))
    theirs = (
        f'<View><Image name="pic" value="$photo"/><Choices name="what" toName="pic" required="true">{choices}</Choices>'
        '<TextArea name="remark" toName="pic"/></View>'
    )
    made = server.ask("POST", "/api/projects/", json={"title": title, "label_config": theirs})
    [image] = staged(platform, 0, 0)
    assert server.project(title)["id"] == made["id"]
    assert server.project(title)["label_config"] == theirs
    task = task_of(server, title, image)
    assert task["data"]["photo"].endswith(".png")
    assert platform.labeling.refresh(1, lambda ids: [Prediction(one, "cat", 0.5) for one in ids]) == 1
    [prediction] = task_of(server, title, image)["predictions"]
    assert prediction["result"][0]["from_name"] == "what"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("controls", "word"),
    [
        (
            '<Image name="i" value="$image"/><Choices name="c" toName="i"><Choice value="cat"/></Choices>',
            "for dog, fox",
        ),
        ("", "no <Choices>"),
    ],
)
def test_an_adopted_project_that_lacks_our_classes_is_refused_and_left_as_it_is(
    platform: Platform, server: RunningLabelStudio, title: str, controls: str, word: str
):
    interface = f"<View>{controls}</View>"
    server.ask("POST", "/api/projects/", json={"title": title, "label_config": interface})
    stage(platform, 0, [picture_of(0)])
    with pytest.raises(LabelingError, match=word):
        platform.labeling.announce(0)
    assert server.project(title)["label_config"] == interface
    assert server.tasks(title) == []


@pytest.mark.slow
def test_a_deleted_project_is_told_and_made_anew_at_the_next_round(
    platform: Platform, server: RunningLabelStudio, title: str
):
    answered, open_ = staged(platform, 0, 0, 1)
    server.annotate(task_of(server, title, answered), "cat")
    assert arrived(platform) == {answered: "cat"}
    server.ask("DELETE", f"/api/projects/{server.project(title)['id']}/")
    for ask in (platform.labeling.collect, lambda: platform.labeling.status(0)):
        with pytest.raises(ProjectGone, match="somebody deleted it"):
            ask()
    [new] = staged(platform, 1, 2)
    assert {task["data"]["image_id"] for task in server.tasks(title)} == {open_, new}
    server.annotate(task_of(server, title, open_), "dog")
    assert arrived(platform) == {answered: "cat", open_: "dog"}


# ---------------------------------------------------------------------- tokens, and a server on a bad day
@pytest.mark.slow
def test_a_personal_access_token_is_exchanged(
    platform: Platform, server: RunningLabelStudio, title: str, monkeypatch: pytest.MonkeyPatch
):
    personal = server.ask("POST", "/api/token/")["token"]
    assert personal.count(".") == 2
    try:
        monkeypatch.setenv(TOKEN_VARIABLE, personal)
        [image] = staged(platform, 0, 0)
        platform.labeling._client._access = "taken.back.before"  # type: ignore[attr-defined]
        assert platform.labeling.status(0).total == 1
        server.annotate(task_of(server, title, image), "cat")
        assert arrived(platform) == {image: "cat"}
    finally:  # a user has one at a time
        server.ask("POST", "/api/token/blacklist/", json={"refresh": personal})


@pytest.mark.slow
@pytest.mark.parametrize("token", ["0" * 40, "a.b.c"])
def test_a_wrong_token_is_told_as_one(
    platform: Platform, server: RunningLabelStudio, token: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(TOKEN_VARIABLE, token)
    stage(platform, 0, [picture_of(0)])
    with pytest.raises(LabelingError, match=TOKEN_VARIABLE) as told:
        platform.labeling.announce(0)
    assert token not in str(told.value)


@pytest.fixture
def nowhere(tmp_path: Path, title: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[socket.socket, Platform]]:
    """A port where nobody answers, and a platform whose project is said to be there."""
    monkeypatch.setenv(TOKEN_VARIABLE, "0" * 40)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        platform = platform_at(tmp_path, url, title, timeout_seconds=0.3)
        platform.blobs.write(PROJECT, json.dumps({"url": url, "id": 1, "made": True}).encode())
        stage(platform, 0, [picture_of(0)])
        yield listener, platform


def test_a_server_that_is_slow_or_down_is_told_as_such_and_stops_no_training(
    nowhere: tuple[socket.socket, Platform], monkeypatch: pytest.MonkeyPatch
):
    listener, platform = nowhere
    with pytest.raises(LabelingError, match=r"did not answer .* within 0.3 s"):
        platform.labeling.collect()
    listener.close()
    with pytest.raises(LabelingError, match="out of reach"):
        platform.labeling.collect()
    [check] = [one for one in run_checks(platform.settings) if one["name"] == "labeling"]
    assert not check["ok"]
    assert "out of reach" in check["detail"]
    monkeypatch.setattr(type(platform.registry), "versions", lambda self: [1])
    told: list[str] = []
    assert refresh_predictions(platform, told.append) == 0
    assert "keeps the predictions it has" in told[0]


def test_what_answers_and_is_no_label_studio_is_told(nowhere: tuple[socket.socket, Platform]):
    listener, platform = nowhere

    def answer() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(10_000)
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\nhey!")

    thread = threading.Thread(target=answer)
    thread.start()
    with pytest.raises(LabelingError, match="is it a Label Studio"):
        platform.labeling.collect()
    thread.join(5)


def test_without_a_token_or_classes_it_says_what_to_do(tmp_path: Path, title: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    platform = platform_at(tmp_path, "http://127.0.0.1:9", title)
    stage(platform, 0, [picture_of(0)])
    with pytest.raises(LabelingError, match=TOKEN_VARIABLE):
        platform.labeling.announce(0)
    assert platform.labeling.collect() == []  # nothing was announced: nothing can have been answered


# ---------------------------------------------------------------------- one of our own
@pytest.mark.slow
@pytest.mark.live
def test_al_label_runs_one_that_listens_here_lets_nobody_sign_up_and_ends_with_the_command(tmp_path: Path):
    home = tmp_path / "home"
    (home / "label-studio").mkdir(parents=True)
    (home / "label-studio" / "environment").symlink_to(installed_environment())
    command = [sys.executable, "-m", "al_cli.main", "label", "--with", "label-studio", "--port", "0"]
    environment = os.environ | {"AL_HOME": str(home), "COLUMNS": "200"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            told = list(iter(process.stdout.readline, "Ctrl-C ends it\n"))
            assert told[-1].startswith("and start Dagster"), told
            url = next(word for line in told for word in line.split() if word.startswith("http://127.0.0.1:"))
            token_file, password_file = (home / "label-studio" / "data" / name for name in ("token", "password"))
            secrets = [file.read_text() for file in (token_file, password_file)]
            assert not [line for line in told if any(secret in line for secret in secrets)]
            assert [file.stat().st_mode & 0o777 for file in (token_file, password_file)] == [0o600, 0o600]
            client = LabelStudioClient(url, secrets[0], 60)
            assert list(client.users().values()) == [USER]
            port = int(url.rpartition(":")[2])
            listening = {one.laddr.ip for one in psutil.net_connections("tcp") if one.laddr and one.laddr.port == port}
            assert listening == {"127.0.0.1"}
            with httpx.Client(base_url=url, timeout=60) as stranger:
                form = stranger.get("/user/signup/")
                sent = {"email": "eve@example.org", "password": "123456789", "csrfmiddlewaretoken": "x"}
                token = form.cookies.get("csrftoken", "")
                stranger.post(
                    "/user/signup/", data=sent | {"csrfmiddlewaretoken": token}, headers={"x-csrftoken": token}
                )
            assert list(client.users().values()) == [USER]
        finally:
            process.kill()  # nobody cleans up after that: what it started ends by itself
    deadline = time.monotonic() + 60
    while any(one.laddr and one.laddr.port == port for one in psutil.net_connections("tcp") if one.status == "LISTEN"):
        assert time.monotonic() < deadline, "the server lives on"
        time.sleep(0.2)
