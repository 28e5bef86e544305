"""The labeling page over real HTTP: who may come in, what is refused, several people, lost answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import numpy as np
import pytest
from running_page import Client, log_predictions, page_of, picture_of, stage

from al_cli.dagster_process import free_port
from al_labeling.guard import Guard, Refused, checked_name, page_secret
from al_resources.labeling.answers import AnswerLog
from al_resources.labeling.merge import merge_export
from al_resources.platform import Platform
from al_resources.settings.labeling_page import LabelingPageSettings

MakePlatform = Callable[..., Platform]


# ---------------------------------------------------------------- who may come in
def test_a_link_lets_one_browser_in_by_a_cookie_that_scripts_and_other_sites_cannot_use(make_platform: MakePlatform):
    platform = make_platform()
    stage(platform, 0, [picture_of(0)])
    with page_of(platform) as page, httpx.Client(base_url=page.address) as http:
        assert http.get("/api/session").status_code == 401
        answer = http.get(page.link())
        cookie = answer.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert "token" not in answer.text
        assert http.get("/api/session").json()["name"] == "ada"


def test_a_link_is_for_the_name_in_it_and_no_other(make_platform: MakePlatform):
    with page_of(make_platform()) as page, httpx.Client(base_url=page.address) as http:
        forged = page.link("ada").replace("name=ada", "name=bob")
        assert http.get(forged).status_code == 403
        assert http.get("/enter", params={"name": "ada", "token": "é"}).status_code == 403
        assert http.get("/api/session").status_code == 401


def test_a_cookie_ends_after_a_month_and_cannot_be_forged():
    now = [1_000_000.0]
    guard = Guard(LabelingPageSettings(), b"secret", now=lambda: now[0])
    cookie = guard.enter("ada", guard.link("", "ada").rpartition("token=")[2])
    assert guard._of_cookie(cookie) == "ada"
    for forged in ("", "1.2", cookie.replace(cookie[:5], "99999"), cookie[:-1] + "x", "é.é.é"):
        with pytest.raises(Refused):
            guard._of_cookie(forged)
    now[0] += 31 * 24 * 3600
    with pytest.raises(Refused, match="open the link"):
        guard._of_cookie(cookie)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example"}, 421),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"x-al-page": None}, 403),
    ],
)
def test_other_hosts_other_sites_and_forms_are_refused(make_platform: MakePlatform, headers, status: int):
    platform = make_platform()
    stage(platform, 0, [picture_of(0)])
    with page_of(platform) as page:
        client = page.client()
        for name, value in headers.items():
            client.http.headers.pop(name, None)
            if value is not None:
                client.http.headers[name] = value
        assert client.post("next", want=1).status_code == status
    assert list(platform.blobs.list("labeling/leases")) == []


def test_the_login_of_azure_counts_only_where_it_is_switched_on_and_only_through_it(make_platform: MakePlatform):
    vouched = {"x-ms-client-principal-name": "ada@example.org", "x-ms-client-principal-idp": "aad"}
    with page_of(make_platform()) as page:
        assert httpx.get(f"{page.address}/api/session", headers=vouched).status_code == 401
    with page_of(make_platform(login="entra")) as page:
        assert httpx.get(f"{page.address}/api/session").status_code == 401
        assert httpx.get(f"{page.address}/api/session", headers=vouched).json()["name"] == "ada@example.org"
        other = vouched | {"x-ms-client-principal-idp": "github"}
        assert httpx.get(f"{page.address}/api/session", headers=other).status_code == 401
    with page_of(make_platform(login="entra", trusted_proxies=("10.0.0.0/8",))) as page:
        answer = httpx.get(f"{page.address}/api/session", headers=vouched | {"x-forwarded-for": "10.0.0.1"})
        assert answer.status_code == 403


def test_a_name_that_the_login_sends_with_markup_in_it_is_a_name_and_one_that_is_none_is_refused(
    make_platform: MakePlatform,
):
    vouched = {"x-ms-client-principal-idp": "aad", "x-ms-client-principal-name": "<script>alert(1)</script>"}
    with page_of(make_platform(login="entra")) as page:
        answer = httpx.get(f"{page.address}/api/session", headers=vouched)
        assert answer.json()["name"] == "<script>alert(1)</script>"
        assert answer.headers["content-type"] == "application/json"  # never shown as a page
        too_long = vouched | {"x-ms-client-principal-name": "x" * 300}
        assert httpx.get(f"{page.address}/api/session", headers=too_long).status_code == 400


def test_the_page_is_the_same_on_two_machines_with_one_secret_and_the_file_is_its_owners(tmp_path: Path):
    given = LabelingPageSettings(secret="shared")  # type: ignore[arg-type]
    assert page_secret(given, tmp_path / "a") == page_secret(given, tmp_path / "b") == b"shared"
    made = page_secret(LabelingPageSettings(), tmp_path)
    assert made == page_secret(LabelingPageSettings(), tmp_path)
    assert len(made) == 64
    [file] = tmp_path.iterdir()
    assert file.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("name", ["", "   ", "a\nb", "x" * 201, "\x00"])
def test_a_name_is_something_that_can_be_read(name: str):
    with pytest.raises(Refused):
        checked_name(name)


def test_no_path_of_a_request_leads_anywhere(make_platform: MakePlatform):
    platform = make_platform()
    stage(platform, 0, [picture_of(0)])
    with page_of(platform) as page:
        client = page.client()
        [shown] = client.next()
        assert client.http.get(f"/picture/{shown}").status_code == 200
        for path in (
            "/picture/0-..%2f..%2fal.toml",
            "/picture/..%2f..%2fetc%2fpasswd",
            f"/picture/1-{shown[2:]}",
            "/picture/0-" + "0" * 32,
            "/static/page.html",
            "/page.js/../../app.py",
        ):
            assert client.http.get(path).status_code == 404
        client.http.cookies.clear()
        assert client.http.get(f"/picture/{shown}").status_code == 401


def test_who_labels_sees_neither_reason_nor_model_nor_name_of_a_file(make_platform: MakePlatform):
    platform = make_platform()
    [image] = stage(platform, 0, [picture_of(0)], ["control"])
    with page_of(platform) as page:
        text = page.client().post("next", want=1).text
    assert image not in text
    assert "control" not in text
    assert "margin" not in text


# ---------------------------------------------------------------- bad input
def test_a_label_for_a_picture_of_another_round_is_told_and_the_others_are_kept(make_platform: MakePlatform):
    platform = make_platform()
    stage(platform, 0, [picture_of(0), picture_of(1)])
    stage(platform, 1, [picture_of(2)])
    with page_of(platform) as page:
        client = page.client()
        [first] = client.next()
        [other] = client.next(round=1)
        sent = [
            {"event_id": str(uuid4()), "picture": picture, "kind": "label", "label": "cat"}
            for picture in (other, first)
        ]
        reply = client.post("answers", answers=sent).json()
    assert list(reply["refused"]) == [sent[0]["event_id"]]
    assert reply["kept"] == [sent[1]["event_id"]]


@pytest.mark.parametrize(
    "change",
    [
        {"label": "unicorn"},
        {"label": None},
        {"kind": "undo", "undoes": None},
        {"kind": "undo", "undoes": str(uuid4())},
    ],
)
def test_an_answer_that_makes_no_sense_is_refused_with_its_reason(make_platform: MakePlatform, change):
    platform = make_platform()
    stage(platform, 0, [picture_of(0)])
    with page_of(platform) as page:
        client = page.client()
        [shown] = client.next()
        reply = client.answer(shown, **change)
        assert list(reply["refused"]) == [reply["event_id"]]
    assert list(platform.blobs.list("labeling/answers")) == []


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{", b'{"round": -1}', b'{"round": 0, "tab": "../../x", "want": 1}', b"[" * 5000, b"x" * 2_000_000],
)
def test_a_body_that_is_none_is_refused(make_platform: MakePlatform, body: bytes):
    platform = make_platform()
    stage(platform, 0, [picture_of(0)])
    with page_of(platform) as page:
        assert page.client().http.post("/api/next", content=body).status_code in (400, 413)


def test_nobody_takes_back_what_another_said(make_platform: MakePlatform):
    platform = make_platform(overlap=2)
    stage(platform, 0, [picture_of(0)])
    with page_of(platform) as page:
        ada, bob = page.client("ada"), page.client("bob")
        [shown] = ada.next()
        said = ada.answer(shown)["event_id"]
        reply = bob.answer(shown, None, "undo", undoes=said)
        assert reply["refused"]


# ---------------------------------------------------------------- several people
def test_eight_people_at_once_label_four_hundred_distinct_pictures(make_platform: MakePlatform):
    platform = make_platform()
    stage(platform, 0, [picture_of(number, 16) for number in range(400)])
    with page_of(platform) as page:

        def work(person: int) -> list[str]:
            client = page.client(f"person {person}")
            done: list[str] = []
            while len(done) < 50:
                for shown in client.next(min(5, 50 - len(done))):
                    client.answer(shown, "dog")
                    done.append(shown)
            return done

        with ThreadPoolExecutor(8) as people:
            done = [shown for shown_to in people.map(work, range(8)) for shown in shown_to]
        assert len(set(done)) == len(done) == 400
        assert page.client().session()["progress"]["settled"] == 400


def test_two_replicas_on_one_store_give_no_picture_twice(make_platform: MakePlatform):
    platform = make_platform(secret="shared")
    stage(platform, 0, [picture_of(number, 16) for number in range(60)])
    other = Platform(platform.settings)
    with page_of(platform) as here, page_of(other) as there:
        clients = [here.client("ada"), there.client("bob"), here.client("cid"), there.client("dee")]
        seen: list[str] = []
        lock = threading.Lock()

        def work(client: Client) -> None:
            while shown := client.next(3):
                for one in shown:
                    client.answer(one, "fox")
                with lock:
                    seen.extend(shown)

        with ThreadPoolExecutor(4) as people:
            list(people.map(work, clients))
        assert sorted(seen) == sorted(set(seen))
        assert len(seen) == 60
        answers = AnswerLog(platform.blobs, 0)
        assert len(answers.refresh()) == 60


def test_a_late_answer_after_the_release_comes_with_the_next_one(make_platform: MakePlatform):
    platform = make_platform()
    ids = stage(platform, 0, [picture_of(0), picture_of(1)])
    with page_of(platform) as page:
        client = page.client()
        first, second = client.next(2)
        client.answer(first, "cat")
        early = client.post("release").json()["released"]
        assert client.post("release").json()["released"] == early | {"new": False}
        client.answer(second, "dog")
        late = client.post("release").json()["released"]
    assert (early["labels"], late["labels"]) == (1, 2)
    merges = [merge_export(platform.inbox, path) for path in (early["path"], late["path"])]
    assert [merge.new_labels for merge in merges] == [1, 1]
    assert set(platform.ledgers.read("labels")["image_id"]) == set(ids)


def test_a_round_is_released_by_itself_when_the_last_picture_is_answered(make_platform: MakePlatform):
    platform = make_platform(auto_release=True)
    stage(platform, 0, [picture_of(0), picture_of(1)])
    with page_of(platform) as page:
        client = page.client()
        first, second = client.next(2)
        assert "released" not in client.answer(first)
        assert client.answer(second, None, "unsure")["released"]["labels"] == 1
    assert len(list(platform.blobs.list("labeling/exports"))) == 1
    assert platform.labeling.collect() == []


def test_a_page_that_died_before_its_release_is_made_up_for_by_the_sensor(make_platform: MakePlatform):
    platform = make_platform()
    stage(platform, 0, [picture_of(0)])
    with page_of(platform) as page:
        client = page.client()
        client.answer(client.next()[0])
    assert platform.labeling.collect() == []  # nobody asked for it
    [path] = make_platform(auto_release=True).labeling.collect()
    assert json.loads(platform.blobs.read(path))["label"] == "cat"


# ---------------------------------------------------------------- large
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ten_thousand_pictures_and_a_thousand_classes_keep_nobody_waiting(make_platform: MakePlatform):
    """Once the round is read, an answer and the next picture come as quickly as with ten pictures."""
    names = tuple(f"species {number:03d}" for number in range(1_000))
    times: dict[str, list[float]] = {}

    def timed(what: str, ask: Callable[[], Any]) -> Any:
        begun = time.perf_counter()
        reply = ask()
        times.setdefault(what, []).append(time.perf_counter() - begun)
        return reply

    platform = make_platform(classes=names)
    ids = stage(platform, 0, [picture_of(number, 16) for number in range(10_000)])
    spots = np.random.default_rng(0).normal(0, 1, (10_000, 64)).astype(np.float32)
    probs = np.full((10_000, 3), 0.1, np.float32)
    probs[np.arange(10_000), np.arange(10_000) % 3] = 0.8
    log_predictions(platform, ids, probs, spots)
    with page_of(platform) as page:
        client = page.client()
        session = timed("first session", client.session)
        assert (session["progress"]["total"], len(session["classes"])) == (10_000, 1_000)
        shown: list[str] = []
        for number in range(100):
            shown += timed("next", lambda: client.next(7, tuple(shown[number:])))  # noqa: B023
            reply = timed("answer", lambda: client.answer(shown[number], names[number * 7]))  # noqa: B023
            assert reply["kept"]
        for _ in range(3):
            screen = timed("grid", lambda: client.post("grid", want=24, have=[]).json()["pictures"])
            assert len(screen) == 24
        assert timed("release", lambda: client.post("release").json())["released"]["labels"] == 100
    told = {what: (np.median(seconds), max(seconds)) for what, seconds in times.items()}
    print({what: f"median {1000 * median:.0f} ms, most {1000 * most:.0f} ms" for what, (median, most) in told.items()})
    assert told["answer"][0] < 0.2
    assert told["next"][0] < 0.4
    assert told["grid"][0] < 5
    assert told["first session"][0] < 30
    assert told["release"][0] < 10


# ---------------------------------------------------------------- killed
@pytest.mark.live
@pytest.mark.slow
def test_a_page_killed_twenty_times_loses_no_answer_and_keeps_none_twice(make_platform: MakePlatform, tmp_path: Path):
    platform = make_platform()
    pictures = 40
    stage(platform, 0, [picture_of(number, 16) for number in range(pictures)])
    port = free_port(0)
    config = tmp_path / "al.toml"
    config.write_text(
        f'home = "home"\n[labeling]\nproject = "page"\nclasses = ["cat"]\n[labeling_page]\nport = {port}\n'
    )
    guard = Guard(platform.settings.labeling_page, page_secret(platform.settings.labeling_page, tmp_path / "home"))
    address = f"http://127.0.0.1:{port}"
    acknowledged: list[str] = []
    kills = 0

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "al_cli.main", "--config", str(config), "label"],
            stdout=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    server = start()
    try:
        client = _entered(address, guard)
        for place, shown in enumerate(_all_pictures(client, pictures)):
            sent = {"event_id": str(uuid4()), "picture": shown, "kind": "label", "label": "cat"}
            victim = server if place % 2 else None
            if victim:
                killer = threading.Timer(0.001 * (place % 13), victim.kill)
                killer.start()
                kills += 1
            while True:  # what the page's outbox does: send it until it is acknowledged
                try:
                    assert client.post("answers", answers=[sent]).json()["kept"] == [sent["event_id"]]
                    break
                except httpx.TransportError:
                    server.wait(10)
                    server, client = _restarted(start, address, guard)
            acknowledged.append(sent["event_id"])
            if victim:
                killer.join()
                if server is victim:  # it was killed after it had answered
                    server.wait(10)
                    server, client = _restarted(start, address, guard)
    finally:
        server.kill()
        server.wait(10)
    log = AnswerLog(platform.blobs, 0)
    log.refresh()
    assert kills == 20
    assert sorted(answer.event_id for answer in log) == sorted(acknowledged)
    assert len({answer.image_id for answer in log}) == pictures


def _restarted(
    start: Callable[[], subprocess.Popen[bytes]], address: str, guard: Guard
) -> tuple[subprocess.Popen[bytes], Client]:
    server = start()
    return server, _entered(address, guard)


def _entered(address: str, guard: Guard) -> Client:
    deadline = time.monotonic() + 30
    while True:
        try:
            return Client(address, guard.link(address, "ada"))
        except httpx.TransportError:
            assert time.monotonic() < deadline, "the page did not come up"
            time.sleep(0.02)


def _all_pictures(client: Client, count: int) -> list[str]:
    shown: list[str] = []
    while len(shown) < count:
        shown += client.next(min(50, count - len(shown)), tuple(shown))
    return shown


@pytest.mark.live
def test_the_page_answers_within_a_second_of_its_start(make_platform: MakePlatform, tmp_path: Path):
    platform = make_platform()
    stage(platform, 0, [picture_of(number, 16) for number in range(5)])
    port = free_port(0)
    config = tmp_path / "al.toml"
    config.write_text(f'home = "home"\n[labeling_page]\nport = {port}\n')
    begun = time.monotonic()
    server = subprocess.Popen([sys.executable, "-m", "al_cli.main", "--config", str(config), "label"], stdout=-1)
    try:
        while True:
            try:
                assert httpx.get(f"http://127.0.0.1:{port}/").status_code == 200
                break
            except httpx.TransportError:
                time.sleep(0.02)
        seconds = time.monotonic() - begun
    finally:
        server.kill()
        server.communicate(timeout=10)
    print(f"al label answered after {seconds:.2f} s")
    assert seconds < 20  # 1 s on a machine that does nothing else; benchmarks measure it
