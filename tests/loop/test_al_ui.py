"""`al ui` as a person has it: what it says, who gets in, and that it leaves nothing behind."""

from __future__ import annotations

import functools
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from playwright.sync_api import sync_playwright

from al_cli.dagster_process import free_port

pytestmark = [pytest.mark.live, pytest.mark.browser, pytest.mark.timeout(300)]

HOSTILE = """<!doctype html><script>
const target = location.hash.slice(1), socket = target.replace("http", "ws") + "/graphql", got = [];
async function attempt(name, what) {
  try { await what(); got.push(name); } catch (error) { /* kept out */ }
}
const text = {method: "POST", credentials: "include", headers: {"content-type": "text/plain"}};
const image = () => new Promise((yes, no) => {
  const picture = new Image(); picture.onload = yes; picture.onerror = no;
  picture.src = target + "/favicon.png?not-in-the-cache";
});
const talk = () => new Promise((yes, no) => {
  const open = new WebSocket(socket, "graphql-ws"); open.onopen = yes; open.onerror = no;
});
(async () => {
  await attempt("read", async () => (await fetch(target + "/server_info", {credentials: "include"})).text());
  await attempt("image", image);
  await attempt("socket", talk);
  await fetch(target + "/graphql", {...text, mode: "no-cors", body: JSON.stringify({query: "{version}"})});
  document.title = "tried: " + got.join(" ");
})();
</script>"""


@dataclass
class RunningUi:
    process: subprocess.Popen[str]
    home: Path
    link: str
    labeling: str  # the link to the labeling page
    first_words_after: float  # seconds

    @property
    def url(self) -> str:
        return self.link.partition("/?")[0]


@pytest.fixture(scope="module")
def ui(tmp_path_factory: pytest.TempPathFactory, al: Callable[..., Any]) -> Iterator[RunningUi]:
    home = tmp_path_factory.mktemp("ui") / "home"
    assert al("init", str(home)).returncode == 0
    command = [sys.executable, "-m", "al_cli.main", "ui", "--home", str(home), "--port", "0"]
    environment = {**os.environ, "AL_SERVING__PORT": str(free_port(0))}
    begun = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    said = process.stdout.readline()
    first_words_after = time.monotonic() - begun
    labeling = ""
    while "Dagster UI" not in said and said:
        said = process.stdout.readline()
        labeling = said.partition("labeling page: ")[2].strip() or labeling
    link = re.search(r"http://127.0.0.1:\d+/\?token=\S+", said)
    assert link, f"no link: {said!r} {(home / 'log' / 'dagster.log').read_text()[-2000:]}"
    yield RunningUi(process, home, link[0], labeling, first_words_after)
    if process.poll() is None:
        process.kill()
    process.wait()


def test_it_says_at_once_what_it_does(ui: RunningUi) -> None:
    assert ui.first_words_after < 5, "a busy machine starts Python slowly, but not so slowly"


def test_nobody_without_the_token_gets_in(ui: RunningUi) -> None:
    query = {"query": "{ version }"}
    assert httpx.get(f"{ui.url}/graphql", params=query).status_code == 401
    assert httpx.post(f"{ui.url}/graphql", json=query).status_code == 401
    assert httpx.get(f"{ui.url}/server_info", headers={"host": "evil.example"}).status_code == 421
    token = ui.link.partition("token=")[2]
    bearer = {"authorization": f"Bearer {token}"}
    assert httpx.post(f"{ui.url}/graphql", json=query, headers=bearer).json()["data"]["version"]


@pytest.mark.parametrize(("key", "said"), [("extra cats", "is no round"), ("14", "type 0014"), ("0014", "")])
def test_a_partition_that_is_no_round_is_refused_where_it_is_typed(ui: RunningUi, key: str, said: str) -> None:
    mutation = """mutation($r: RepositorySelector!, $k: String!) {
      addDynamicPartition(repositorySelector: $r, partitionsDefName: "round", partitionKey: $k) {
        __typename ... on PythonError { message } } }"""
    repository = {"repositoryLocationName": "active_learning", "repositoryName": "__repository__"}
    bearer = {"authorization": f"Bearer {ui.link.partition('token=')[2]}"}
    asked = {"query": mutation, "variables": {"r": repository, "k": key}}
    answer = httpx.post(f"{ui.url}/graphql", json=asked, headers=bearer, timeout=60).json()["data"]
    if said:
        assert answer["addDynamicPartition"]["__typename"] == "PythonError"
        assert said in answer["addDynamicPartition"]["message"]
    else:
        assert answer["addDynamicPartition"]["__typename"] == "AddDynamicPartitionSuccess"


def test_a_page_in_another_tab_reads_and_does_nothing(ui: RunningUi, chromium: str, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text(HOSTILE)
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, sync_playwright() as playwright:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        context = browser.new_context()
        own = context.new_page()
        own.goto(ui.link)
        own.get_by_text("Overview").first.wait_for()  # the pages work for who was let in, WebSocket included
        assert "token" not in own.url
        answers: list[int] = []
        for name in ("127.0.0.1", "localhost"):  # the same site on another port, and another site
            other = context.new_page()
            other.on("response", lambda answer: answers.append(answer.status) if "graphql" in answer.url else None)
            other.goto(f"http://{name}:{server.server_port}/#{ui.url}")
            other.wait_for_function("document.title.startsWith('tried')")
            assert other.title() == "tried:", "what got through stands behind it"
        assert answers
        assert set(answers) == {403}
        browser.close()
        server.shutdown()


def test_the_link_to_the_labeling_page_lets_in(ui: RunningUi) -> None:
    assert httpx.get(ui.labeling).status_code < 400
    assert httpx.get(f"{ui.labeling[:-4]}0000").status_code in (401, 403)


def test_a_second_one_on_the_same_home_is_told_who_is_there(ui: RunningUi, al: Callable[..., Any]) -> None:
    second = al("ui", "--home", str(ui.home), "--port", "0")
    assert second.returncode == 1
    assert f"in use by `al ui` (process {ui.process.pid}" in second.stderr


def test_a_hangup_ends_everything_it_started(ui: RunningUi) -> None:
    started = psutil.Process(ui.process.pid).children(recursive=True)
    assert len(started) >= 4, "scoring service, web server, daemon, code servers"
    ui.process.send_signal(signal.SIGHUP)
    assert ui.process.wait(60) == 128 + signal.SIGHUP
    _, left = psutil.wait_procs(started, timeout=5)
    assert left == []
