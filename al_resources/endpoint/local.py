"""The endpoint on one machine: its state is a file in the blob store, and the scoring service follows it.

Where no service runs, deployments live in this process: they are loaded, verified and scored here, so that a
rollout means the same with and without HTTP.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from al_resources.blobs import BlobStore
from al_resources.endpoint import DeploymentFailed, EndpointState, check_traffic, refuse_with_traffic
from al_resources.endpoint.asking import NotAdmitted, ask
from al_resources.model_registry import ModelRegistry, TamperedModel

if TYPE_CHECKING:
    from al_core.learning.inference import Predictor

LOGGER = logging.getLogger(__name__)
ATTEMPTS = 20  # to write the state while others write it too
POLL_SECONDS = 0.05
ANSWER_SECONDS = 30.0  # the longest a service may take for one answer


class LocalEndpoint:
    """An endpoint as a file `deployments/<endpoint>/state.json`, and the service at `url` where one is alive.

    Every change is a new file `revisions/<n>.json`, which only one writer can create; `state.json` is the
    newest of them, for cheap reading. A writer killed between the two leaves a revision that readers find.
    `caller` is what lets it in at the service, see `asking.caller_of`.
    """

    def __init__(
        self,
        blobs: BlobStore,
        registry: ModelRegistry,
        *,
        model_name: str,
        endpoint: str,
        url: str | None = None,
        caller: Mapping[str, Any] | None = None,
        settle_seconds: float = 60.0,
    ) -> None:
        self._blobs = blobs
        self._registry = registry
        self._model_name = model_name
        self._folder = f"deployments/{endpoint}"
        self._url = url
        self._caller = dict(caller or {})
        self._settle_seconds = settle_seconds
        self._loaded: dict[int, Predictor] = {}
        self._service_seen = False
        self._told: set[str] = set()

    @property
    def address(self) -> str:
        """Where the state lies; a service that follows another one is not ours."""
        return self._blobs.url(f"{self._folder}/state.json")

    def state(self) -> EndpointState:
        """How the endpoint stands now; empty before the first deployment.

        A file that a crash left half is passed over and told: the revision before goes on serving.

        Raises:
            DeploymentFailed: there is a state, and none of it can be read.
        """
        try:
            state = self._read("state.json")
        except FileNotFoundError:
            state = EndpointState(model_name=self._model_name)
        except DeploymentFailed as torn:
            state = self._newest_readable(torn)
        while self._blobs.exists(f"{self._folder}/{_revision_file(state.revision + 1)}"):
            try:
                state = self._read(_revision_file(state.revision + 1))
            except DeploymentFailed as torn:
                self._tell(torn, state)
                state = state.model_copy(update={"revision": state.revision + 1})  # its number is taken
        return state

    def _newest_readable(self, torn: DeploymentFailed) -> EndpointState:
        revisions = [blob.path.rpartition("/")[2] for blob in self._blobs.list(f"{self._folder}/revisions")]
        for name in reversed(revisions):
            try:
                state = self._read(f"revisions/{name}")
            except DeploymentFailed:
                continue
            self._tell(torn, state)
            return state
        raise torn

    def _tell(self, torn: DeploymentFailed, instead: EndpointState) -> None:
        if str(torn) not in self._told:  # the service looks ten times a second
            self._told.add(str(torn))
            LOGGER.warning("%s; going on with revision %d", torn, instead.revision)

    def create(self, deployment: str, model_version: int) -> None:
        """Bring up a deployment without traffic; returns when it is ready. Raises `DeploymentFailed`."""
        self._load(model_version)

        def with_deployment(state: EndpointState) -> EndpointState:
            refuse_with_traffic(state, deployment)
            return state.model_copy(
                update={
                    "deployments": {**state.deployments, deployment: model_version},
                    "traffic": {**state.traffic, deployment: 0},
                }
            )

        revision = self._change(with_deployment).revision
        try:
            self._wait_for_service(revision, deployment)
        except DeploymentFailed:
            self.remove(deployment)
            raise

    def score(self, deployment: str, image: bytes) -> dict[str, Any]:
        """Send one image to that deployment, whatever its traffic. Raises `DeploymentFailed`."""
        if self._service() is None:
            return self._score_here(deployment, image)
        return ask(f"{self._url}/score", deployment, image, seconds=ANSWER_SECONDS, **self._caller)

    def set_traffic(self, traffic: dict[str, int]) -> None:
        """Split the traffic (percent, sum 100; empty: none); returns when the service applied it.

        Raises:
            ValueError: a deployment is unknown, or the shares are no percentages that add up to 100.
            DeploymentFailed: the service does not apply it in time.
        """

        def with_traffic(state: EndpointState) -> EndpointState:
            check_traffic(traffic, state)
            return state.model_copy(update={"traffic": {name: traffic.get(name, 0) for name in state.deployments}})

        self._wait_for_service(self._change(with_traffic).revision)

    def health(self, deployment: str) -> list[str]:
        """What is wrong with it since it came up; empty when nothing is."""
        report = self._service()
        if report is None:
            if self._service_seen:
                return [f"the scoring service at {self._url} is gone"]
            return [] if deployment in self.state().deployments else [f"there is no deployment {deployment}"]
        seen = report["deployments"].get(deployment)
        if seen is None:
            return [report["problems"].get(deployment, f"the service has not loaded {deployment}")]
        if seen["errors"]:
            return [f"{seen['errors']} of {seen['requests']} requests failed", *seen["log"][-1:]]
        return []

    def remove(self, deployment: str) -> None:
        """Take a deployment without traffic away. Raises `DeploymentFailed` while it has some."""

        def without(state: EndpointState) -> EndpointState:
            refuse_with_traffic(state, deployment)
            return state.model_copy(
                update={
                    "deployments": {name: v for name, v in state.deployments.items() if name != deployment},
                    "traffic": {name: share for name, share in state.traffic.items() if name != deployment},
                }
            )

        if deployment not in self.state().deployments:
            return
        changed = self._change(without)
        for version in set(self._loaded) - set(changed.deployments.values()):
            del self._loaded[version]
        self._wait_for_service(changed.revision)

    def logs(self, deployment: str) -> Sequence[str]:
        """The tail of its log."""
        report = self._service()
        if report is None:
            return []
        if (seen := report["deployments"].get(deployment)) is not None:
            return seen["log"]
        return [report["problems"][deployment]] if deployment in report["problems"] else []

    # ------------------------------------------------------------------ state

    def _read(self, name: str) -> EndpointState:
        path = f"{self._folder}/{name}"
        try:
            return EndpointState.model_validate_json(self._blobs.read(path))
        except ValidationError as error:
            raise DeploymentFailed(f"{self._blobs.url(path)} is no endpoint state: {error}") from error

    def _change(self, change: Callable[[EndpointState], EndpointState]) -> EndpointState:
        """Apply `change` to the newest state, again where another writer was faster."""
        for _ in range(ATTEMPTS):
            state = self.state()
            changed = change(state).model_copy(update={"revision": state.revision + 1})
            content = changed.model_dump_json(indent=1).encode()
            if self._blobs.write(f"{self._folder}/{_revision_file(changed.revision)}", content, if_absent=True):
                self._blobs.write(f"{self._folder}/state.json", content)
                return changed
        raise DeploymentFailed(f"{self.address} is changed by others all the time; gave up after {ATTEMPTS} attempts")

    # ------------------------------------------------------------------ the service

    def _service(self) -> dict[str, Any] | None:
        """What the service says of itself, or None where none that follows this endpoint is alive."""
        import httpx  # takes as long as a whole `al status` may

        if self._url is None:
            return None
        try:
            answer = httpx.get(f"{self._url}/health/ready", timeout=5.0, **self._caller)
            report = answer.json()
        except (httpx.ConnectError, httpx.ConnectTimeout):
            return None
        except (httpx.HTTPError, ValueError) as error:
            raise DeploymentFailed(f"the service at {self._url} does not say how it is: {error}") from error
        if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            raise NotAdmitted(f"the service at {self._url} does not let us in: {answer.text[:200]}; set serving.token")
        if not isinstance(report, dict) or report.get("follows") != self.address:
            LOGGER.warning("%s is taken by something that does not follow %s", self._url, self.address)
            return None
        self._service_seen = True
        return report

    def _wait_for_service(self, revision: int, deployment: str | None = None) -> None:
        """Until the service applied `revision`, and loaded `deployment` where one is named."""
        deadline = time.monotonic() + self._settle_seconds
        while (report := self._service()) is not None:
            if report["revision"] >= revision:
                if deployment is not None and deployment in report["problems"]:
                    raise DeploymentFailed(f"{deployment} did not come up: {report['problems'][deployment]}")
                return
            if time.monotonic() > deadline:
                raise DeploymentFailed(
                    f"the service at {self._url} is at revision {report['revision']}, not at {revision}, "
                    f"after {self._settle_seconds:.0f} s"
                )
            time.sleep(POLL_SECONDS)

    # ------------------------------------------------------------------ in this process

    def _load(self, model_version: int) -> Predictor:
        from al_core.learning.inference import Predictor

        if model_version not in self._loaded:
            try:
                self._loaded[model_version] = Predictor.load(self._registry.fetch(model_version))
            except (KeyError, TamperedModel, ValueError, OSError) as error:
                raise DeploymentFailed(f"version {model_version} cannot be loaded: {error}") from error
        return self._loaded[model_version]

    def _score_here(self, deployment: str, image: bytes) -> dict[str, Any]:
        from al_core.images import BadImage, decode_stored_image

        deployments = self.state().deployments
        if deployment not in deployments:
            raise DeploymentFailed(f"there is no deployment {deployment}; there are {sorted(deployments)}")
        predictor = self._load(deployments[deployment])
        try:
            picture = decode_stored_image(image, channels=predictor.manifest.preprocessing.channels)
        except BadImage as error:
            raise DeploymentFailed(f"{deployment} cannot read the image: {error}") from error
        return {
            "labels": list(predictor.classes),
            "probs": predictor.predict([picture])[0].tolist(),
            "model_version": predictor.version,
        }


def _revision_file(revision: int) -> str:
    return f"revisions/{revision:08d}.json"
