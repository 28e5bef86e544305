"""The endpoint: what answers requests, as named deployments (blue, green) that share the traffic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict

from al_core.errors import ActiveLearningError, InvalidInput

DEPLOYMENT_HEADER = "azureml-model-deployment"  # asks for one deployment, as Azure's endpoints name it


class EndpointState(BaseModel):
    """Which model version stands behind which deployment, and how the traffic is split (percent, sum 100)."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    model_name: str
    deployments: dict[str, int] = {}  # name -> model version
    traffic: dict[str, int] = {}  # name -> percent
    revision: int = 0

    @property
    def champion(self) -> str | None:
        """The deployment with most traffic, if any has some."""
        live = {name: share for name, share in self.traffic.items() if share > 0 and name in self.deployments}
        return max(live, key=lambda name: live[name]) if live else None

    @property
    def serving_version(self) -> int | None:
        """The model version that most requests see."""
        return self.deployments[self.champion] if self.champion else None


class Endpoint(Protocol):
    """What every endpoint can do; the rollout itself is in `rollout.py`, the same for all of them."""

    def state(self) -> EndpointState:
        """How the endpoint stands now."""

    def create(self, deployment: str, model_version: int) -> None:
        """Bring up a deployment without traffic; returns when it is ready. Raises `DeploymentFailed`."""

    def score(self, deployment: str, image: bytes) -> dict[str, Any]:
        """Send one image to that deployment, whatever its traffic. Raises `DeploymentFailed`.

        Returns at least {"labels": [...], "probs": [...], "model_version": n}.
        """

    def set_traffic(self, traffic: dict[str, int]) -> None:
        """Split the traffic; returns when it is in force."""

    def health(self, deployment: str) -> list[str]:
        """What is wrong with it since it came up; empty when nothing is."""

    def remove(self, deployment: str) -> None:
        """Take a deployment without traffic away."""

    def logs(self, deployment: str) -> Sequence[str]:
        """The tail of its log."""


class DeploymentFailed(ActiveLearningError):
    """A deployment did not come up or misbehaved; the message says why."""


def check_traffic(traffic: dict[str, int], state: EndpointState) -> None:
    """Raises `ValueError`: the shares do not add up to 100 (or to nothing), or a deployment is unknown."""
    if any(share < 0 for share in traffic.values()) or sum(traffic.values()) != (100 if traffic else 0):
        raise InvalidInput(f"traffic {traffic}: expected percentages that add up to 100")
    if unknown := set(traffic) - set(state.deployments):
        raise InvalidInput(f"no deployment {sorted(unknown)}; there are {sorted(state.deployments)}")


def refuse_with_traffic(state: EndpointState, deployment: str) -> None:
    """Raises `DeploymentFailed` while requests still go to the deployment."""
    if share := state.traffic.get(deployment):
        raise DeploymentFailed(f"{deployment} has {share} % of the traffic; shift it first")
