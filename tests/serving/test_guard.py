"""Who may come in: the guard in front of pages that people open on this machine."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from al_serving.guard import PageGuard, bearer_problem, host_problem, link_with, new_token, page_problem

TOKEN = "right"
HERE = "http://127.0.0.1:3000"
BEARER = {"authorization": f"Bearer {TOKEN}"}


async def answer(request: Request) -> PlainTextResponse:
    return PlainTextResponse(f"secret {request.url.query}")


async def talk(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text("secret")
    await websocket.close()


@pytest.fixture
def client() -> TestClient:
    app = Starlette(routes=[Route("/{path:path}", answer, methods=["GET", "POST"]), WebSocketRoute("/ws", talk)])
    return TestClient(PageGuard(app, TOKEN, way_in="open the link"), base_url=HERE, follow_redirects=False)


def test_the_link_lets_a_person_in_and_the_cookie_does_from_then_on(client: TestClient) -> None:
    assert client.get("/").status_code == 401
    welcome = client.get(link_with(HERE, TOKEN))
    cookie = welcome.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert TOKEN not in cookie
    assert client.get("/runs?page=2").text == "secret page=2"


def test_the_token_leaves_the_address_and_the_rest_stays(client: TestClient) -> None:
    page = client.get(f"/runs/7?view=a%26b&token={TOKEN}").text
    assert "url=/runs/7?view=a%26b" in page
    assert TOKEN not in page


def test_the_welcome_page_leads_nowhere_else(client: TestClient) -> None:
    for path in ("//evil.example/x", "/%22onload=x", "/<script>"):
        page = client.get(f"{HERE}{path}?token={TOKEN}").text
        assert "url=//" not in page
        assert page.count('"') == 4
        assert "<script>" not in page


def test_a_program_sends_the_token_as_bearer(client: TestClient) -> None:
    assert client.post("/graphql", headers=BEARER).status_code == 200
    assert client.post("/graphql", headers={"authorization": "Bearer wrong"}).status_code == 401


@pytest.mark.parametrize("wrong", ["", "wrong", "é", TOKEN + "x"])
def test_another_token_lets_nobody_in(client: TestClient, wrong: str) -> None:
    assert client.get("/", params={"token": wrong}).status_code == 401
    assert client.get("/").status_code == 401


def test_a_name_that_was_made_to_lead_here_is_not_answered(client: TestClient) -> None:
    client.get(link_with(HERE, TOKEN))
    for name in ("evil.example", "evil.example:3000", "127.0.0.1.evil.example", ""):
        assert client.get("/", headers={"host": name} | BEARER).status_code == 421


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9999"},
        {"origin": "http://["},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_a_page_in_another_tab_is_not_answered_even_with_the_cookie(
    client: TestClient, headers: dict[str, str]
) -> None:
    client.get(link_with(HERE, TOKEN))
    assert client.get("/graphql?query=mutation", headers=headers).status_code == 403
    assert client.post("/graphql", headers=headers | {"content-type": "text/plain"}).status_code == 403


def test_the_pages_own_requests_are_answered(client: TestClient) -> None:
    client.get(link_with(HERE, TOKEN))
    answer = client.post("/graphql", headers={"origin": HERE, "sec-fetch-site": "same-origin"})
    assert answer.status_code == 200
    assert answer.headers["x-frame-options"] == "DENY"


def test_the_link_works_from_a_chat_or_a_terminal_in_a_browser(client: TestClient) -> None:
    assert client.get(link_with(HERE, TOKEN), headers={"sec-fetch-site": "cross-site"}).status_code == 200


def test_a_websocket_is_asked_the_same(client: TestClient) -> None:
    def says(**headers: str) -> str:
        with client.websocket_connect(f"ws{HERE[4:]}/ws", headers=headers) as socket:
            return socket.receive_text()

    with pytest.raises(WebSocketDisconnect):
        says()
    with pytest.raises(WebSocketDisconnect):
        says(origin="http://evil.example", **BEARER)
    assert says(**BEARER) == "secret"
    client.get(link_with(HERE, TOKEN))
    assert says(origin=HERE) == "secret"
    with pytest.raises(WebSocketDisconnect):
        says(origin="http://127.0.0.1:9999")


def test_two_instances_on_one_machine_keep_their_cookies_apart(client: TestClient) -> None:
    first = client.get(link_with(HERE, TOKEN)).headers["set-cookie"].partition("=")[0]
    second = client.get(link_with(HERE, TOKEN), headers={"host": "127.0.0.1:3001"}).headers["set-cookie"]
    assert second.partition("=")[0] != first


@given(st.text(max_size=40))
def test_no_header_whatever_it_holds_breaks_a_check(text: str) -> None:
    raw = text.encode("utf-8", "replace")
    headers = Headers(raw=[(name, raw) for name in (b"host", b"origin", b"authorization", b"sec-fetch-site")])
    for problem in (host_problem(headers, ["localhost"]), bearer_problem(headers, new_token())):
        assert isinstance(problem, str)
    assert isinstance(page_problem(headers), str)
