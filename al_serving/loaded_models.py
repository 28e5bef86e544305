"""The models behind the service: loaded, answering in batches, following the endpoint's state."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from al_core.records import utc_now
from al_resources.endpoint import EndpointState
from al_serving.load import PATIENCE, Overloaded
from al_serving.scoring import Answer, ReadImage, RefusedImage, Scorer

LOGGER = logging.getLogger(__name__)
MAX_BATCH = 32  # images predicted together when many wait
LOG_LINES = 50
RELOAD_SECONDS = 5.0  # until a model that could not be loaded is tried again

Images = Sequence[ReadImage | RefusedImage]


class Deployment:
    """One loaded model. Requests queue up while it predicts and are then answered together.

    Nothing is waited for: an idle model takes the single image there is, so batching costs no latency.
    """

    def __init__(self, name: str, scorer: Scorer, *, patience: float = PATIENCE) -> None:
        self.name = name
        self.scorer = scorer
        self.version = scorer.manifest.version
        self.requests = 0
        self.errors = 0
        self.log: deque[str] = deque(maxlen=LOG_LINES)
        self._patience = patience
        self.in_use = 0  # requests that hold it; changed on the event loop only
        self._waiting: queue.SimpleQueue[tuple[Images, Future[list[Answer]], float] | None] = queue.SimpleQueue()
        threading.Thread(target=self._answer_forever, name=f"al-{name}", daemon=True).start()
        self.note(f"version {self.version} loaded")

    def submit(self, images: Images) -> Future[list[Answer]]:
        """The answers to one request's images, when they are there; a future that is cancelled before is dropped.

        It raises `Overloaded` where the model did not come to it within its patience.
        """
        future: Future[list[Answer]] = Future()
        self._waiting.put((images, future, time.monotonic()))
        return future

    def close(self) -> None:
        """End the thread once everything submitted so far is answered."""
        self._waiting.put(None)

    def note(self, line: str) -> None:
        """A line for people, with the time."""
        self.log.append(f"{utc_now():%H:%M:%S} {line}")

    def _answer_forever(self) -> None:
        more = True
        while more:
            requests: list[tuple[Images, Future[list[Answer]]]] = []
            images: list[ReadImage | RefusedImage] = []
            while more and len(images) < MAX_BATCH:
                try:
                    item = self._waiting.get(block=not requests)
                except queue.Empty:
                    break
                if item is None:
                    more = False
                elif self._is_wanted(*item[1:]):
                    requests.append(item[:2])
                    images.extend(item[0])
            if requests:
                self._answer(requests, images)

    def _is_wanted(self, future: Future[list[Answer]], asked: float) -> bool:
        """Whether the client is still there, and was not kept waiting too long to be answered now."""
        if not future.set_running_or_notify_cancel():
            return False
        if time.monotonic() - asked > self._patience:
            future.set_exception(Overloaded(f"images wait longer than {self._patience:g} s for the model"))
            return False
        return True

    def _answer(self, requests: list[tuple[Images, Future[list[Answer]]]], images: Images) -> None:
        try:
            answers = self.scorer.answer(images, "online")
        except Exception as error:  # noqa: BLE001 - every request gets to hear it, and health counts it
            for _, future in requests:
                future.set_exception(error)
            return
        # Meanwhile the next ones are predicted: whoever waits for the disk holds nobody up.
        self.scorer.kept().add_done_callback(partial(_give, requests, answers))


def _give(requests: list[tuple[Images, Future[list[Answer]]]], answers: list[Answer], kept: Future[None]) -> None:
    """Each request its answers, or why they cannot be given."""
    start = 0
    for own, future in requests:
        with suppress(InvalidStateError):  # the client has gone: nobody waits for this one any more
            if (error := kept.exception()) is not None:
                future.set_exception(error)
            else:
                future.set_result(answers[start : start + len(own)])
        start += len(own)


@dataclass(frozen=True)
class Serving:
    """What is served at one moment: a request keeps the one it began with."""

    state: EndpointState
    deployments: dict[str, Deployment] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)  # deployment, or "state", -> why it is not there

    def shares(self) -> dict[str, int]:
        """Traffic of those that are loaded."""
        traffic = self.state.traffic
        return {name: traffic[name] for name in self.deployments if traffic.get(name, 0) > 0}


class Follower:
    """Keeps the served deployments as the endpoint's state says; loading happens beside the requests."""

    def __init__(
        self,
        read_state: Callable[[], EndpointState],
        load: Callable[[int], Scorer],
        *,
        poll_seconds: float,
        patience: float = PATIENCE,
    ) -> None:
        self._read_state = read_state
        self._load = load
        self._poll_seconds = poll_seconds
        self._patience = patience
        self._retry_at = 0.0
        self._retiring: set[asyncio.Task[None]] = set()
        self.serving = Serving(EndpointState(model_name="", revision=-1))

    async def follow(self) -> None:
        """Until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(self._poll_seconds)

    async def look(self) -> None:
        """Read the state once and apply it where it changed."""
        now = self.serving
        try:
            state = await asyncio.to_thread(self._read_state)
        except Exception as error:  # whatever the store raises: what is served goes on being served
            if "state" not in now.problems:
                LOGGER.exception("The endpoint's state cannot be read")
            self.serving = Serving(now.state, now.deployments, {**now.problems, "state": str(error)})
            return
        retry = now.problems and time.monotonic() >= self._retry_at
        if state.revision != now.state.revision or retry:
            await self._apply(state)

    async def _apply(self, state: EndpointState) -> None:
        before = self.serving.deployments
        loaded: dict[str, Deployment] = {}
        problems: dict[str, str] = {}
        for name, version in state.deployments.items():
            if name in before and before[name].version == version:
                loaded[name] = before[name]
                continue
            try:
                loaded[name] = Deployment(name, await asyncio.to_thread(self._load, version), patience=self._patience)
            except Exception as error:  # the others go on; the problem is shown and stops the rollout
                LOGGER.exception("Version %d cannot be loaded as %s", version, name)
                problems[name] = f"version {version} cannot be loaded: {error}"
        self._retry_at = time.monotonic() + RELOAD_SECONDS
        self.serving = Serving(state, loaded, problems)
        LOGGER.info("Revision %d: %s, traffic %s", state.revision, state.deployments, state.traffic)
        for deployment in before.values():
            if deployment not in loaded.values():
                task = asyncio.create_task(_close_when_free(deployment))
                self._retiring.add(task)  # asyncio itself keeps no reference
                task.add_done_callback(self._retiring.discard)


async def _close_when_free(deployment: Deployment) -> None:
    while deployment.in_use:
        await asyncio.sleep(0.05)
    deployment.close()
