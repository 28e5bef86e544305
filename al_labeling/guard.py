"""Who may come in: links and cookies that are signed, or the login of Azure in front of the page.

A link carries a name and a signature over it. It is exchanged at once for a cookie that scripts cannot read and that
other sites' requests do not carry, and the browser is sent on to an address without it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from ipaddress import ip_network
from pathlib import Path
from urllib.parse import urlencode, urlsplit

from starlette.requests import Request
from starlette.responses import Response

from al_core.errors import ActiveLearningError
from al_resources.settings.labeling_page import LabelingPageSettings
from al_serving.guard import LOOPBACK, cookie_name, exchanged, host_problem, is_from, page_problem, same_secret

COOKIE_SECONDS = 30 * 24 * 3600
PAGE_HEADER = "x-al-page"  # another site's form cannot send it
LONGEST_NAME = 200
ENTRA_NAME, ENTRA_PROVIDER = "x-ms-client-principal-name", "x-ms-client-principal-idp"
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}


class Refused(ActiveLearningError):
    """A request that is not answered, with its HTTP status."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Guard:
    """Knows people by their cookie or by the platform's header, and refuses what other sites send."""

    def __init__(self, settings: LabelingPageSettings, secret: bytes, *, now: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._secret = secret
        self._now = now
        self._proxies = [ip_network(network) for network in settings.trusted_proxies]
        public = urlsplit(settings.public_url).hostname
        self.hosts = [*LOOPBACK, *([public] if public else [])]

    def link(self, address: str, name: str) -> str:
        """The link by which one person comes in. Whoever has it labels under that name."""
        query = urlencode({"name": checked_name(name), "token": self._sign("link", name)})
        return f"{address}/enter?{query}"

    def enter(self, name: str, token: str) -> str:
        """The cookie that a link is exchanged for. Raises `Refused`."""
        if not same_secret(token, self._sign("link", name)):
            raise Refused(403, "this link is not valid; ask for a new one: `al label --for NAME` prints it")
        end = str(int(self._now()) + COOKIE_SECONDS)
        name64 = base64.urlsafe_b64encode(name.encode()).decode()
        return f"{end}.{name64}.{self._sign('cookie', end, name)}"

    def let_in(self, request: Request, cookie: str) -> Response:
        """A page that keeps the cookie and goes on to the address without the token."""
        round_ = request.query_params.get("round", "")
        target = f"/?round={round_}" if round_.isdecimal() else "/"
        secure = request.url.scheme == "https" or self._settings.public_url.startswith("https:")
        return exchanged(target, cookie_name(request, "label"), cookie, secure=secure, seconds=COOKIE_SECONDS)

    def person(self, request: Request) -> str:
        """Who asks. Raises `Refused`."""
        if self._settings.login == "entra":
            return self._of_platform(request)
        return self._of_cookie(request.cookies.get(cookie_name(request, "label"), ""))

    def refuse_strangers(self, request: Request) -> None:
        """Requests for another host, of another site's page, or that write and are not the page's. Raises `Refused`."""
        if problem := host_problem(request.headers, self.hosts):
            raise Refused(421, problem)
        if problem := "" if request.method == "GET" and _is_navigation(request) else page_problem(request.headers):
            raise Refused(403, problem)
        if request.method != "GET" and request.headers.get(PAGE_HEADER) is None:
            raise Refused(403, f"the header {PAGE_HEADER} is missing; only the page itself may write")

    def _of_platform(self, request: Request) -> str:
        """The name that the login before the page vouches for; anybody could send its header to the page itself."""
        client = request.client.host if request.client else ""
        if not is_from(client, self._proxies):
            raise Refused(403, f"{client!r} is not the login before this page (labeling_page.trusted_proxies)")
        name, provider = request.headers.get(ENTRA_NAME, ""), request.headers.get(ENTRA_PROVIDER, "")
        if provider != "aad" or not name:
            raise Refused(401, "nobody is logged in; switch the built-in login of Azure on and require it")
        return checked_name(name)

    def _of_cookie(self, cookie: str) -> str:
        try:
            end, name64, signature = cookie.split(".")
            name = base64.urlsafe_b64decode(name64).decode()
            good = same_secret(signature, self._sign("cookie", end, name)) and int(end) > self._now()
        except (ValueError, binascii.Error):
            good = False
        if not good:
            raise Refused(401, "open the link that `al label` printed; it lets this browser in")
        return name

    def _sign(self, *parts: str) -> str:
        return hmac.new(self._secret, "\n".join(parts).encode(), hashlib.sha256).hexdigest()


def checked_name(name: str) -> str:
    """A person's name as it is kept. Raises `Refused`."""
    name = name.strip()
    if not 0 < len(name) <= LONGEST_NAME or not name.isprintable():
        raise Refused(400, f"{name[:50]!r} is no name; expected 1 to {LONGEST_NAME} printable characters")
    return name


def _is_navigation(request: Request) -> bool:
    """Opened by a person, be it by a link on another site's page: it shows, and changes nothing."""
    return request.headers.get("sec-fetch-mode", "navigate") == "navigate" and "origin" not in request.headers


def page_secret(settings: LabelingPageSettings, home: Path) -> bytes:
    """What links and cookies are signed with: of the settings, or of a file that only its owner reads."""
    if given := settings.secret.get_secret_value():
        return given.encode()
    file = home / "labeling_page.secret"
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(8)}")
    try:
        with os.fdopen(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as new:
            new.write(secrets.token_hex(32))
        with suppress(FileExistsError):
            os.link(temporary, file)  # whole, and only if nobody else made one
    finally:
        temporary.unlink(missing_ok=True)
    return file.read_bytes()
