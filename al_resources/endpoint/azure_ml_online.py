"""The endpoint as a managed online endpoint of Azure ML: colours are deployments, traffic is a property of it."""

from __future__ import annotations

import contextlib
import math
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from al_core.records import utc_now
from al_resources.azure.request_metrics import request_counts
from al_resources.azure.workspace import (
    DATA_SCIENTIST,
    SCORING_SCRIPT,
    Arm,
    WorkspaceError,
    asked,
    checked_name,
    code_snapshot,
    environment_of,
    lookup,
    status_text,
)
from al_resources.endpoint import DeploymentFailed, EndpointState, check_traffic, refuse_with_traffic
from al_resources.endpoint.asking import NotAdmitted, ask
from al_resources.settings.azure_ml import AzureMLSettings

if TYPE_CHECKING:
    from azure.ai.ml import MLClient
    from azure.ai.ml.entities import ManagedOnlineDeployment
    from azure.core.polling import LROPoller

ANSWER_SECONDS = 60.0
LOG_LINES = 50
RECENT = timedelta(minutes=10)  # of a deployment that another process created
IN_TRANSITION = {"Creating", "Updating", "Scaling", "Deleting"}
NOT_THERE = "not there"
NOT_USABLE = {NOT_THERE, "Failed", "Canceled"}
BUSY_SECONDS = 3600.0  # the longest an endpoint may take for what is being done to it
PROBE_SECONDS = 10

T = TypeVar("T")


class AzureMLOnlineEndpoint:
    """`Endpoint` in a workspace. Every method raises `DeploymentFailed` where Azure refuses or fails.

    While Azure does something to an endpoint it refuses everything else (409), and it goes on when nobody waits for it
    any more. So a change first waits for what an earlier process has begun, and one that is interrupted is waited for
    before the interruption is raised: only then can the rollout go back.

    Health is what Azure Monitor counted as failed (`request_metrics`); its numbers are minutes old, so a step of a
    rollout is watched for minutes here.
    """

    def __init__(
        self,
        client: MLClient,
        arm: Arm,
        settings: AzureMLSettings,
        *,
        model_name: str,
        endpoint: str,
        architecture_of: Callable[[int], str] = lambda version: "",
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._client = client
        self._arm = arm
        self._settings = settings
        self._model_name = checked_name("model", model_name)
        self._endpoint = checked_name("endpoint", endpoint)
        self._architecture_of = architecture_of  # of a version of the model: what its container needs beside the rest
        self._sleep = sleep
        self._created: dict[str, datetime] = {}

    def state(self) -> EndpointState:
        """How the endpoint stands now; empty before the first deployment."""
        what = "looking at the endpoint"
        endpoint = self._done(what, lambda: lookup(what, lambda: self._client.online_endpoints.get(self._endpoint)))
        deployments = {} if endpoint is None else {each.name: _version_of(each.model) for each in self._deployments()}
        shares = {} if endpoint is None else endpoint.traffic or {}
        return EndpointState(
            model_name=self._model_name,
            deployments=deployments,
            traffic={name: shares.get(name, 0) for name in deployments},
        )

    def create(self, deployment: str, model_version: int) -> None:
        """Bring up a deployment without traffic; minutes, and the price of its machines from then on."""
        state = self.state()
        refuse_with_traffic(state, deployment)
        self._create_endpoint()
        began = utc_now()
        with tempfile.TemporaryDirectory(prefix="al-code-") as folder:
            wanted = self._deployment(checked_name("deployment", deployment), model_version, Path(folder))
            self._change(
                f"creating {deployment} with version {model_version}",
                lambda: self._client.online_deployments.begin_create_or_update(wanted),
            )
        self._created[deployment] = began

    def score(self, deployment: str, image: bytes) -> dict[str, Any]:
        """Send one image to that deployment, whatever its traffic."""
        address, key = self.address_and_key()
        headers = {"authorization": f"Bearer {key}"}
        try:
            return ask(address, deployment, image, seconds=ANSWER_SECONDS, headers=headers)
        except NotAdmitted as error:
            raise DeploymentFailed(
                f"{error}; this identity needs the role {DATA_SCIENTIST!r}, or azure_ml.auth has to be 'key'"
            ) from error

    def address_and_key(self) -> tuple[str, str]:
        """Where images are posted to, and what `authorization: Bearer` takes: a key, or a token for some hours."""

        def look() -> tuple[str, str]:
            endpoint = self._client.online_endpoints.get(self._endpoint)
            if endpoint.auth_mode == "aad_token":  # the SDK would ask for one of the public cloud
                return endpoint.scoring_uri, self._arm.token(self._settings.audience)
            keys = self._client.online_endpoints.get_keys(self._endpoint)
            return endpoint.scoring_uri, getattr(keys, "primary_key", None) or keys.access_token

        return self._done("asking for the endpoint's address and key", look)

    def set_traffic(self, traffic: dict[str, int]) -> None:
        """Split the traffic (percent, sum 100; empty: none); returns when Azure applied it.

        Raises:
            ValueError: a deployment is unknown, or the shares are no percentages that add up to 100.
        """
        check_traffic(traffic, self.state())

        def begin() -> LROPoller[Any]:
            endpoint = self._client.online_endpoints.get(self._endpoint)
            endpoint.traffic = traffic
            return self._client.online_endpoints.begin_create_or_update(endpoint)

        self._change(f"shifting the traffic to {traffic}", begin)

    def health(self, deployment: str) -> list[str]:
        """What is wrong with it: not provisioned, or requests that failed since it came up.

        One that is still coming up is waited for: a process that was killed may have left it so.
        """
        provisioning = self._provisioning(deployment)
        if provisioning in IN_TRANSITION:
            self._wait_until_idle()
            provisioning = self._provisioning(deployment)
        if provisioning != "Succeeded":
            return [f"{deployment} is {provisioning}"]
        now = utc_now()
        since = self._created.get(deployment, now - RECENT)
        counts = self._done(
            f"watching {deployment}",
            lambda: request_counts(self._arm, self._endpoint, deployment, since, now),
        )
        problem = counts.problem()
        return [problem, *self.logs(deployment)[-1:]] if problem else []

    def remove(self, deployment: str) -> None:
        """Take a deployment without traffic away."""
        state = self.state()
        refuse_with_traffic(state, deployment)
        if deployment in state.deployments:
            self._change(
                f"removing {deployment}",
                lambda: self._client.online_deployments.begin_delete(deployment, self._endpoint),
            )

    def logs(self, deployment: str) -> Sequence[str]:
        """The tail of its container's log; empty where there is none to be had."""
        from azure.core.exceptions import AzureError

        try:
            text = self._client.online_deployments.get_logs(deployment, self._endpoint, LOG_LINES)
        except AzureError:
            return []  # a deployment that never got a container has no log
        return text.splitlines()

    def _create_endpoint(self) -> None:
        from azure.ai.ml.entities import ManagedOnlineEndpoint

        if self._provisioning() in NOT_USABLE:
            wanted = ManagedOnlineEndpoint(name=self._endpoint, auth_mode=self._settings.auth)
            self._change(
                f"creating endpoint {self._endpoint}",
                lambda: self._client.online_endpoints.begin_create_or_update(wanted),
            )

    def _deployment(self, name: str, model_version: int, folder: Path) -> ManagedOnlineDeployment:
        from azure.ai.ml.entities import (
            CodeConfiguration,
            ManagedOnlineDeployment,
            OnlineRequestSettings,
            ProbeSettings,
        )

        # a container that is not ready after so long has failed, and one that hangs for so long is restarted
        patient = ProbeSettings(
            initial_delay=PROBE_SECONDS,
            period=PROBE_SECONDS,
            timeout=5,
            failure_threshold=math.ceil(self._settings.ready_seconds / PROBE_SECONDS),
            success_threshold=1,
        )
        return ManagedOnlineDeployment(
            name=name,
            endpoint_name=self._endpoint,
            model=f"azureml:{self._model_name}:{model_version}",
            environment=environment_of(self._settings, "scoring", self._architecture_of(model_version)),
            code_configuration=CodeConfiguration(code=str(code_snapshot(folder)), scoring_script=SCORING_SCRIPT),
            environment_variables=self._settings.environment_variables,
            instance_type=self._settings.instance_type,
            instance_count=self._settings.instance_count,
            request_settings=OnlineRequestSettings(request_timeout_ms=30_000, max_concurrent_requests_per_instance=4),
            liveness_probe=patient,
            readiness_probe=patient,
        )

    def _provisioning(self, deployment: str | None = None) -> str:
        """How the endpoint, or one of its deployments, stands in Azure."""

        def look() -> Any:
            if deployment is None:
                return self._client.online_endpoints.get(self._endpoint)
            return self._client.online_deployments.get(deployment, self._endpoint)

        what = f"looking at {deployment or f'endpoint {self._endpoint}'}"
        there = self._done(what, lambda: lookup(what, look))
        return NOT_THERE if there is None else status_text(there.provisioning_state)

    def _deployments(self) -> list[Any]:
        return self._done(
            f"looking at the deployments of endpoint {self._endpoint}",
            lambda: list(self._client.online_deployments.list(self._endpoint)),
        )

    def _wait_until_idle(self) -> None:
        """Until Azure is done with what somebody asked of the endpoint before."""
        deadline = time.monotonic() + BUSY_SECONDS
        while busy := self._in_transition():
            if time.monotonic() > deadline:
                raise DeploymentFailed(f"endpoint {self._endpoint} is busy: {busy} after {BUSY_SECONDS / 60:.0f} min")
            self._sleep(self._settings.poll_seconds)

    def _in_transition(self) -> str:
        """What is being done to the endpoint, empty where nothing is."""
        states = {"the endpoint": self._provisioning()}
        if states["the endpoint"] != NOT_THERE:
            states |= {each.name: status_text(each.provisioning_state) for each in self._deployments()}
        return ", ".join(f"{name} is {state}" for name, state in states.items() if state in IN_TRANSITION)

    def _change(self, what: str, begin: Callable[[], LROPoller[Any]]) -> None:
        """Have Azure do what takes minutes, and wait for it, interrupted or not; see the class."""
        from azure.core.exceptions import AzureError

        self._wait_until_idle()
        operation = self._done(what, begin)
        try:
            self._done(what, operation.result)
        except DeploymentFailed:
            raise
        except BaseException:
            with contextlib.suppress(AzureError):
                operation.wait()
            raise

    def _done(self, what: str, action: Callable[[], T]) -> T:
        """The result of `action`; whatever Azure answers instead becomes `DeploymentFailed` with a sentence."""
        try:
            return asked(what, action)
        except WorkspaceError as error:
            raise DeploymentFailed(str(error)) from error


def _version_of(model: str) -> int:
    """The version at the end of a model's id, short or long."""
    number = re.search(r"(?::|/versions/)(\d+)$", model)
    if number is None:
        raise DeploymentFailed(f"a deployment serves {model!r}, which is no numbered version of a model")
    return int(number.group(1))
