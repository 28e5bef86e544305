"""The scoring service: HTTP in front of the deployments.

`POST /score` answers images, `GET /health/live`, `/health/ready` and `/metrics` say how it goes. The service
follows the endpoint's state; nothing is changed through HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector as MetricsSource
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Message, Receive

from al_core.errors import InvalidInput
from al_resources.endpoint import DEPLOYMENT_HEADER, EndpointState
from al_resources.endpoint.local import LocalEndpoint
from al_serving.collector import Collector, CollectorFull
from al_serving.loaded_models import Deployment, Follower, Serving
from al_serving.payloads import DATASTORE, MAX_IMAGES, BadRequest, SentImage, images_of_bytes
from al_serving.scoring import RefusedImage, Scorer, all_refused

if TYPE_CHECKING:
    from al_resources.blobs import BlobStore
    from al_resources.platform import Platform

LOGGER = logging.getLogger(__name__)
VERSION_HEADER = "al-model-version"
LOOPBACK = ("127.0.0.1", "localhost")
GRACE_SECONDS = 10  # for requests in progress when the service is told to end
BACKLOG = 2048  # connections that wait while the loop is busy
BODY_IMAGES = 5  # a body may be as large as so many of the largest images
POLL_SECONDS = 0.1  # a rollout waits for it at each step
READERS = max(2, min(8, os.cpu_count() or 2))  # threads that decode images
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
        max_image_bytes: int = 20_000_000,
        poll_seconds: float = POLL_SECONDS,
        seed: int | None = None,
    ) -> None:
        self._follower = Follower(read_state, load, poll_seconds=poll_seconds)
        self._collector = collector
        self._datastores = datastores
        self._follows = follows
        self._max_body = BODY_IMAGES * max_image_bytes
        self._random = random.Random(seed)
        self._readers = ThreadPoolExecutor(READERS, "al-reader")
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
        self._metrics.register(_ServiceMetrics(self._follower, collector))

    def app(self) -> Starlette:
        """The ASGI application."""
        return Starlette(
            routes=[
                Route("/score", self.score, methods=["POST"]),
                Route("/health/live", self.live),
                Route("/health/ready", self.ready),
                Route("/metrics", self.metrics),
            ],
            # a web page that resolves its own name to this machine must not reach the service
            middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=list(LOOPBACK))],
            lifespan=self._lifespan,
        )

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        await self._follower.look()  # a champion that is there already serves from the first request on
        following = asyncio.create_task(self._follower.follow())
        yield
        following.cancel()
        self._readers.shutdown()
        if self._collector is not None:
            await asyncio.to_thread(self._collector.close)

    async def score(self, request: Request) -> Response:
        """Answer the images of one request."""
        started = time.perf_counter()
        name = "none"
        try:
            _refuse_other_sites(request)
            deployment = self._choose(request.headers.get(DEPLOYMENT_HEADER))
            name = deployment.name
            deployment.in_use += 1
            try:
                response = await self._score(request, deployment, started)
            finally:
                deployment.in_use -= 1
        except BadRequest as error:
            response = _problem(error.status, error.reason)
        except CollectorFull as error:
            response = _problem(503, str(error), {"retry-after": "5"})
        except ClientDisconnect:
            response = _problem(400, "the client went away")
        except HTTPException as error:  # a form that cannot be parsed
            response = _problem(error.status_code, error.detail)
        self._answered.labels(name, response.status_code).inc()
        self._seconds.labels(name).observe(time.perf_counter() - started)
        return response

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
        sent = await self._sent_images(request)
        loop = asyncio.get_running_loop()
        scorer = deployment.scorer
        images = await asyncio.gather(
            *(loop.run_in_executor(self._readers, scorer.read, image, "online", started) for image in sent)
        )
        refused = [image for image in images if isinstance(image, RefusedImage)]
        self._images.labels("refused").inc(len(refused))
        if len(refused) == len(images):
            raise all_refused(refused)
        deployment.requests += 1
        try:
            answers = await asyncio.wrap_future(deployment.submit(images))
        except CollectorFull:
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

    async def _sent_images(self, request: Request) -> list[SentImage]:
        limited = Request(request.scope, _limited(request.receive, self._max_body))
        content_type = request.headers.get("content-type", "")
        if content_type.startswith("multipart/form-data"):
            return await _form_files(limited)
        body = await limited.body()
        # base64 and stored images take time: not on the event loop
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._readers, images_of_bytes, body, content_type, self._datastores)

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
    """Serve until SIGINT or SIGTERM; `ready` gets the address once it is bound (port 0 takes any free one).

    Raises:
        ValueError: the host is not this machine alone (nothing here asks who sends a request), or the profile's
            endpoint is served elsewhere.
        OSError: the port is taken.
    """
    settings = platform.settings.serving
    host, port = host or settings.host, settings.port if port is None else port
    if host not in LOOPBACK:
        raise InvalidInput(f"serving.host is {host!r}, expected one of {LOOPBACK}; for others put a proxy before it")
    with socket.create_server((host, port), backlog=BACKLOG) as listener:
        server = server_of(platform)
        ready(f"http://{host}:{listener.getsockname()[1]}")
        server.run(sockets=[listener])


def server_of(platform: Platform) -> uvicorn.Server:
    """The platform's scoring service, not yet started. Raises `ValueError` as `run_service` does."""
    if not isinstance(platform.endpoint, LocalEndpoint):
        raise InvalidInput(f"profile {platform.settings.profile!r} serves elsewhere: there is nothing to start here")
    collector = Collector.of(platform)
    service = ScoringService(
        platform.endpoint.state,
        lambda version: Scorer.of(platform, platform.registry.fetch(version), collector),
        collector,
        datastores={DATASTORE: platform.blobs},
        follows=platform.endpoint.address,
        max_image_bytes=platform.settings.serving.max_image_bytes,
        poll_seconds=platform.profile.state_poll_seconds,
    )
    return uvicorn.Server(
        uvicorn.Config(service.app(), log_level="warning", access_log=False, timeout_graceful_shutdown=GRACE_SECONDS)
    )


class _ServiceMetrics(MetricsSource):
    """What is counted elsewhere, read when Prometheus asks."""

    def __init__(self, follower: Follower, collector: Collector | None) -> None:
        self._follower = follower
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
        metrics: list[Metric] = [version, traffic, errors, revision]
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


def _refuse_other_sites(request: Request) -> None:
    """A web page may post to this machine without asking; its images must not end up in the log."""
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        raise BadRequest(403, f"requests of web pages from {origin} are not answered")


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


def _problem(status: int, reason: str, headers: Mapping[str, str] | None = None) -> Response:
    return JSONResponse({"error": reason}, status, headers)


def _limited(receive: Receive, most: int) -> Receive:
    """`receive` that refuses a body of more than `most` bytes, before it is in memory."""
    seen = 0

    async def limited() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > most:
            raise BadRequest(413, f"the body is larger than {most:,} bytes; send the images one by one")
        return message

    return limited


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
