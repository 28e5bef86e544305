"""The labeling page: HTTP in front of the work queues.

`GET /` is the page itself and holds nothing; pictures and everything below `/api/` need a person (see `guard`). What
changes something is a POST of the page's own. Answers are kept before they are acknowledged, and may be sent again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import socket
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import uvicorn
from pydantic import BaseModel, Field
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from al_core.errors import ActiveLearningError
from al_core.images import BadImage
from al_core.records import utc_now
from al_labeling.guard import HEADERS, Guard, Refused, checked_name, page_secret
from al_labeling.look_alikes import look_alikes
from al_labeling.rounds import Round, Rounds
from al_resources.labeling.answers import EVENT_ID, LONGEST_MS, Answer, Kind, Mode
from al_resources.labeling.class_list import ClassChangeRefused, ClassList
from al_serving.guard import ExtraHeaders

if TYPE_CHECKING:
    from al_resources.labeling import StagedImage
    from al_resources.platform import Platform

LOGGER = logging.getLogger(__name__)
STATIC = Path(__file__).parent / "static"
FILES = {"/page.css": "text/css", "/page.js": "text/javascript", "/outbox.js": "text/javascript"}
MOST_BODY = 1_000_000  # bytes
MOST_PICTURES = 50  # leased at once
MOST_HELD = 10_000  # set aside by one tab
MOST_EVENTS = 1_000
CLASSES_SECONDS = 5.0  # how long a class that another page added may stay unseen
TAB = r"^[0-9a-f-]{8,36}$"


class _Body(BaseModel):
    round: int = Field(ge=0)
    tab: str = Field("00000000", pattern=TAB)


class WantPictures(_Body):
    """Which pictures a tab has in hand, and how many more it wants."""

    want: int = Field(6, ge=0, le=MOST_PICTURES)
    have: list[str] = Field([], max_length=MOST_HELD)


class SentAnswer(BaseModel):
    """One answer as the page sends it."""

    event_id: str = Field(pattern=EVENT_ID)
    picture: str
    kind: Kind
    label: str | None = Field(None, max_length=200)
    undoes: str | None = None
    note: str = Field("", max_length=2_000)
    milliseconds: float = Field(0, ge=0)
    mode: Mode = "single"
    prediction_seen: bool = False


class SentAnswers(_Body):
    """Answers in the order in which they were given."""

    answers: list[SentAnswer] = Field(max_length=MOST_EVENTS)


class HandBack(_Body):
    """Pictures that a tab will not answer."""

    pictures: list[str] = Field(max_length=MOST_HELD)


class WantChange(BaseModel):
    """A change of the classes; without `confirmed` it is only told what it would do."""

    kind: Literal["add", "rename", "merge"]
    name: str
    into: str | None = None
    confirmed: bool = False


Body = TypeVar("Body", bound=BaseModel)


class LabelingPage:
    """The state of one running page and its routes."""

    def __init__(self, platform: Platform, guard: Guard, secret: bytes) -> None:
        self._platform = platform
        self._settings = platform.settings.labeling_page
        self._guard = guard
        self._rounds = Rounds(platform, self._settings, secret)
        self._lock = threading.Lock()
        self._newest = utc_now()
        self._classes: tuple[float, ClassList] | None = None

    def app(self) -> Starlette:
        """The ASGI application."""
        routes = [
            Route("/", self._shell),
            *(Route(path, self._file) for path in FILES),
            Route("/enter", self._enter),
            Route("/picture/{picture}", self._picture),
            Route("/api/session", self._session),
            Route("/api/prediction", self._prediction),
            self._post("next", WantPictures, self._next),
            self._post("grid", WantPictures, self._grid),
            self._post("answers", SentAnswers, self._answers),
            self._post("hand_back", HandBack, self._hand_back),
            self._post("release", _Body, self._release),
            self._post("classes", WantChange, self._change),
            Route("/health/live", lambda request: JSONResponse({"status": "live"})),
        ]
        handlers = {ActiveLearningError: _problem}
        return Starlette(routes=routes, middleware=[Middleware(ExtraHeaders, HEADERS)], exception_handlers=handlers)

    # ------------------------------------------------------------------ what is shown
    async def _shell(self, request: Request) -> Response:
        self._guard.refuse_strangers(request)
        return FileResponse(STATIC / "page.html", headers={"cache-control": "no-cache"})

    async def _file(self, request: Request) -> Response:
        self._guard.refuse_strangers(request)
        path = request.url.path
        return FileResponse(STATIC / path[1:], media_type=FILES[path], headers={"cache-control": "no-cache"})

    async def _enter(self, request: Request) -> Response:
        """The link: exchanged for a cookie."""
        self._guard.refuse_strangers(request)
        name = checked_name(request.query_params.get("name", ""))
        return self._guard.let_in(request, self._guard.enter(name, request.query_params.get("token", "")))

    async def _picture(self, request: Request) -> Response:
        self._person(request)
        number, _, opaque = request.path_params["picture"].partition("-")
        found = await run_in_threadpool(self._rounds.get, int(number)) if number.isdecimal() else None
        image = found.pictures.image_of(opaque) if found else None
        if found is None or image is None:
            raise Refused(404, "there is no such picture in this round")
        small = "small" in request.query_params
        try:
            data, kind = await run_in_threadpool(found.pictures.show, image, small=small)
        except BadImage as error:
            raise Refused(422, f"the picture cannot be shown: {error.reason}") from error
        except FileNotFoundError as error:
            raise Refused(410, "the picture is gone from the staged round") from error
        return Response(data, media_type=kind, headers={"cache-control": "private, max-age=86400, immutable"})

    async def _session(self, request: Request) -> Response:
        """Who labels what: name, rounds, classes, progress."""
        name = self._person(request)
        return JSONResponse(await run_in_threadpool(self._session_facts, name, request.query_params))

    def _session_facts(self, name: str, query: Any) -> dict[str, Any]:
        tab = query.get("tab", "")
        numbers = self._rounds.numbers()
        asked = query.get("round", "")
        number = int(asked) if asked.isdecimal() and int(asked) in numbers else self._rounds.newest_open_to(name, tab)
        facts: dict[str, Any] = {
            "name": name,
            "rounds": numbers,
            "round": number,
            **_told(self._class_list(fresh=True)),
            "overlap": self._settings.overlap,
            "auto_release": self._settings.auto_release,
        }
        if number is not None:
            facts["progress"] = self._round(number).queue.facts(name)
        return facts

    async def _prediction(self, request: Request) -> Response:
        """What the model says of a picture, for who asks; the answer keeps that it was seen."""
        self._person(request)
        number = request.query_params.get("round", "")
        found = self._round(int(number) if number.isdecimal() else -1)
        image = self._image(found, request.query_params.get("picture", ""))
        predictions = await run_in_threadpool(lambda: found.predictions)
        return JSONResponse(
            {
                "label": predictions.labels.get(image.image_id),
                "confidence": predictions.confidence.get(image.image_id),
            }
        )

    # ------------------------------------------------------------------ what the page asks for and sends
    def _post(self, name: str, schema: type[Body], handler: Callable[[str, Body], dict[str, Any]]) -> Route:
        """A route that reads a body, knows its sender and works in a thread."""

        async def route(request: Request) -> Response:
            person = self._person(request)
            body = await _body_of(request, schema)
            return JSONResponse(await run_in_threadpool(handler, person, body))

        return Route(f"/api/{name}", route, methods=["POST"])

    def _next(self, name: str, body: WantPictures) -> dict[str, Any]:
        """More pictures for a tab."""
        found = self._round(body.round)
        have = {image.image_id for opaque in body.have if (image := found.pictures.image_of(_opaque(opaque)))}
        images = found.queue.next(name, body.tab, body.want, have)
        facts = {"progress": found.queue.facts(name), "classes_tag": _tag(self._class_list())}
        return self._shown(found, images) | facts

    def _grid(self, name: str, body: WantPictures) -> dict[str, Any]:
        """Pictures that look alike, for one screen."""
        found = self._round(body.round)
        found.queue.refresh()
        set_aside = {image.image_id for opaque in body.have if (image := found.pictures.image_of(_opaque(opaque)))}
        open_ids = [image_id for image_id in found.queue.open_to(name, body.tab) if image_id not in set_aside]
        alike = look_alikes(open_ids, found.predictions, body.want)
        return self._shown(found, found.queue.take(name, body.tab, alike)) | {"progress": found.queue.facts(name)}

    def _answers(self, name: str, body: SentAnswers) -> dict[str, Any]:
        """Keep answers. What cannot be kept is told with its reason, and the others are kept all the same."""
        found = self._round(body.round)
        refused = {}
        for sent in body.answers:
            try:
                found.queue.record(self._answer(found, name, sent))
            except Refused as error:
                refused[sent.event_id] = str(error)
        kept = [sent.event_id for sent in body.answers if sent.event_id not in refused]
        facts: dict[str, Any] = {"kept": kept, "refused": refused, "progress": found.queue.facts(name)}
        if self._settings.auto_release and kept and found.queue.is_done():
            facts["released"] = self._released(found)
        return facts

    def _answer(self, found: Round, name: str, sent: SentAnswer) -> Answer:
        """Raises `Refused`."""
        image = self._image(found, sent.picture)
        label = None
        if sent.kind == "label":
            label = self._checked_label(sent.label)
        elif sent.kind == "undo":
            self._check_undo(found, name, sent, image)
        return Answer(
            event_id=sent.event_id,
            round=found.queue.round,
            image_id=image.image_id,
            annotator=name,
            kind=sent.kind,
            label=label,
            undoes=sent.undoes if sent.kind == "undo" else None,
            note=sent.note,
            at=self._later(),
            milliseconds=min(int(sent.milliseconds), LONGEST_MS),
            mode=sent.mode,
            prediction_seen=sent.prediction_seen,
        )

    def _checked_label(self, label: str | None) -> str:
        classes = self._class_list()
        current = classes.current(label or "")
        if current not in classes.names:
            classes = self._class_list(fresh=True)  # another page may have added it just now
            current = classes.current(label or "")
        if current not in classes.names:
            raise Refused(400, f"{label!r} is no class; choose one of the list, or add it first")
        return current

    def _check_undo(self, found: Round, name: str, sent: SentAnswer, image: StagedImage) -> None:
        undone = found.queue.log.find(sent.undoes or "")
        if undone is None:
            found.queue.refresh(force=True)
            undone = found.queue.log.find(sent.undoes or "")
        if undone is None or undone.annotator != name or undone.image_id != image.image_id:
            raise Refused(400, "only an own answer for this picture can be taken back")

    def _hand_back(self, name: str, body: HandBack) -> dict[str, Any]:
        """A tab was closed, or left the grid: its pictures are free at once."""
        found = self._round(body.round)
        known = [image.image_id for opaque in body.pictures if (image := found.pictures.image_of(_opaque(opaque)))]
        found.queue.hand_back(name, body.tab, known)
        return {"handed_back": len(known)}

    def _release(self, name: str, body: _Body) -> dict[str, Any]:
        """Write what stands into the inbox; what is open stays open."""
        found = self._round(body.round)
        found.queue.refresh(force=True)
        LOGGER.info("%r releases round %d", name, body.round)
        return {"released": self._released(found), "progress": found.queue.facts(name)}

    def _released(self, found: Round) -> dict[str, Any]:
        from al_resources.labeling.releases import NothingToRelease, release_round

        try:
            release = release_round(self._platform.blobs, found.queue.round, found.queue.log, self._class_list())
        except NothingToRelease as error:
            raise Refused(409, str(error)) from error
        return {"path": release.path, "labels": release.labels, "new": release.new}

    def _change(self, name: str, body: WantChange) -> dict[str, Any]:
        """Add, rename or merge a class, once it was told what that does to standing labels."""
        from al_resources.labeling.class_changes import labels_on_the_page, make_class_change, plan_class_change

        blobs, settings = self._platform.blobs, self._platform.settings.labeling
        try:
            planned = plan_class_change(blobs, self._platform.ledgers, settings, body.kind, body.name, body.into, name)
            logs = (self._round(number).queue.log for number in self._rounds.numbers())
            facts = {"merged_labels": planned.labels, "labels_here": labels_on_the_page(planned, logs)}
            if not body.confirmed:
                return _told(planned.before) | facts
            done = make_class_change(blobs, planned)
        except ClassChangeRefused as error:
            raise Refused(409, str(error)) from error
        self._classes = (time.monotonic(), done.classes)
        return _told(done.classes) | facts

    # ------------------------------------------------------------------ helpers
    def _person(self, request: Request) -> str:
        self._guard.refuse_strangers(request)
        return self._guard.person(request)

    def _round(self, number: int) -> Round:
        found = self._rounds.get(number)
        if found is None:
            raise Refused(404, f"round {number} is not staged; choose one of {self._rounds.numbers()}")
        return found

    def _image(self, found: Round, opaque: str) -> StagedImage:
        image = found.pictures.image_of(_opaque(opaque))
        if image is None:
            raise Refused(404, f"there is no such picture in round {found.queue.round}")
        return image

    def _shown(self, found: Round, images: list[StagedImage]) -> dict[str, Any]:
        """What the page may know of its pictures: neither why they were chosen, nor what a model says."""
        number = found.queue.round
        return {"pictures": [f"{number}-{found.pictures.opaque(image.image_id)}" for image in images]}

    def _class_list(self, *, fresh: bool = False) -> ClassList:
        """The classes in force, read again every few seconds."""
        if fresh or self._classes is None or time.monotonic() - self._classes[0] > CLASSES_SECONDS:
            from al_resources.labeling.class_changes import classes_in_force

            platform = self._platform
            found = classes_in_force(platform.blobs, platform.ledgers, platform.settings.labeling)
            self._classes = (time.monotonic(), found)
        return self._classes[1]

    def _later(self) -> datetime:
        """The time, later than all that it gave before: answers keep the order in which they were sent."""
        with self._lock:
            self._newest = max(utc_now(), self._newest + timedelta(microseconds=1))
            return self._newest


def _told(classes: ClassList) -> dict[str, Any]:
    """The classes as the page has them, and a mark by which it sees that somebody changed them."""
    return {"classes": classes.names, "classes_tag": _tag(classes)}


def _tag(classes: ClassList) -> str:
    return hashlib.sha256(json.dumps(classes.names).encode()).hexdigest()[:16]


def _opaque(picture: str) -> str:
    """The page names a picture by round and opaque id."""
    return picture.partition("-")[2]


async def _body_of(request: Request, schema: type[Body]) -> Body:
    data = b""
    async for chunk in request.stream():
        data += chunk
        if len(data) > MOST_BODY:
            raise Refused(413, f"the request is larger than {MOST_BODY:,} bytes")
    try:
        return schema.model_validate(json.loads(data))
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"not what the page sends: {str(error)[:500]}") from error


async def _problem(request: Request, error: Exception) -> Response:
    status = error.status if isinstance(error, Refused) else 409
    return JSONResponse({"error": str(error)}, status)


class PageNotPossible(ActiveLearningError):
    """The page cannot be opened as asked."""


def page_of(platform: Platform) -> tuple[LabelingPage, Guard]:
    """The labeling page of a platform, not yet listening, and who lets people in."""
    secret = page_secret(platform.settings.labeling_page, platform.settings.home)
    guard = Guard(platform.settings.labeling_page, secret)
    return LabelingPage(platform, guard, secret), guard


def server_of(platform: Platform) -> tuple[uvicorn.Server, Guard]:
    """The page's server, not yet started, and who lets people in."""
    page, guard = page_of(platform)
    config = uvicorn.Config(
        page.app(),
        log_level="warning",
        access_log=False,  # a link's token must not end up in a log
        proxy_headers=False,  # who asks is whoever is connected; a header could claim anything
        timeout_graceful_shutdown=5,
        server_header=False,
    )
    return uvicorn.Server(config), guard


def run_page(
    platform: Platform,
    *,
    host: str | None = None,
    port: int | None = None,
    ready: Callable[[str, Guard], None] = lambda address, guard: None,
) -> None:
    """Serve until SIGINT or SIGTERM; `ready` gets the address once it is bound (port 0 takes any free one).

    Raises:
        PageNotPossible: others could reach it, and nobody said under which name.
        OSError: the port is taken.
    """
    settings = platform.settings.labeling_page
    host, port = host or settings.host, settings.port if port is None else port
    if host not in ("127.0.0.1", "localhost") and not settings.public_url:
        raise PageNotPossible(
            f"labeling_page.host is {host!r}, so others can reach the page: set labeling_page.public_url to the "
            "address they use, with a proxy before it that speaks https"
        )
    with socket.create_server((host, port), backlog=256) as listener:
        server, guard = server_of(platform)
        ready(settings.public_url or f"http://{host}:{listener.getsockname()[1]}", guard)
        server.run(sockets=[listener])
