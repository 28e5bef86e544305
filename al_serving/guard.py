"""Who may come in: what stands in front of everything that listens on this machine.

A port on loopback is open to every web page in every browser here: a page may send requests to it, and one that
resolves its own name to 127.0.0.1 may read the answers, too. So it is asked which name the request was sent to
(`host_problem`), which page sends it (`page_problem`) and whether the sender knows a secret (`bearer_problem`).
`PageGuard` asks all three in front of pages that people open, WebSockets included; `ServiceGuard` stands in front of
what programs ask. The labeling page knows people by name (`al_labeling.guard`) and asks the same of their requests.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterable, Mapping
from html import escape
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from urllib.parse import parse_qsl, quote, urlencode

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ("127.0.0.1", "localhost")
TOKEN_PARAMETER = "token"
OWN_PAGES = ("same-origin", "none")  # Sec-Fetch-Site: this server's own pages, and what people open themselves


def new_token() -> str:
    """A secret that nobody guesses: 256 bits, fit for a link and for a header."""
    return secrets.token_urlsafe(32)


def link_with(url: str, token: str) -> str:
    """The link that lets a person in; the token leaves the address bar with the first answer."""
    return f"{url}/?{urlencode({TOKEN_PARAMETER: token})}"


def host_problem(headers: Headers, hosts: Collection[str]) -> str:
    """Why a request that was sent to another name than ours is not answered; empty where it was not.

    The port is not compared: behind a forwarded port it is another one, and a page can only choose the name.
    """
    sent_to = headers.get("host", "")
    return "" if _name_of(sent_to) in hosts else f"sent to the host {sent_to[:200]!r}, expected {' or '.join(hosts)}"


def page_problem(headers: Headers) -> str:
    """Why a request that a page of somebody else sends is not answered; empty where none does.

    Browsers name the page in `Origin` or `Sec-Fetch-Site`, pages cannot. Programs send neither.
    """
    origin = headers.get("origin")
    if origin is not None and origin.partition("://")[2] != headers.get("host"):
        return f"requests of web pages from {origin[:200]} are not answered"
    site = headers.get("sec-fetch-site", "none")
    return "" if site in OWN_PAGES else f"requests of other web pages ({site[:20]}) are not answered"


def is_from(peer: str, networks: Iterable[IPv4Network | IPv6Network]) -> bool:
    """Whether the address that is connected lies in one of these networks; what is no address lies in none."""
    try:
        address = ip_address(peer)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None) or address  # what a socket of both families calls an IPv4 client
    return any(mapped in network for network in networks if network.version == mapped.version)


def cookie_name(connection: HTTPConnection, kind: str) -> str:
    """Cookies know no ports: two instances on one machine must not take each other's."""
    port = connection.headers.get("host", "").rpartition(":")[2]
    return f"al_{kind}_{port if port.isdecimal() else 'default'}"


def exchanged(target: str, name: str, value: str, *, secure: bool, seconds: int | None = None) -> Response:
    """The answer to a link: it keeps a cookie and goes on to `target`, an address without the token.

    Scripts cannot read the cookie, and other sites' requests do not carry it. No redirect: browsers do not send a
    strict cookie along one that began on another site's page.
    """
    page = f'<!doctype html><meta http-equiv="refresh" content="0; url={escape(target)}">'
    response = HTMLResponse(page, headers={"cache-control": "no-store", "referrer-policy": "no-referrer"})
    response.set_cookie(name, value, seconds, path="/", secure=secure, httponly=True, samesite="strict")
    return response


def same_secret(sent: str, secret: str) -> bool:
    """Compared in constant time."""
    return secrets.compare_digest(sent.encode(errors="replace"), secret.encode())


class ExtraHeaders:
    """ASGI: every response of the application carries these, which forbid what its pages do not need."""

    def __init__(self, app: ASGIApp, headers: Mapping[str, str]) -> None:
        self._app = app
        self._headers = [(name.encode(), value.encode()) for name, value in headers.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Add the headers to what the application answers."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), *self._headers]}
            await send(message)

        await self._app(scope, receive, send_with_headers)


def bearer_problem(headers: Headers, token: str) -> str:
    """Why a program is not let in; empty where it sends `Authorization: Bearer <token>`."""
    scheme, _, sent = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        return "this needs the header `Authorization: Bearer <token>`"
    return "" if same_secret(sent.strip(), token) else "the token of the header `Authorization` is another one"


class ServiceGuard:
    """ASGI: who may ask a service that programs ask.

    On loopback everybody on this machine who is no web page. With a token only who sends it; with trusted networks
    only the proxy in these, which knows who asks, and this machine itself. `open_paths` are answered to anybody.
    """

    def __init__(
        self, app: ASGIApp, *, token: str = "", trusted_proxy: str = "", open_paths: Collection[str] = ()
    ) -> None:
        self._app = app
        self._token = token
        self._proxies = ip_network(trusted_proxy) if trusted_proxy else None
        self._open = open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or hand on to the application."""
        if scope["type"] != "http" or scope["path"] in self._open:
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        status, problem = self._problem(scope.get("client"), headers)
        if problem:
            response = JSONResponse({"error": problem}, status, {"www-authenticate": "Bearer"} if status == 401 else {})
            await response(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _problem(self, client: tuple[str, int] | None, headers: Headers) -> tuple[int, str]:
        """The status and the reason of a refusal; no reason: let in."""
        peer = client[0] if client else ""
        proxied = self._proxies is not None and is_from(peer, [self._proxies])
        if self._proxies is not None and not proxied and not is_from(peer, _THIS_MACHINE):
            return 403, f"only the proxy at {self._proxies} is answered, this comes from {peer}"
        if self._token:
            return 401, bearer_problem(headers, self._token)
        if proxied:
            return 403, ""
        if problem := host_problem(headers, LOOPBACK):
            return 400, problem
        return 403, page_problem(headers)


class PageGuard:
    """ASGI: lets in who opened the link with the token, once; then a cookie that no other site can use does it.

    The cookie is HttpOnly and SameSite=Strict, and its value is not the token. Programs send the token as bearer.
    A WebSocket is asked the same before it is accepted.
    """

    def __init__(self, app: ASGIApp, token: str, *, way_in: str, hosts: Collection[str] = LOOPBACK) -> None:
        """`way_in` tells people who are refused where the link is; `hosts` are the names that lead here."""
        # kept out of other pages' frames, where clicks can be stolen
        self._app = ExtraHeaders(app, {"x-frame-options": "DENY"})
        self._token = token
        self._way_in = way_in
        self._hosts = hosts
        self._session = new_token()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, refuse, or hand on to the application."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        connection = HTTPConnection(scope)
        headers = connection.headers
        if problem := host_problem(headers, self._hosts):
            await _refuse(scope, receive, send, PlainTextResponse(problem, 421))
        elif self._is_invited(connection):
            await self._let_in(connection)(scope, receive, send)
        elif problem := page_problem(headers):
            await _refuse(scope, receive, send, PlainTextResponse(problem, 403))
        elif not self._is_known(connection):
            await _refuse(scope, receive, send, PlainTextResponse(f"not let in: {self._way_in}", 401))
        else:
            await self._app(scope, receive, send)

    def _is_invited(self, connection: HTTPConnection) -> bool:
        """Opened with the link. Whoever sends a person here, the token is what counts."""
        if connection.scope["type"] != "http" or connection.scope["method"] != "GET":
            return False
        return same_secret(connection.query_params.get(TOKEN_PARAMETER, ""), self._token)

    def _is_known(self, connection: HTTPConnection) -> bool:
        if "authorization" in connection.headers:
            return not bearer_problem(connection.headers, self._token)
        return same_secret(connection.cookies.get(cookie_name(connection, "session"), ""), self._session)

    def _let_in(self, connection: HTTPConnection) -> Response:
        """Exchange the link for the cookie."""
        rest = [pair for pair in parse_qsl(connection.url.query, keep_blank_values=True) if pair[0] != TOKEN_PARAMETER]
        # a path that begins with two slashes would lead to another machine
        target = "/" + quote(connection.url.path.lstrip("/")) + (f"?{urlencode(rest)}" if rest else "")
        secure = connection.url.scheme == "https"
        return exchanged(target, cookie_name(connection, "session"), self._session, secure=secure)


_THIS_MACHINE = (ip_network("127.0.0.0/8"), ip_network("::1/128"))


def _name_of(host: str) -> str:
    """`127.0.0.1:3000` -> `127.0.0.1`, `[::1]:3000` -> `[::1]`."""
    return (host.partition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]).lower()


async def _refuse(scope: Scope, receive: Receive, send: Send, response: Response) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})  # before it is accepted: answered with 403
    else:
        await response(scope, receive, send)
