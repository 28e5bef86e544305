"""The scoring service: HTTP in front of the deployments.

`POST /score` answers images, `POST /log` logs what somebody else's model answered, `GET /health/live`,
`/health/ready` and `/metrics` say how it goes. The service follows the endpoint's state; nothing is changed
through HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector as MetricsSource
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Message, Receive

from al_core.errors import InvalidInput, Unavailable
from al_resources.endpoint import DEPLOYMENT_HEADER, EndpointState
from al_resources.endpoint.local import LocalEndpoint
from al_resources.settings.sections import ServingSettings
from al_serving.collector import Collector, CollectorFull
from al_serving.connections import Connections
from al_serving.guard import LOOPBACK, ServiceGuard
from al_serving.load import (
    LARGE_PIXELS,
    MAX_REQUESTS,
    READERS,
    Budget,
    ClientGone,
    Lanes,
    Overloaded,
    unless_gone,
)
from al_serving.loaded_models import Deployment, Follower, Serving
from al_serving.logged_elsewhere import Limits, answers_of, taken
from al_serving.payloads import DATASTORE, MAX_IMAGES, BadRequest, SentImage, images_of_bytes
from al_serving.scoring import LargeImage, ReadImage, RefusedImage, Scorer, all_refused

if TYPE_CHECKING:
    from al_resources.blobs import BlobStore
    from al_resources.platform import Platform

LOGGER = logging.getLogger(__name__)
VERSION_HEADER = "al-model-version"
GRACE_SECONDS = 10  # for requests in progress when the service is told to end
BACKLOG = 2048  # connections that wait while the loop is busy
BODY_IMAGES = 5  # a body may be as large as so many of the largest images
POLL_SECONDS = 0.1  # a rollout waits for it at each step
EXPECTED = (Overloaded, BadRequest, CollectorFull, ClientDisconnect, ClientGone, HTTPException)
SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


class ScoringService:
    """The state of one running service and its routes."""

    def __init__(
        self,
        read_state: Callable[[], EndpointState],
        load: Callable[[int], Scorer],
        collector: Collector | None,
        *,
        datastores: Mapping[str, BlobStore],
        follows: str = "",
        settings: ServingSettings | None = None,
        poll_seconds: float = POLL_SECONDS,
        seed: int | None = None,
    ) -> None:
        settings = settings or ServingSettings()
        self._token, self._proxy = settings.token.get_secret_value(), settings.trusted_proxy
        self.connections = Connections(settings.max_connections, body_seconds=settings.request_seconds)
        self._follower = Follower(read_state, load, poll_seconds=poll_seconds, patience=settings.patience_seconds)
        self._collector = collector
        self._datastores = datastores
        self._follows = follows
        self._max_image = settings.max_image_bytes
        self._max_pixels = max(settings.max_request_pixels, settings.max_image_pixels)
        self._log_limits = Limits(settings.max_image_bytes, settings.max_image_pixels, self._max_pixels)
        self._requests = Budget(MAX_REQUESTS, "requests")
        self._bytes = Budget(settings.max_waiting_bytes, "bytes of requests")
        self._lanes = Lanes(settings.patience_seconds)
        self._random = random.Random(seed)
        self._metrics = CollectorRegistry()
        self._answered = Counter("al_requests", "Answered requests.", ["deployment", "status"], registry=self._metrics)
        self._seconds = Histogram(
            "al_request_seconds",
            "Time of a request.",
            ["deployment"],
            registry=self._metrics,
            buckets=SECONDS,
        )
        self._images = Counter("al_images", "Images by outcome.", ["outcome"], registry=self._metrics)
        self._metrics.register(_ServiceMetrics(self._follower, collector, self.connections))

    def app(self) -> Starlette:
        """The ASGI application."""
        return Starlette(
            routes=[
                Route("/score", self.score, methods=["POST"]),
                Route("/log", self.log, methods=["POST"]),
                Route("/health/live", self.live),
                Route("/health/ready", self.ready),
                Route("/metrics", self.metrics),
            ],
            middleware=[
                Middleware(ServiceGuard, token=self._token, trusted_proxy=self._proxy, open_paths=["/health/live"])
            ],
            lifespan=self._lifespan,
        )

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        await self._follower.look()  # a champion that is there already serves from the first request on
        following = asyncio.create_task(self._follower.follow())
        yield
        following.cancel()
        self._lanes.shutdown()
        if self._collector is not None:
            await asyncio.to_thread(self._collector.close)

    async def score(self, request: Request) -> Response:
        """Answer the images of one request."""
        started = time.perf_counter()
        name = "none"
        try:
            deployment = self._choose(request.headers.get(DEPLOYMENT_HEADER))
            name = deployment.name
            deployment.in_use += 1
            try:
                response = await self._score(request, deployment, started)
            finally:
                deployment.in_use -= 1
        except EXPECTED as error:
            response = _refusal(error)
        self._answered.labels(name, response.status_code).inc()
        self._seconds.labels(name).observe(time.perf_counter() - started)
        return response

    async def log(self, request: Request) -> Response:
        """Log the answers of a model that is served elsewhere; nothing is scored, and no deployment is needed."""
        try:
            response = await self._log(request)
        except EXPECTED as error:
            response = _refusal(error)
        self._answered.labels("log", response.status_code).inc()
        return response

    async def _log(self, request: Request) -> Response:
        collector = self._collector
        if collector is None:
            raise BadRequest(503, "this service keeps no log")
        with self._requests.holding(1), _Body(request.receive, BODY_IMAGES * self._max_image, self._bytes) as body:
            sent = await Request(request.scope, body.receive).body()
            answers = await self._lanes.run(partial(answers_of, sent))
            rows = await self._lanes.run(partial(taken, answers, self._log_limits), large=True)
            collector.offer(rows.predictions)
            for rejection in rows.rejections:
                collector.reject(rejection)
            await asyncio.shield(asyncio.wrap_future(collector.kept()))  # the collector's to complete, never cancelled
        self._images.labels("logged").inc(len(rows.predictions))
        self._images.labels("refused").inc(len(rows.rejections))
        refused = [{"filename": each.name, "error": each.reason} for each in rows.rejections]
        return JSONResponse({"logged": len(rows.predictions), "refused": refused}, 200 if rows.predictions else 422)

    def _choose(self, wanted: str | None) -> Deployment:
        """The deployment that is asked for, or one by its share of the traffic."""
        serving = self._follower.serving
        if wanted is not None:
            if wanted not in serving.deployments:
                raise BadRequest(404, f"there is no deployment {wanted!r}; there are {sorted(serving.deployments)}")
            return serving.deployments[wanted]
        shares = serving.shares()
        if not shares:
            raise BadRequest(503, _why_nothing_serves(serving))
        (name,) = self._random.choices(list(shares), list(shares.values()))
        return serving.deployments[name]

    async def _score(self, request: Request, deployment: Deployment, started: float) -> Response:
        with self._requests.holding(1), _Body(request.receive, BODY_IMAGES * self._max_image, self._bytes) as body:
            sent = await self._sent_images(Request(request.scope, body.receive))
            return await unless_gone(request.receive, self._answer(sent, deployment, started))

    async def _answer(self, sent: list[SentImage], deployment: Deployment, started: float) -> Response:
        images = await self._read(sent, deployment.scorer, started)
        refused = [image for image in images if isinstance(image, RefusedImage)]
        self._images.labels("refused").inc(len(refused))
        if len(refused) == len(images):
            raise all_refused(refused)
        deployment.requests += 1
        try:
            answers = await asyncio.wrap_future(deployment.submit(images))
        except (CollectorFull, Overloaded):
            raise
        except Exception as error:  # whatever a model raises: the request hears it, health counts it
            deployment.errors += 1
            deployment.note(f"{type(error).__name__}: {error}")
            LOGGER.exception("%s (version %d) failed", deployment.name, deployment.version)
            return _problem(500, f"the model failed: {error}", self._named(deployment))
        self._images.labels("answered").inc(len(images) - len(refused))
        return JSONResponse(answers, headers=self._named(deployment))

    def _named(self, deployment: Deployment) -> dict[str, str]:
        return {DEPLOYMENT_HEADER: deployment.name, VERSION_HEADER: str(deployment.version)}

    async def _read(self, sent: list[SentImage], scorer: Scorer, started: float) -> list[ReadImage | RefusedImage]:
        """The images of one request, decoded a few at a time: one with many lets others in between.

        Raises:
            BadRequest: they have more pixels together than a request may have; large ones are not even begun.
            Overloaded: they waited too long for a thread.
        """
        images: list[ReadImage | RefusedImage | LargeImage] = []
        pixels = 0
        for start in range(0, len(sent), READERS):
            few = sent[start : start + READERS]
            read = await asyncio.gather(
                *(self._lanes.run(partial(scorer.read_up_to, LARGE_PIXELS, image, "online", started)) for image in few)
            )
            pixels += sum(_pixels(image) for image in read)
            if pixels > self._max_pixels:
                raise BadRequest(
                    413,
                    f"the images have more than {self._max_pixels:,} pixels together (serving.max_request_pixels); "
                    "send them in several requests",
                )
            images += read
        return [
            await self._lanes.run(partial(scorer.read, image.image, "online", started), large=True)
            if isinstance(image, LargeImage)
            else image
            for image in images
        ]

    async def _sent_images(self, request: Request) -> list[SentImage]:
        content_type = request.headers.get("content-type", "")
        if content_type.startswith("multipart/form-data"):
            return await _form_files(request)
        body = await request.body()
        # base64 and stored images take time: not on the event loop
        return await self._lanes.run(partial(images_of_bytes, body, content_type, self._datastores, self._max_image))

    async def live(self, request: Request) -> Response:
        """The process is there."""
        return JSONResponse({"status": "live"})

    async def ready(self, request: Request) -> Response:
        """Whether requests are answered, and how the deployments stand."""
        serving = self._follower.serving
        log = None if self._collector is None else self._collector.trouble
        ready = bool(serving.shares()) and log is None
        return JSONResponse(
            {
                "status": "ready" if ready else log or _why_nothing_serves(serving),
                "follows": self._follows,
                "model_name": serving.state.model_name,
                "revision": serving.state.revision,
                "traffic": serving.state.traffic,
                "deployments": {name: _report(deployment) for name, deployment in serving.deployments.items()},
                "problems": serving.problems if log is None else {**serving.problems, "log": log},
            },
            200 if ready else 503,
        )

    async def metrics(self, request: Request) -> Response:
        """For Prometheus."""
        return Response(generate_latest(self._metrics), media_type=CONTENT_TYPE_LATEST)


def run_service(
    platform: Platform,
    *,
    host: str | None = None,
    port: int | None = None,
    ready: Callable[[str], None] = lambda address: None,
) -> None:
    """Serve until SIGINT, SIGTERM or SIGHUP; `ready` gets the address once it is bound (port 0 takes any free one).

    Raises:
        InvalidInput: the host is not this machine alone and nobody is asked who they are, or the profile's endpoint
            is served elsewhere.
        Unavailable: the port is taken.
    """
    settings = platform.settings.serving
    host, port = host or settings.host, settings.port if port is None else port
    if host not in LOOPBACK and not settings.token.get_secret_value() and not settings.trusted_proxy:
        raise InvalidInput(
            f"serving.host is {host!r}, where others can ask, too: set a token (AL_SERVING__TOKEN) that clients send, "
            f"or serving.trusted_proxy, the address of the proxy that knows who asks; or listen on {LOOPBACK[0]}"
        )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise Unavailable(
            f"port {port} on {host} cannot be had: {error.strerror}; end what listens there, or name another with "
            "serving.port or --port"
        ) from error
    with listener:
        server = server_of(platform)
        ready(settings.model_copy(update={"host": host, "port": listener.getsockname()[1]}).url)
        with contextlib.suppress(ValueError):  # where this is not the main thread
            signal.signal(signal.SIGHUP, server.handle_exit)
        server.run(sockets=[listener])


def server_of(platform: Platform) -> uvicorn.Server:
    """The platform's scoring service, not yet started. Raises `InvalidInput` as `run_service` does."""
    if not isinstance(platform.endpoint, LocalEndpoint):
        raise InvalidInput(f"profile {platform.settings.profile!r} serves elsewhere: there is nothing to start here")
    collector = Collector.of(platform)
    settings = platform.settings.serving
    service = ScoringService(
        platform.endpoint.state,
        lambda version: Scorer.of(platform, platform.registry.fetch(version), collector),
        collector,
        datastores={DATASTORE: platform.blobs},
        follows=platform.endpoint.address,
        settings=settings,
        poll_seconds=platform.profile.state_poll_seconds,
    )
    return uvicorn.Server(config_of(service, settings))


def config_of(service: ScoringService, settings: ServingSettings) -> uvicorn.Config:
    """How uvicorn runs a service. Raises `OSError` for a certificate that cannot be read."""
    return uvicorn.Config(
        service.app(),
        http=service.connections.protocol,
        ws="none",
        proxy_headers=False,  # who asks is the peer, not what a header says
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
        ssl_certfile=settings.tls_certificate or None,
        ssl_keyfile=settings.tls_key or None,
    )


class _ServiceMetrics(MetricsSource):
    """What is counted elsewhere, read when Prometheus asks."""

    def __init__(self, follower: Follower, collector: Collector | None, connections: Connections) -> None:
        self._follower = follower
        self._connections = connections
        self._collector = collector

    def collect(self) -> list[Metric]:
        serving = self._follower.serving
        version = GaugeMetricFamily("al_deployment_version", "Model version.", labels=["deployment"])
        traffic = GaugeMetricFamily("al_deployment_traffic_percent", "Share of the traffic.", labels=["deployment"])
        errors = CounterMetricFamily("al_deployment_errors", "Failed predictions.", labels=["deployment"])
        for name, deployment in serving.deployments.items():
            version.add_metric([name], deployment.version)
            traffic.add_metric([name], serving.state.traffic.get(name, 0))
            errors.add_metric([name], deployment.errors)
        revision = GaugeMetricFamily("al_endpoint_revision", "Applied revision.", serving.state.revision)
        closed = CounterMetricFamily("al_connections_closed", "Closed by the service.", labels=["why"])
        for why, count in self._connections.closed.items():
            closed.add_metric([why], count)
        metrics: list[Metric] = [version, traffic, errors, revision, closed]
        if self._collector is not None:
            counts = self._collector.counts()
            metrics += [
                GaugeMetricFamily("al_collector_queued_rows", "Rows in memory.", counts.queued),
                GaugeMetricFamily("al_collector_spooled_rows", "Rows on disk.", counts.spooled),
                CounterMetricFamily("al_collector_written_rows", "Rows in the stores.", counts.written),
                CounterMetricFamily("al_collector_failures", "Failed attempts.", counts.failures),
                CounterMetricFamily("al_collector_set_aside_segments", "Refused.", counts.set_aside),
            ]
        return metrics


def _report(deployment: Deployment) -> dict[str, Any]:
    return {
        "version": deployment.version,
        "requests": deployment.requests,
        "errors": deployment.errors,
        "log": list(deployment.log),
    }


def _why_nothing_serves(serving: Serving) -> str:
    if serving.problems:
        return "; ".join(f"{name}: {problem}" for name, problem in serving.problems.items())
    return "no model is deployed yet: the first rollout brings one"


def _refusal(error: Exception) -> Response:
    """How one of the `EXPECTED` is answered."""
    if isinstance(error, Overloaded):
        return _problem(error.status, error.reason, {"retry-after": "1"})
    if isinstance(error, BadRequest):
        return _problem(error.status, error.reason)
    if isinstance(error, CollectorFull):
        return _problem(503, str(error), {"retry-after": "5"})
    if isinstance(error, HTTPException):  # a form that cannot be parsed
        return _problem(error.status_code, error.detail)
    return _problem(400, "the client went away")


def _problem(status: int, reason: str, headers: Mapping[str, str] | None = None) -> Response:
    return JSONResponse({"error": reason}, status, headers)


def _pixels(image: ReadImage | RefusedImage | LargeImage) -> int:
    if isinstance(image, LargeImage):
        return image.pixels
    return image.picture_pixels if isinstance(image, ReadImage) else 0


class _Body:
    """A request's body, refused before it is in memory: too large in itself, or with all that others hold."""

    def __init__(self, receive: Receive, most: int, budget: Budget) -> None:
        self._receive = receive
        self._most = most
        self._budget = budget
        self._taken = 0

    def __enter__(self) -> _Body:
        return self

    def __exit__(self, *error: object) -> None:
        self._budget.give_back(self._taken)

    async def receive(self) -> Message:
        """The next part. Raises `BadRequest` or `Overloaded`."""
        message = await self._receive()
        size = len(message.get("body", b""))
        if self._taken + size > self._most:
            raise BadRequest(413, f"the body is larger than {self._most:,} bytes; send the images one by one")
        self._budget.take(size)
        self._taken += size
        return message


async def _form_files(request: Request) -> list[SentImage]:
    images = []
    async with request.form(max_files=MAX_IMAGES) as form:
        for _, part in form.multi_items():
            if isinstance(part, str):
                continue  # a field that is no file, like a caption
            images.append(SentImage(part.filename or "", await part.read()))
    if not images:
        raise BadRequest(400, "the form holds no file")
    return images
